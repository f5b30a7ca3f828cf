"""The house of `CONTRIBUTING.md`: every module stands in its list, and imports point one way."""

from __future__ import annotations

import ast
import re

import pytest

from steps import EXPERIMENTS, PLOTS
from utils import ROOT

SCRIPTS = {"the experiment scripts": EXPERIMENTS, "the plotting scripts": PLOTS}
TABLE = re.findall(r"^\| (?:`|the experiment).*", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
MODULES = [path for path in sorted([*ROOT.glob("*.py"), *ROOT.glob("path_patching/*.py")]) if path.name[0] != "_"]


def modules_of(row: str) -> set[str]:
    """The modules that a row of the list names; a name without a folder is in that of the one before it."""
    named, folder = set(), ""
    cell = row.split("|")[1]
    for path in re.findall(r"`([\w/]+)\.py`", cell):
        folder = path.rpartition("/")[0] or folder
        named.add(path if "/" in path or not folder else f"{folder}/{path}")
    return named.union(*(scripts for words, scripts in SCRIPTS.items() if words in cell))


def imported(path) -> set[str]:
    names = set()
    for statement in ast.walk(ast.parse(path.read_text())):
        if isinstance(statement, ast.ImportFrom):
            names.add(statement.module.replace(".", "/"))
        elif isinstance(statement, ast.Import):
            names |= {alias.name.replace(".", "/") for alias in statement.names}
    return names


FLOOR = {module: floor for floor, row in enumerate(TABLE) for module in modules_of(row)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_imports_nothing_above_it(path):
    floor = FLOOR[path.relative_to(ROOT).with_suffix("").as_posix()]
    assert {name: FLOOR[name] for name in imported(path) if FLOOR.get(name, 0) > floor} == {}
