"""Files are read if they are files, and written whole or not at all; errors are one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from path_patching.errors import UserError, first_line, in_one_line, shortened
from path_patching.files import (
    checkpoint_folder,
    named_path,
    parse_json,
    reading,
    regular,
    told_apart,
    write_text,
    written_whole,
)
from path_patching.gpt2.checkpoint import source_files
from path_patching.gpt2.tensor_cache import cache_folder, download_folder
from path_patching.progress import progress
from tests.helpers.refusals import put_there


def test_a_file_is_replaced_only_when_it_is_whole(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    write_text(path, "old")

    def write_half() -> None:
        with written_whole(path) as partial:
            partial.write_text("ne")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_half()
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new"
    assert [found.name for found in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("text", ['{"a": [1, 2.5e3, "x", null, true]}', "[]", b'"\xc3\xa4"', "-0.0", "9" * 400])
def test_json_is_read(text):
    assert parse_json(text) == json.loads(text)


@pytest.mark.parametrize(
    "text",
    ["", "{", "NaN", "[Infinity]", "-Infinity", "1e999", "-1e999", '{"a": 1, "a": 1}', '[{"b": {"a": 1, "a": 2}}]',
     "[" * 100_000, '{"a":' * 100_000, "9" * 5000, b"\xff\xfe", "[1] 2", "nan", "'a'"],
)  # fmt: skip
def test_what_other_readers_of_json_refuse_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


def test_a_home_is_filled_in_and_a_nameless_path_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert named_path("~/x") == tmp_path / "x"
    assert named_path(Path("~/x")) == tmp_path / "x"
    assert named_path("x/~") == Path("x/~")
    for variable, folder in {"TENSORS_CACHE_DIR": cache_folder, "RR_RRFS_DIR": download_folder}.items():
        monkeypatch.setenv(variable, "~/x")
        found = folder()
        assert found is not None
        assert found.is_relative_to(tmp_path / "x")
    for wrong in ("", "~nobody-of-that-name/x", "out-\udcff", Path("\udcff")):
        with pytest.raises(UserError):
            named_path(wrong)


def test_without_a_home_nobody_needs_the_download_of_the_paper_s_readme(monkeypatch, tmp_path):
    """With the tensor cache named, a model was refused for the home that ~/rrfs would be in."""
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    monkeypatch.delenv("RR_RRFS_DIR", raising=False)
    assert download_folder() is None
    monkeypatch.setenv("RR_RRFS_DIR", str(tmp_path))
    assert download_folder() == tmp_path / "tensor_db"


def test_a_model_may_be_named_by_a_path(tmp_path):
    assert checkpoint_folder(tmp_path) == checkpoint_folder(str(tmp_path))


@pytest.mark.parametrize("name", ["", " ", "\n"])
def test_an_empty_name_is_no_model_and_never_the_working_directory(name):
    with pytest.raises(UserError, match="an empty name is no model"):
        checkpoint_folder(name)


def test_an_error_of_ours_is_one_line_whatever_is_quoted_in_it():
    assert str(UserError("no /a\nb\x1b[31m/\udcff/ä “c”")) == r"no /a\nb\x1b[31m/\udcff/ä “c”"
    assert shortened("short") == "short"
    assert len(shortened("a" * 20_000)) < 100
    assert shortened(["a"]) == "['a']"


def test_a_batch_of_one_has_no_bar(monkeypatch, capsys):
    monkeypatch.setattr("path_patching.progress._in_notebook", lambda: True)
    monkeypatch.setattr("path_patching.progress.SECONDS_BEFORE_A_BAR", 0)
    assert [*progress([7], "a list"), *progress(iter([7]), "batches", 1)] == [7, 7]
    assert capsys.readouterr().err == ""
    assert [*progress(iter([7, 8]), "batches", 2)] == [7, 8]
    assert "batches:   0%" in capsys.readouterr().err


def test_progress_gives_every_item_and_first_line_the_first():
    assert list(progress(range(3), "counting")) == [0, 1, 2]
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_only_a_file_is_read(tmp_path, kind, monkeypatch):
    path = tmp_path / "file"
    path.touch()
    assert regular(path) == path
    put_there(path, kind, monkeypatch)
    with pytest.raises(OSError, match="it is not a file"):
        regular(path)
    with (
        pytest.raises(UserError, match=r"file cannot be read \(it is not a file\); give another"),
        reading(path, "give another"),
    ):
        raise AssertionError("it was given")


def test_what_is_missing_is_missing_and_what_may_not_be_read_cannot_be(tmp_path):
    with (
        pytest.raises(UserError, match="nowhere is missing; give another"),
        reading(tmp_path / "nowhere", "give another"),
    ):
        pass
    with (
        pytest.raises(UserError, match=r"cannot be read \(File name too long\)"),
        reading(tmp_path / ("a" * 300), "no"),
    ):
        pass
    with pytest.raises(UserError, match=r"cannot be read \(embedded null byte\)"), reading(tmp_path / "a\0", "no"):
        pass
    (tmp_path / "file").touch()
    refused = PermissionError(13, "Permission denied")
    with (
        pytest.raises(UserError, match=r"file cannot be read \(Permission denied\); no"),
        reading(tmp_path / "file", "no"),
    ):
        raise refused


@pytest.mark.parametrize("name", ["~nobody-of-this-name/x", "loop", "loop/model", "\udcff", "a\0b"])
def test_a_name_that_no_folder_can_have_is_one_line(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match=r" is not a folder.*; give ") as raised:
        source_files(checkpoint_folder(name))  # from Python 3.13 on, a loop of links is found when it is looked into
    assert str(raised.value).isascii()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["a" * 255, "é" * 127, "short"])
def test_names_made_of_a_folders_are_short_enough_and_differ(tmp_path, name):
    one, other = (told_apart(tmp_path / parent / name, 12) for parent in "ab")
    assert one != other
    assert one.startswith(name[:70])
    write_text(tmp_path / f"{one}.circ", "")


def test_json_is_read_unless_it_is_nested_too_deeply():
    assert parse_json('{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}
    assert parse_json("[" * 99 + "]" * 99)
    for text in ("[" * 101 + "]" * 101, '{"a":' * 100_000, "[" * 100_000, "{", b"\xff"):
        with pytest.raises(ValueError, match=r"."):
            parse_json(text)


def test_a_long_message_of_others_is_one_short_line():
    assert in_one_line(ValueError("one\n  two")) == "one two"
    assert len(in_one_line(ValueError("word " * 1000))) <= 200
    assert in_one_line(ValueError()) == "ValueError"
