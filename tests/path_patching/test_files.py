"""Files are written whole or not at all."""

from __future__ import annotations

import pytest

from path_patching.errors import first_line
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


def test_progress_gives_every_item_and_first_line_the_first():
    assert list(progress(range(3), "counting")) == [0, 1, 2]
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"
