from __future__ import annotations

from pathlib import Path

import pytest

from path_patching.errors import UserError
from path_patching.gpt2.names import STANDIN_FOLDER, named
from reproduction.settings import PlotSettings, Settings, model_folder


@pytest.mark.parametrize(
    ("name", "whole", "title", "repository", "revision"),
    [
        ("gpt2", "gpt2", "GPT-2 small", "openai-community/gpt2", None),
        ("openai-community/gpt2", "gpt2", "GPT-2 small", "openai-community/gpt2", None),
        ("gpt2@v1", "gpt2@v1", "gpt2@v1", "openai-community/gpt2", "v1"),
        ("gpt2-medium", "gpt2-medium", "gpt2-medium", "openai-community/gpt2-medium", None),
        ("distilbert/distilgpt2", "distilgpt2", "distilgpt2", "distilbert/distilgpt2", None),
        ("openai-community/gpt2-xl@refs/pr/1", "gpt2-xl@refs/pr/1", None, "openai-community/gpt2-xl", "refs/pr/1"),
        ("stanford-crfm/alias-gpt2@x21", "stanford-crfm/alias-gpt2@x21", None, "stanford-crfm/alias-gpt2", "x21"),
        ("owner/gpt2", "owner/gpt2", "owner/gpt2", "owner/gpt2", None),
    ],
)
def test_names_of_the_hub(name, whole, title, repository, revision):
    found = named(name)
    assert (found.name, found.title) == (whole, title or whole)
    assert (found.folder, found.repository, found.revision) == (None, repository, revision)


@pytest.mark.parametrize("name", ["nowhere", "./gpt2-medium", "../a/b", "./a/b", "a/b/c", "/a/b", "~/a", "a/.b", "x@y"])
def test_other_names_are_folders(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = named(name)
    assert found.folder == Path(name).expanduser().resolve()
    assert found.name == str(found.folder)
    assert found.title == found.folder.name


@pytest.mark.parametrize("name", ["gpt2", "standin", "gpt2-medium", "nowhere", "a/b/c"])
def test_a_path_means_what_its_text_does(name):
    """In a notebook: every name but the stand-in's is looked up on the hub first, which took no path."""
    assert named(Path(name)) == named(name)
    assert Settings(model=Path(name)).artifact_folder() == Settings(model=name).artifact_folder()


def test_an_existing_folder_wins_but_over_gpt2_and_the_stand_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("gpt2-medium", "owner/name", "gpt2", "standin"):
        (tmp_path / name).mkdir(parents=True)
    assert [named(name).folder for name in ("gpt2-medium", "owner/name")] == [
        tmp_path / "gpt2-medium",
        tmp_path / "owner" / "name",
    ]
    assert named("openai-community/gpt2-medium").folder is None
    assert named("gpt2").folder is None
    assert named("standin").folder == STANDIN_FOLDER
    assert named("./standin").folder == tmp_path / "standin"


def test_each_model_has_folders_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = (
        "gpt2",
        "standin",
        "gpt2-medium",
        "owner/name",
        "owner/name@v1",
        "other/name",
        "./standin",
        "a/b/c",
        "d/b/c",
    )
    folders = [Settings(model=name).artifact_folder() for name in names]
    assert len({*folders}) == len(names)
    assert folders[0].name == "paper-cache"
    assert {folder.parent for folder in folders[1:]} == {folders[0]}
    assert [folder.name for folder in folders[1:5]] == ["standin", "gpt2-medium", "owner+name", "owner+name@v1"]
    assert model_folder("openai-community/gpt2") is None
    recorded = Settings(model="openai-community/gpt2-xl").as_json()["model"]
    assert PlotSettings(model=recorded).artifact_folder() == Settings(model="gpt2-xl").artifact_folder()


def test_a_name_that_nothing_can_have_is_one_line():
    with pytest.raises(UserError, match="give a checkpoint's folder"):
        named("a\0b")
