"""Every field is a flag; folders keep models apart; interactive windows keep the defaults."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from path_patching.errors import UserError
from path_patching.files import ROOT
from path_patching.gpt2.model import Architecture
from reproduction.settings import (
    DiscoverySettings,
    NeuronSettings,
    NextTokenSettings,
    PcaSettings,
    PlotSettings,
    RandomCircuitSettings,
    Settings,
    flag,
    in_interactive_window,
    read_settings,
)


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
        (["--memory-gb", "1e-320"], "--memory-gb 1e-320: give a number of gigabytes"),
        (["--memory-gb", "1e308"], "--memory-gb 1e"),
        (["--n", "9" * 30], "at most 10,000,000 sentences"),
        (["--seed", "-1"], "--seed -1"),
        (["--seed", str(2**63)], "--seed 9223372036854775808"),
    ],
)
def test_impossible_values_are_one_line(given, message):
    with pytest.raises(UserError, match=message):
        read_settings("doc", Settings(), given)


def test_no_more_random_circuits_than_can_be_drawn():
    with pytest.raises(UserError, match="at most 100,000 random circuits"):
        RandomCircuitSettings(circuits=10**9)


SIZES = Architecture(n_layers=12, n_heads=12, d_model=768, d_head=64, d_mlp=3072, n_positions=1024, vocab_size=50257)
GPT2_SMALL = SimpleNamespace(name="gpt2", architecture=SIZES)


@pytest.mark.parametrize(
    "settings", [Settings, DiscoverySettings, NeuronSettings, PcaSettings, RandomCircuitSettings, NextTokenSettings]
)
def test_what_is_kept_of_the_sentences_fits_in_the_memory_or_one_line_says_how_many_would(settings):
    each = settings().bytes_a_sentence(GPT2_SMALL)
    settings(n=10**9 // each, memory_gb=1.0).check_fits(GPT2_SMALL)
    with pytest.raises(UserError, match=rf"--memory-gb is 1; give --n {10**9 // each} or fewer"):
        settings(n=10**9 // each + 1, memory_gb=1.0).check_fits(GPT2_SMALL)


def test_the_default_memory_holds_what_the_paper_asks_for():
    for settings in (Settings(n=10_000), DiscoverySettings(), NeuronSettings(), PcaSettings(n=970)):
        settings.check_fits(GPT2_SMALL)


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
