"""Errors that a user can mend: one line that says what is wrong and what to do."""

from __future__ import annotations

import errno
import sys
from textwrap import shorten
from types import TracebackType

FULL = (errno.ENOSPC, errno.EDQUOT)
LONGEST_REASON = 200  # of another library's words within a message of ours
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


class UserError(Exception):
    """Something the user can mend. Its message is one line: what is wrong and what to do."""


def exit_on_user_error(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """An excepthook that prints a `UserError` (or a full disk, or Ctrl-C) as one line instead of a traceback."""
    if issubclass(kind, UserError):
        print(f"error: {error}", file=sys.stderr)
    elif issubclass(kind, KeyboardInterrupt):
        print("interrupted: what was published before is as it was", file=sys.stderr)
    elif isinstance(error, OSError) and error.filename is not None:
        print(f"error: {error.filename}: {error.strerror}{_way_out(error)}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


def _way_out(error: OSError) -> str:
    if error.errno in FULL:
        return "; free space or choose another folder"
    return "; mend its permissions or choose another" if error.errno in NOT_ALLOWED else ""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, to be quoted within a one-line message of ours."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def in_one_line(error: BaseException) -> str:
    """All of an error's message, shortened, where its first line says too little."""
    return shorten(str(error), LONGEST_REASON) or type(error).__name__
