"""Small things that every module may use: errors a user can act on, progress bars, whole-file writes."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent  # of the repository
SECONDS_BEFORE_A_BAR = 2.0
FULL = (errno.ENOSPC, errno.EDQUOT)
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


class UserError(Exception):
    """Something the user can mend. Its message is one line: what is wrong and what to do."""


def exit_on_user_error(kind: type[BaseException], error: BaseException, traceback: object) -> None:
    """An excepthook that prints a `UserError` (or a full disk, or Ctrl-C) as one line instead of a traceback."""
    if issubclass(kind, UserError):
        print(f"error: {error}", file=sys.stderr)
    elif issubclass(kind, KeyboardInterrupt):
        print("interrupted: what was published before is as it was", file=sys.stderr)
    elif issubclass(kind, OSError) and error.filename is not None:
        print(f"error: {error.filename}: {error.strerror}{_way_out(error)}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


def _way_out(error: OSError) -> str:
    if error.errno in FULL:
        return "; free space or choose another folder"
    return "; mend its permissions or choose another" if error.errno in NOT_ALLOWED else ""


def checkpoint_folder(model: str) -> Path:
    """The whole path of a checkpoint's folder, from wherever it was named."""
    return Path(model).expanduser().resolve()


def told_apart(folder: Path, digits: int) -> str:
    """A folder's name with some hex digits of its path's hash, since others may be called like it."""
    return f"{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:digits]}"


def progress(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate over `items` with a bar once the loop has taken two seconds; none where the output is not a terminal."""
    return iter(tqdm(items, desc=description, total=total, delay=SECONDS_BEFORE_A_BAR, leave=False, disable=None))


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


def first_line(error: BaseException) -> str:
    """The first line of an error's message, to be quoted within a one-line message of ours."""
    return (str(error).splitlines() or [type(error).__name__])[0]
