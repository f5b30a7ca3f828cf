"""What `pip install .` brings: path_patching alone, with its data and with what it needs, usable in any folder."""

from __future__ import annotations

import ast
import shutil
import sys
import tomllib
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from path_patching.files import ROOT
from tests.helpers.scripts import output, run_python

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NOT_IMPORTED = {"einops"}  # rust_circuit imports it, and does not ask for it
WITH_ITS_USAGE_BLOCK = """
import doctest, torch, path_patching
names = {name: getattr(path_patching, name) for name in path_patching.__all__}
print(doctest.testmod(path_patching, extraglobs={**names, "torch": torch}, optionflags=doctest.ELLIPSIS))
print(path_patching.__file__)
"""


def pinned(file: str) -> dict[str, Requirement]:
    """The requirements of a file of ours, by name."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / file).read_text().splitlines())
    found = [Requirement(line) for line in lines if line and not line.startswith("-")]
    return {canonicalize_name(each.name): each for each in found}


def declared() -> dict[str, Requirement]:
    """What the package says that it needs, by name."""
    found = map(Requirement, PROJECT["project"]["dependencies"])
    return {canonicalize_name(each.name): each for each in found}


def imported() -> set[str]:
    """The packages that path_patching imports, by the names that they are installed by."""
    trees = [ast.parse(path.read_text()) for path in ROOT.glob("path_patching/**/*.py")]
    statements = [each for tree in trees for each in ast.walk(tree)]
    names = {each.module or "" for each in statements if isinstance(each, ast.ImportFrom)}
    names |= {alias.name for each in statements if isinstance(each, ast.Import) for alias in each.names}
    modules = {name.partition(".")[0] for name in names} - {"path_patching", *sys.stdlib_module_names}
    installed = packages_distributions()
    return {canonicalize_name(installed.get(module, [module])[0]) for module in modules}


def test_what_is_imported_is_declared():
    assert imported() == declared().keys() - NOT_IMPORTED


def test_what_is_declared_is_pinned_to_a_version_that_fits():
    pins = pinned("requirements.txt")
    for name, needed in declared().items():
        (pin,) = pins[name].specifier
        assert pin.operator == "=="
        assert needed.specifier.contains(pin.version)
        assert needed.marker == pins[name].marker


def test_a_wheel_is_built_here_with_what_builds_it_elsewhere():
    assert PROJECT["build-system"]["requires"] == [str(pinned("requirements-dev.txt")["setuptools"])]


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("setuptools"), reason="setuptools is not installed; requirements-dev.txt has it")
def test_an_installed_wheel_works_in_an_empty_folder(tmp_path):
    source, target, empty = tmp_path / "source", tmp_path / "target", tmp_path / "empty"
    for package in ("path_patching", "reproduction", "tasks"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (ROOT / "pyproject.toml", *ROOT.glob("*.py")):
        shutil.copy(path, source)
    empty.mkdir()
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(tmp_path)!r})"  # as pip does
    output(run_python("-c", build, cwd=source))
    (wheel,) = tmp_path.glob("*.whl")
    shutil.unpack_archive(wheel, target, "zip")
    assert {path.name.partition("-")[0] for path in target.iterdir()} == {"path_patching", "gpt2_greater_than"}
    no_hub = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}  # the tokenizer comes with the package
    settings = {"PYTHONPATH": str(target), "TENSORS_CACHE_DIR": str(tmp_path / "tensors")} | no_hub
    results, file = output(run_python("-c", WITH_ITS_USAGE_BLOCK, cwd=empty, settings=settings)).splitlines()[-2:]
    assert results.startswith("TestResults(failed=0, attempted=1")
    assert Path(file).is_relative_to(target)
    assert [*empty.iterdir()] == []
