"""For tests that try anything: it works, or it is refused in one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from path_patching.errors import UserError

T = TypeVar("T")


def unless_refused(make: Callable[[], T]) -> T | None:
    """What `make` gives; `None` if it raised a `UserError`, whose message has to be one line."""
    try:
        return make()
    except UserError as error:
        message = str(error)
    assert message
    assert "\n" not in message
    return None


def put_there(path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put in the place of a file: a "pipe", which a reader waits for, a "device", a "folder", one "not readable"."""
    if kind == "not readable":  # to nobody: permissions do not hold for root, who may run the tests
        refuse_to_open(path, monkeypatch)
        return
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()


def refuse_to_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a file be one that this user may not read."""
    opened = Path.open

    def refused(self: Path, *arguments: object, **options: object) -> object:
        if self == path:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refused)
