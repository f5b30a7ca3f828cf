"""docs/walkthrough.ipynb: section 3 of the paper on the stand-in, cell by cell, executed and with pictures.

    python examples/walkthrough.py

Its cells are those of circuit_discovery.py; examples/walkthrough.toml says two sentences of each. It takes a minute,
and leaves nothing but the notebook.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import sys
import tempfile
import tomllib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from reproduction.command_line import prepare

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image

from path_patching.errors import UserError
from path_patching.files import ROOT, write_text

try:
    import jupytext
    from nbclient import NotebookClient
except ImportError as missing:
    raise UserError(f"{missing}; {sys.executable} -m pip install -r {ROOT / 'requirements-dev.txt'}") from None

SCRIPT = ROOT / "circuit_discovery.py"
WORDS = Path(__file__).with_suffix(".toml")
NOTEBOOK = ROOT / "docs" / "walkthrough.ipynb"
OF_SCRIPT = "DiscoverySettings(n=490)"
OF_NOTEBOOK = """DiscoverySettings(
    model="standin", circuit="paper", n=97, engine="torch", device="cpu", out="paper-cache/walkthrough"
)"""
TO_ROOT = "%cd -q .."  # from docs: the cells import modules of the repository
FEWER_COLOURS = {"colors": 256, "method": Image.Quantize.MAXCOVERAGE, "dither": Image.Dither.NONE}  # a third the size


def notebook(settings: str = OF_NOTEBOOK) -> NotebookNode:
    """The notebook before it is run, with these settings: of each cell its question, what is said of it, and its code.

    Raises `UserError` if the words are not those of the script's cells.
    """
    words = tomllib.loads(WORDS.read_text(encoding="utf-8"))
    of_cells, text = words["cells"], SCRIPT.read_text(encoding="utf-8").replace(OF_SCRIPT, settings)
    _, *of_script = jupytext.reads(text, fmt="py:percent").cells  # the first is the docstring
    codes = {question_of(cell): cell.source for cell in of_script}
    if [*codes] != [*of_cells]:
        raise UserError(f"{WORDS.name} does not have the questions of {SCRIPT.name}, in its order; mend it")
    cells = [new_markdown_cell(f"# {words['title']}\n\n{words['introduction'].strip()}")]
    for question, code in codes.items():
        cells.append(new_markdown_cell(f"## {question}\n\n{of_cells[question].strip()}"))
        cells.append(new_code_cell(code if len(cells) > 2 else f"{TO_ROOT}\n{code}"))
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"  # drawn at random otherwise
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


def question_of(cell: NotebookNode) -> str:
    """A cell's title up to its first question mark."""
    question, mark, _ = cell.metadata["title"].partition("?")
    return question.rstrip(".") + mark


def run(made: NotebookNode) -> NotebookNode:
    """The notebook with what its cells print and show: of a figure the picture alone, which is all that GitHub shows.

    Raises `UserError` if a cell complains.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / NOTEBOOK.parent.name
        place.mkdir()
        client = NotebookClient(made, timeout=None, coalesce_streams=True, record_timing=False)
        client.execute(cwd=str(place), env=os.environ | {"PYTHONPATH": str(ROOT)})
    for cell in made.cells:
        if cell.cell_type == "code":
            cell.outputs = [_shown(output) for output in cell.outputs if output.get("text", "said").strip()]
    made.metadata["language_info"] = {"name": "python"}  # without this machine's version
    return made


def _shown(output: NotebookNode) -> NotebookNode:
    if output.get("name") == "stderr":
        raise UserError(f"a cell complains: {output.text.strip()}")
    if "image/png" in output.get("data", {}):
        output.data = {"image/png": _smaller(output.data["image/png"])}
    return output


def _smaller(png: str) -> str:
    """A picture, as base64, with fewer colours."""
    small = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(png))) as picture:
        picture.convert("RGB").quantize(**FEWER_COLOURS).save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def main() -> None:
    """Run the cells, and write the notebook."""
    prepare()
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    write_text(NOTEBOOK, nbformat.writes(run(notebook())) + "\n")
    print(f"{NOTEBOOK}: {NOTEBOOK.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
