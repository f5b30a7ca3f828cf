"""What each cell of a script leaves is listed under the question with which it opens."""

from __future__ import annotations

import re

import pytest

from path_patching.files import ROOT
from reproduction.cells import CELLS, cells_not_run
from reproduction.settings import VALIDATION
from reproduction.steps import EXPERIMENTS

LEAVES = re.compile(
    r"run\.save(?:_json)?\(|run\.note\(|note_mean\(|verdicts\.note\(|^(?:save_by_yy|evaluate)\(", re.MULTILINE
)


def opening(cell: str) -> str:
    """The comment with which a cell opens, on one line."""
    lines = re.match(r"(?:#.*\n)+", cell)
    assert lines is not None
    return " ".join(line.lstrip("# %") for line in lines[0].splitlines())


@pytest.mark.parametrize("script", EXPERIMENTS)
def test_every_cell_that_leaves_something_is_listed_by_its_question_and_in_order(script):
    text = (ROOT / f"{script}.py").read_text(encoding="utf-8")
    _, *cells, last = re.split(r"(?m)^(?=# %%)", text)
    assert "run.publish()" in last
    openings = [opening(cell) for cell in cells]
    listed = [next(at for at, each in enumerate(openings) if question in each) for question in CELLS[script]]
    assert listed == sorted({*listed})
    assert {at for at, cell in enumerate(cells) if LEAVES.search(cell)} <= {*listed}


def test_a_run_has_all_its_cells_or_says_which_are_missing():
    cells = {"One?": "one/*", "Two?": "two.pt"}
    assert cells_not_run(cells, ["one/number", "two.pt"], {}) == []
    assert cells_not_run(cells, ["one/number"], {}) == ["Two?"]
    assert cells_not_run(cells, ["one", "two.pt.pt"], {}) == ["One?", "Two?"]


def test_tests_of_the_validation_that_are_not_asked_for_are_not_missing():
    cells = CELLS["circuit_validation"]
    assert [pattern.partition("/")[0] for pattern in cells.values()] == [*VALIDATION]
    assert cells_not_run(cells, ["seeds/verdicts"], {"only": ("seeds",)}) == []
    assert cells_not_run(cells, [], {"only": ["seeds"]}) == ["Is it the same with other sentences?"]
