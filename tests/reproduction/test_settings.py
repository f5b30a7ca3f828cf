"""Every field is a flag; folders keep models apart; interactive windows keep the defaults."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from path_patching.errors import UserError
from path_patching.files import ROOT
from reproduction.settings import PlotSettings, Settings, flag, in_interactive_window, read_settings
from utils import start_experiment


@dataclass(frozen=True)
class MoreSettings(Settings):
    layer: int = flag(10, "an MLP's layer", int)


@pytest.fixture(autouse=True)
def _keep_excepthook(monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


def test_every_field_is_a_flag():
    given = "--model standin --engine torch --device cpu --n 97 --seed 5 --as-published --out here --memory-gb 1.5"
    settings = read_settings("doc", Settings(), given.split())
    assert settings == Settings("standin", "torch", "cpu", 97, 5, True, Path("here"), 1.5)
    assert read_settings("doc", MoreSettings(n=3), ["--layer", "9"]) == MoreSettings(n=3, layer=9)


def test_only_scripts_that_evaluate_a_circuit_take_one(capsys):
    assert read_settings("doc", Settings(), ["--circuit", "auto"], evaluates_circuit=True).circuit == "auto"
    with pytest.raises(SystemExit):
        read_settings("doc", Settings(), ["--circuit", "auto"])
    assert "--circuit" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--n", "0"], "--n 0"),
        (["--memory-gb", "-1"], "--memory-gb -1"),
        (["--memory-gb", "inf"], "--memory-gb inf"),
        (["--memory-gb", "nan"], "--memory-gb nan"),
        (["--seed", "-1"], "--seed -1"),
        (["--seed", str(2**63)], "--seed 9223372036854775808"),
    ],
)
def test_impossible_values_are_one_line(given, message):
    with pytest.raises(UserError, match=message):
        read_settings("doc", Settings(), given)


def test_a_folder_in_the_user_s_home_may_be_named(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    out = read_settings("doc", Settings(), ["--out=~/deep/x"])
    assert out.artifact_folder() == Settings(out=Path("~/deep/x")).artifact_folder() == tmp_path / "deep" / "x"
    plots = read_settings("doc", PlotSettings(), ["--out=~/x", "--artifacts=~/y"])
    assert (plots.plot_folder("gpt2"), plots.artifact_folder()) == (tmp_path / "x", tmp_path / "y")
    assert PlotSettings(artifacts=Path("~/y")).artifact_folder() == tmp_path / "y"


@pytest.mark.parametrize("option", ["--out", "--artifacts"])
@pytest.mark.parametrize("name", ["", "~nobody-of-that-name/x"])
def test_a_folder_without_a_name_is_one_line(option, name):
    with pytest.raises(UserError, match=r"an empty name is no file and no folder|nobody is known whose home"):
        read_settings("doc", PlotSettings(), [option, name])


@pytest.mark.parametrize("out", ["", "~nobody-of-that-name"])
def test_in_a_notebook_as_well(out):
    with pytest.raises(UserError, match=r"an empty name is no file and no folder|nobody is known whose home"):
        Settings(out=out).artifact_folder()


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("n", "97", "a whole number"),
        ("n", 9.5, "a whole number"),
        ("n", True, "a whole number"),
        ("n", None, "a whole number"),
        ("seed", "0", "a whole number"),
        ("memory_gb", "4", "a number"),
        ("as_published", "no", "True or False"),
        ("as_published", 1, "True or False"),
        ("model", 3, "a text"),
        ("model", ["a" * 1000], "a text"),
        ("out", 3, "a folder"),
        ("circuit", ["m8"], "a text"),
    ],
)
def test_a_setting_of_another_type_is_one_line(field, value, wanted):
    with pytest.raises(UserError, match=rf"^{field} is .*; give {wanted}$") as error:
        Settings(**{field: value})
    assert len(str(error.value)) < 150
    if field == "n" and value == "97":
        with pytest.raises(UserError, match="n is '97'; give a whole number"):
            start_experiment(n="97")


def test_settings_may_be_paths_and_whole_numbers_of_gigabytes():
    assert Settings(model=Path("x"), circuit=Path("y"), memory_gb=4, out="z").artifact_folder() == Path("z")
    with pytest.raises(UserError, match=r"are no Settings; name what you give, as start_experiment"):
        start_experiment("standin")


def test_an_interactive_window_keeps_the_defaults(monkeypatch):
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    monkeypatch.setattr(sys, "argv", ["kernel", "--nonsense"])
    assert read_settings("doc", Settings(n=7)) == Settings(n=7)


def test_a_program_that_starts_kernels_is_no_interactive_window(monkeypatch):
    monkeypatch.delattr(sys, "ps1", raising=False)
    import ipykernel.kernelapp

    assert not in_interactive_window()
    monkeypatch.setattr(ipykernel.kernelapp.IPKernelApp, "initialized", lambda: True)
    assert in_interactive_window()


def test_only_gpt2_writes_to_the_top_folders():
    assert Settings().artifact_folder() == ROOT / "paper-cache"
    assert Settings(model="standin").artifact_folder() == ROOT / "paper-cache" / "standin"
    assert re.fullmatch("mine-[0-9a-f]{6}", PlotSettings().plot_folder("some/where/mine").name)
    assert Settings(model="standin", out=Path("x")).artifact_folder() == Path("x")
    assert PlotSettings(artifacts=Path("x")).artifact_folder() == Path("x")


def test_checkpoints_of_one_name_have_folders_of_their_own(tmp_path, monkeypatch):
    folders = [Settings(model=str(tmp_path / parent / "standin")).artifact_folder() for parent in "ab"]
    assert len({*folders, Settings(model="standin").artifact_folder()}) == 3
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    assert Settings(model="./standin").artifact_folder() == folders[0]
    assert Settings(model="./standin").as_json()["model"] == str(tmp_path / "a" / "standin")


def test_settings_are_recorded_as_plain_values():
    assert Settings(out=Path("x")).as_json()["out"] == "x"
    assert Settings().as_json()["out"] is None
