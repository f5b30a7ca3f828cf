"""Files written whole or not at all, and folders told apart."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # of the repository


def checkpoint_folder(model: str) -> Path:
    """The whole path of a checkpoint's folder, from wherever it was named."""
    return Path(model).expanduser().resolve()


def told_apart(folder: Path, digits: int) -> str:
    """A folder's name with some hex digits of its path's hash, since others may be called like it."""
    return f"{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:digits]}"


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary file beside `path`; on success it becomes `path`, on any error it is removed.

    A reader sees the old file or the new one, never a part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.chmod(0o644)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
