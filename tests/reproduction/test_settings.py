"""Folders keep models apart; settings are recorded."""

from __future__ import annotations

import re
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
)


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
