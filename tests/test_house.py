"""The house: what lies at the top, and that imports point one way, down the list of its floors."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from path_patching.files import ROOT
from reproduction.steps import EXPERIMENTS, PLOTS

FLOORS = ("path_patching", "reproduction", "dataset", "utils")  # from the bottom up; scripts stand on all of them
APART = ("color_utils",)  # imports nothing of ours
SCRIPTS = (*EXPERIMENTS, *PLOTS, "reproduce")
SOURCES = [*ROOT.glob("*.py"), *ROOT.glob("path_patching/**/*.py"), *ROOT.glob("reproduction/**/*.py")]


def imported(path: Path) -> set[str]:
    """The top-level names of what a file imports."""
    names = set()
    for statement in ast.walk(ast.parse(path.read_text())):
        if isinstance(statement, ast.ImportFrom):
            names.add(statement.module)
        elif isinstance(statement, ast.Import):
            names |= {alias.name for alias in statement.names}
    return {name.partition(".")[0] for name in names}


def test_nothing_else_lies_at_the_top():
    assert {path.stem for path in ROOT.glob("*.py")} == {*FLOORS[2:], *APART, *SCRIPTS}


@pytest.mark.parametrize("path", sorted(SOURCES), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_down(path):
    own = path.relative_to(ROOT).with_suffix("").parts[0]
    if own in APART:
        forbidden = {*FLOORS, *SCRIPTS}
    elif own in FLOORS:
        forbidden = {*FLOORS[FLOORS.index(own) + 1 :], *SCRIPTS}
    else:
        forbidden = {*SCRIPTS}
    assert imported(path) & forbidden == set()
