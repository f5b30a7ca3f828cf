"""The house: what lies at the top, and that imports point one way, down the list of its floors."""

from __future__ import annotations

import ast
import sys
import tomllib
from dataclasses import fields
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from path_patching.files import ROOT
from reproduction.experiments import EXPERIMENTS, PLOTS
from reproduction.settings import Settings

FLOORS = ("path_patching", "reproduction", "dataset", "utils", "tasks")  # bottom up; scripts stand on all
APART = ("color_utils",)  # imports nothing of ours
SCRIPTS = (*EXPERIMENTS, *PLOTS, "reproduce")
PACKAGES = ("path_patching", "reproduction", "tasks")
MODULES = [path for package in PACKAGES for path in ROOT.glob(f"{package}/**/*.py")]
SOURCES = [*ROOT.glob("*.py"), *MODULES]
OLDEST = (3, 11)  # Python that the README names


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
    assert {path.stem for path in ROOT.glob("*.py")} == {*FLOORS, *APART, *SCRIPTS} - {*PACKAGES}


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


def test_all_files_name_the_same_oldest_python():
    """Ruff takes it from `requires-python`."""
    project, oldest = tomllib.loads((ROOT / "pyproject.toml").read_text()), ".".join(map(str, OLDEST))
    assert project["project"]["requires-python"] == f">={oldest}"
    assert project["tool"]["mypy"]["python_version"] == oldest
    for name, words in (("README.md", f"Python {oldest} or later"), ("Makefile", f"sys.version_info < {OLDEST})")):
        assert words in (ROOT / name).read_text()


def names_from_the_library(path: Path) -> set[tuple[str, str]]:
    """What a file imports from Python's own modules: each with the name that it takes from it, or with none."""
    found = set()
    for statement in ast.walk(ast.parse(path.read_text())):
        if isinstance(statement, ast.ImportFrom):
            found |= {(statement.module or "", alias.name) for alias in statement.names}
        elif isinstance(statement, ast.Import):
            found |= {(alias.name, "") for alias in statement.names}
    return {(module, name) for module, name in found if module.partition(".")[0] in sys.stdlib_module_names}


@pytest.mark.skipif(sys.version_info[:2] > OLDEST, reason="this Python is newer than the oldest that the README names")
def test_the_oldest_python_has_all_that_is_imported():
    """`make test` takes the oldest where it is at hand; on newer ones ruff sees syntax and mypy names that it lacks."""
    for path in MODULES:
        if "rust_engine" not in path.parts or find_spec("rust_circuit"):
            import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    files = [
        *SOURCES,
        *(path for folder in ("benchmarks", "examples", "tests") for path in ROOT.glob(f"{folder}/**/*.py")),
    ]
    used = {pair for path in files for pair in names_from_the_library(path)}
    assert len(used) > 100
    assert [pair for pair in used if not hasattr(import_module(pair[0]), pair[1] or "__name__")] == []
