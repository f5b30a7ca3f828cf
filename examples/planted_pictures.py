"""The pictures of docs/validation.md: what tests see of circuits that were planted by hand, right and wrong ones.

    python examples/planted_pictures.py

Each lies in docs/images as a small WebP. The models are those of tests/helpers/planted.py.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from reproduction.command_line import prepare

import plotly.graph_objects as go
import torch
from PIL import Image

from benchmarks.calibration import MANY, engine_of, full, planted, scale_of
from path_patching.circuits.validation.faithfulness import Faithfulness, faithfulness
from path_patching.circuits.validation.measuring import Scale
from path_patching.circuits.validation.minimality import minimality
from path_patching.circuits.validation.random_links import beside_random_links
from path_patching.files import ROOT, written_whole
from reproduction.figures import curves, intervals, named
from reproduction.rendering import render
from tests.helpers.planted import END, YY, planted_sentences
from utils import greater_than

WIDTH = 640  # pixels


def measured(variant: str, words: str) -> Faithfulness:
    """What a circuit of heads alone does on a sentence of each of many YYs."""
    engine = engine_of("heads alone").like(planted_sentences(MANY))
    scale = Scale.of(engine, greater_than(MANY))
    return faithfulness(engine, scale, full(planted("heads alone").variants[variant]), words)


def by_year() -> dict[str, go.Figure]:
    """Δ of the circuit alone, and what is left without it, against YY."""
    found = [measured("planted", "as planted"), measured("too few", "a head too few")]
    higher = {each.subject: torch.stack([MANY, each.scores[0] - each.scale.whole], 1) for each in found}
    left = {f"without: {each.subject}": each.scores[1] - each.scale.nothing for each in found}
    left = {name: torch.stack([MANY, each], 1) for name, each in {"the model": found[0].scale.span, **left}.items()}
    return {
        "equivalence": curves(higher, "Is it as often above 0 as below?", "YY", "Δ = s(C) − s(M)"),
        "independence": curves(left, "Does what is left go with what the model does?", "YY", "s − s(∅)"),
    }


def random_links() -> go.Figure:
    """The links of heads alone with one head too many, beside random ones."""
    engine, scale, circuit = engine_of("heads alone"), scale_of("heads alone"), planted("heads alone").too_many
    needed = minimality(engine, scale, full(circuit), YY, END, "")
    found = beside_random_links(engine, scale, circuit, full, needed, YY, END)
    own = torch.tensor(list(found.own.values()))[:, None].expand(-1, 3)
    others = torch.tensor(list(found.others.values())).quantile(torch.tensor([0.5, 0.0, 1.0]), dim=1).T
    rows = named("", [str(link) for link in found.own])
    groups = {"the circuit's link": own, "20 random ones, least to most": others}
    return intervals(groups, "Does each link matter more than random ones?", "δ, change of F", rows)


def figures() -> dict[str, go.Figure]:
    """The figures by name."""
    return {**by_year(), "random-links": random_links()}


def main() -> None:
    """Render the pictures anew."""
    prepare()
    for name, figure in figures().items():
        picture = Image.open(io.BytesIO(render(figure, "png"))).convert("RGB")
        picture.thumbnail((WIDTH, WIDTH))
        with written_whole(ROOT / "docs" / "images" / f"planted-{name}.webp") as partial:
            picture.save(partial, "WEBP", quality=85)
        print(f"docs/images/planted-{name}.webp")


if __name__ == "__main__":
    main()
