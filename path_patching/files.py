"""Reading and writing files: regular ones only, JSON strictly, written whole or not at all; folders told apart."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISREG
from typing import Any, NoReturn
from uuid import uuid4

from path_patching.errors import UserError, first_line

ROOT = Path(__file__).resolve().parents[1]  # of the repository
NAME_BYTES = 150  # of a folder's name within another name, which has at most 255
DEEPEST = 100  # levels of lists and objects in JSON; Python's own limit depends on the caller


def named_path(text: str | Path) -> Path:
    """The path that a user names, with `~` replaced by the home.

    Raises `UserError` if it is empty, if it begins with the home of no user, or if it is no text: records and pages
    could not hold it.
    """
    if not str(text):
        raise UserError("an empty name is no file and no folder; give one, or leave it out")
    try:
        str(text).encode()
        return Path(text).expanduser()
    except UnicodeEncodeError as error:
        raise UserError(f"{str(text)!a} is not in UTF-8; rename it, or choose another") from error
    except RuntimeError as error:
        raise UserError(f"{text}: there is no such user's home; write the whole path") from error


def parse_json(text: str | bytes, nan_as_null: bool = False) -> Any:
    """The values of a JSON text. Raises `ValueError` for everything else.

    With `nan_as_null`, for files of others, NaN and infinity are read as null.
    Python's reader would accept NaN, numbers too large for a float, an object with the same key twice, and any
    nesting. All of these are refused here.
    """
    try:
        value = json.loads(
            text,
            parse_constant=(lambda name: None) if nan_as_null else _refuse_constant,
            parse_float=_finite,
            object_pairs_hook=_without_repeats,
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    level = [value]
    for _ in range(DEEPEST):
        outer = [each for each in level if isinstance(each, dict | list)]
        level = [inner for each in outer for inner in (each.values() if isinstance(each, dict) else each)]
    if level:
        raise ValueError("it is nested too deeply")
    return value


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
    """The absolute path of a checkpoint's folder.

    Raises `UserError` for a name that no folder can have: an empty one, a loop of links, the home of no user, bytes
    that are no text.
    """
    if not str(model).strip():
        raise UserError("an empty name is no model; give gpt2, standin or a checkpoint's folder")
    try:
        folder = Path(model).expanduser().resolve()
        str(folder).encode()
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{model!a} is not a folder ({first_line(error)}); give a checkpoint's folder") from error
    return folder


def told_apart(folder: Path, digits: int) -> str:
    """A folder's name, cut if long, with some hex digits of its path's hash: another folder may have the same name."""
    name = folder.name.encode()[:NAME_BYTES].decode(errors="ignore")
    return f"{name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:digits]}"


def regular(path: Path) -> Path:
    """`path`, if it is a regular file.

    Raises `OSError` if not. Opening a pipe or a device could wait for ever, and some libraries' errors are unclear.
    """
    try:
        mode = path.stat().st_mode
    except ValueError as error:  # a name that no file can have
        raise OSError(errno.EINVAL, first_line(error), str(path)) from error
    if not S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is not a file", str(path))
    path.open("rb").close()
    return path


def lines_of(path: Path, what: str) -> tuple[str, ...]:
    """The lines of a file, each a `what`. Raises `UserError` if the file is missing or has none."""
    try:
        text = regular(Path(path)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read {what}s from {path} ({first_line(error)}); give a text file, one a line"
        ) from None
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not lines:
        raise UserError(f"{path} holds no {what}; give a text file with one a line")
    return lines


@contextmanager
def reading(path: Path, mend: str) -> Iterator[Path]:
    """Within it, `path` is read. Raises `UserError` with the advice `mend` if it is missing or cannot be read."""
    try:
        yield regular(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; {mend}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or first_line(error)}); {mend}") from error


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary file beside `path`; on success it becomes `path`, on any error it is removed.

    A reader sees the old file or the new one, never a part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f".{path.name}.{uuid4().hex}.part"
    partial.touch(exist_ok=False)  # as open as the user's umask lets new files be
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
