"""The notebook in docs is that of the script's cells as they are now, runs, and shows on GitHub."""

from __future__ import annotations

import re

import nbformat
import pytest
from nbformat import NotebookNode

import walkthrough
from path_patching.errors import UserError
from path_patching.files import ROOT


def code_of(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pictures_of(notebook: NotebookNode) -> list[str]:
    """The pictures that its cells show, by their titles."""
    outputs = [output for cell in code_of(notebook) for output in cell.outputs if "data" in output]
    assert [[*output.data] for output in outputs] == [["image/png"]] * len(outputs)
    return [output.metadata["image/png"]["alt"] for output in outputs]


def test_the_notebook_has_the_cells_that_its_command_would_give_it():
    committed, made = nbformat.read(walkthrough.NOTEBOOK, as_version=4), walkthrough.notebook()
    again = "run python examples/walkthrough.py"
    assert [cell.source for cell in committed.cells] == [cell.source for cell in made.cells], again
    assert [cell.execution_count for cell in code_of(committed)] == [*range(1, len(code_of(made)) + 1)], again
    words = [cell.source.partition("\n\n")[2] for cell in made.cells[1:] if cell.cell_type == "markdown"]
    assert {len(re.findall(r"\.(?=\s|$)", said)) for said in words} == {2}


def test_the_notebook_shows_on_github_what_is_the_stand_in_s_and_says_so():
    committed, size = nbformat.read(walkthrough.NOTEBOOK, as_version=4), walkthrough.NOTEBOOK.stat().st_size
    assert size < 1_000_000
    nbformat.validate(committed)
    assert "on the stand-in (not GPT-2)" in committed.cells[0].source.splitlines()[0]
    titles = pictures_of(committed)
    assert len(titles) == 11
    assert all(title.endswith(", stand-in (not GPT-2 small)") for title in titles)
    outputs = [output for cell in code_of(committed) for output in cell.outputs]
    assert {(output.output_type, output.get("name")) for output in outputs} == {
        ("stream", "stdout"),
        ("display_data", None),
    }
    assert not re.search(r"/(?:home|root|tmp|work|Users)/", "".join(output.get("text", "") for output in outputs))


def test_a_cell_of_which_nothing_is_said_is_missed(monkeypatch, tmp_path):
    words = tmp_path / "walkthrough.toml"
    words.write_text(walkthrough.WORDS.read_text().replace('"Which sentences?" =', '"Which model?" ='))
    monkeypatch.setattr(walkthrough, "WORDS", words)
    with pytest.raises(UserError, match="does not have the questions of circuit_discovery"):
        walkthrough.notebook()


@pytest.mark.slow
def test_the_notebook_runs_and_leaves_nothing_where_it_ran():
    few = walkthrough.OF_NOTEBOOK.replace("n=97", "n=2").replace("paper-cache/walkthrough", "tried")
    ran = walkthrough.run(walkthrough.notebook(few))
    assert "Path patching: node at END → logits, stand-in (not GPT-2 small)" in pictures_of(ran)
    assert code_of(ran)[-1].outputs[0].text == "the artifacts and circuit_discovery.json are in tried\n"
    assert not (ROOT / "tried").exists()
