"""Files are written whole or not at all; errors are one line."""

from __future__ import annotations

import sys

import pytest

from path_patching.errors import UserError, exit_on_user_error, first_line
from path_patching.files import write_text, written_whole
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
