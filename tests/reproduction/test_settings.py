"""Folders keep models apart; settings are recorded."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from reproduction.command_line import read_settings

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
from utils import start_experiment


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


def test_where_not_even_one_sentence_fits_only_memory_helps():
    large = SimpleNamespace(name="gpt2", architecture=replace(SIZES, n_layers=10**6))
    with pytest.raises(UserError, match=r"--memory-gb is 1; give more memory$"):
        DiscoverySettings(memory_gb=1.0).check_fits(large)


def test_the_default_memory_holds_what_the_paper_asks_for():
    for settings in (Settings(n=10_000), DiscoverySettings(), NeuronSettings(), PcaSettings(n=970)):
        settings.check_fits(GPT2_SMALL)


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
    with pytest.raises(UserError, match=r"an empty name is no file and no folder|there is no such user"):
        read_settings("doc", PlotSettings(), [option, name])


@pytest.mark.parametrize("out", ["", "~nobody-of-that-name"])
def test_in_a_notebook_as_well(out):
    with pytest.raises(UserError, match=r"an empty name is no file and no folder|there is no such user"):
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
