"""Every field is a flag; folders keep models apart; interactive windows keep the defaults."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from settings import ROOT, PlotSettings, Settings, flag, read_settings
from utils import UserError


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


@pytest.mark.parametrize(("given", "message"), [(["--n", "0"], "--n 0"), (["--memory-gb", "-1"], "--memory-gb")])
def test_impossible_values_are_one_line(given, message):
    with pytest.raises(UserError, match=message):
        read_settings("doc", Settings(), given)


def test_an_interactive_window_keeps_the_defaults(monkeypatch):
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    monkeypatch.setattr(sys, "argv", ["kernel", "--nonsense"])
    assert read_settings("doc", Settings(n=7)) == Settings(n=7)


def test_only_gpt2_writes_to_the_top_folders():
    assert Settings().artifact_folder() == ROOT / "paper-cache"
    assert Settings(model="standin").artifact_folder() == ROOT / "paper-cache" / "standin"
    assert PlotSettings().plot_folder("some/where/mine") == ROOT / "paper-plots" / "mine"
    assert Settings(model="standin", out=Path("x")).artifact_folder() == Path("x")
    assert PlotSettings(artifacts=Path("x")).artifact_folder() == Path("x")


def test_settings_are_recorded_as_plain_values():
    assert Settings(out=Path("x")).as_json()["out"] == "x"
    assert Settings().as_json()["out"] is None
