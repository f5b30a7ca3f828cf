"""The README's pictures, from what `python reproduce.py --model standin` has drawn.

    python examples/pictures.py [FOLDER]

FOLDER is the folder of its figures, paper-plots/standin by default. Each picture is made small enough for a page, and
lies in docs/images, under its figure's name.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from reproduction.command_line import prepare

from plotly.io import read_json

from path_patching.errors import UserError
from path_patching.files import ROOT, written_whole
from reproduction.figures import PLOTLY_DATA
from reproduction.rendering import render
from reproduction.run import read_artifacts
from reproduction.settings import PlotSettings

IMAGES = ROOT / "docs" / "images"
PICTURES = ("circuit", "probability-heatmap")
SCRIPT = "circuit_discovery_plotting"


def main() -> None:
    """Render the pictures anew. Raises `UserError` if the figures are missing, damaged, or not of the stand-in."""
    prepare()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=PlotSettings().plot_folder("standin"))
    drawn = read_artifacts(parser.parse_args().folder, SCRIPT)
    if drawn.record["model"]["name"] != "stand-in":
        raise UserError(f"these figures are of {drawn.record['model']['name']}; the README's are the stand-in's")
    for name in PICTURES:
        figure = read_json(io.StringIO(drawn.check(f"{PLOTLY_DATA}/{name}.json").read_text(encoding="utf-8")))
        with written_whole(IMAGES / f"{name}.png") as partial:
            partial.write_bytes(render(figure, "png"))
        print(IMAGES / f"{name}.png")


if __name__ == "__main__":
    main()
