"""Files are written whole or not at all; errors are one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from path_patching.errors import UserError, exit_on_user_error, first_line, shortened
from path_patching.files import named_path, parse_json, write_text, written_whole
from path_patching.gpt2.tensor_cache import cache_folder, download_folder
from path_patching.progress import progress


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
        assert folder().is_relative_to(tmp_path / "x")
    for wrong in ("", "~nobody-of-that-name/x"):
        with pytest.raises(UserError):
            named_path(wrong)


def test_an_error_of_ours_is_one_line_whatever_is_quoted_in_it():
    assert str(UserError("no /a\nb\x1b[31m/\udcff/ä “c”")) == r"no /a\nb\x1b[31m/\udcff/ä “c”"
    assert shortened("short") == "short"
    assert len(shortened("a" * 20_000)) < 100
    assert shortened(["a"]) == "['a']"


def test_errors_that_a_user_can_mend_are_one_line(capsys):
    exit_on_user_error(UserError, UserError("give another"), None)
    exit_on_user_error(KeyboardInterrupt, KeyboardInterrupt(), None)
    exit_on_user_error(OSError, OSError(28, "No space left on device", "x.pt"), None)
    exit_on_user_error(OSError, OSError(13, "Permission denied", "y.pt"), None)
    exit_on_user_error(OSError, OSError(21, "Is a directory", "z.pt"), None)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error: give another"
    assert lines[1].startswith("interrupted")
    assert lines[2:] == [
        "error: x.pt: No space left on device; free space or choose another folder",
        "error: y.pt: Permission denied; mend its permissions or choose another",
        "error: z.pt: Is a directory",
    ]


def test_other_errors_keep_their_traceback(capsys):
    try:
        raise ValueError("a bug")
    except ValueError:
        exit_on_user_error(*sys.exc_info())
    assert "Traceback" in capsys.readouterr().err


def test_progress_gives_every_item_and_first_line_the_first():
    assert list(progress(range(3), "counting")) == [0, 1, 2]
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"
