"""The house: what lies at the top, and that imports point one way, down the list of its floors."""

from __future__ import annotations

import ast
from dataclasses import fields
from pathlib import Path

import pytest

from path_patching.files import ROOT
from reproduction.settings import Settings
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


def messages(path: Path) -> list[str]:
    """The texts in what a file raises."""
    raised = [each for each in ast.walk(ast.parse(path.read_text())) if isinstance(each, ast.Raise)]
    return [text.value for each in raised for text in ast.walk(each) if isinstance(text, ast.Constant)]


def test_a_message_of_the_method_is_right_in_a_notebook_and_names_no_flag():
    flags = {f"--{field.name.replace('_', '-')}" for field in fields(Settings)} | {"--threshold", "--layer", "--nodes"}
    texts = [str(text) for path in ROOT.glob("path_patching/**/*.py") for text in messages(path)]
    assert len(texts) > 100
    assert [text for text in texts if any(flag in text.split() for flag in flags)] == []


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
