"""Folders keep models apart; settings are recorded."""

from __future__ import annotations

import re
from pathlib import Path

from path_patching.files import ROOT
from reproduction.settings import PlotSettings, Settings


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
