"""Files written whole or not at all, JSON read strictly, and folders told apart."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from path_patching.errors import UserError

ROOT = Path(__file__).resolve().parents[1]  # of the repository


def named_path(text: str | Path) -> Path:
    """The path that a user names, with `~` filled in. Raises `UserError` if it is empty, or nobody has that home."""
    if not str(text):
        raise UserError("an empty name is no file and no folder; give one, or leave it out")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"{text}: nobody is known whose home that is; write the whole path") from error


def parse_json(text: str | bytes) -> Any:
    """The values of a JSON text. Raises `ValueError` for everything else.

    What Python's reader lets through is refused as well: NaN and numbers too large for a float, which no other reader
    takes, and an object that has a key twice.
    """
    try:
        return json.loads(
            text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_without_repeats
        )
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError("a number is too large")
    return number


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("an object has a key twice")
    return found


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
