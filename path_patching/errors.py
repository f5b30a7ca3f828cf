"""Errors that a user can mend: one line that says what is wrong and what to do."""

from __future__ import annotations

import errno
import sys
from types import TracebackType

FULL = (errno.ENOSPC, errno.EDQUOT)
QUOTED = 80  # letters
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


class UserError(Exception):
    """Something the user can mend. Its message is one line: what is wrong and what to do."""

    def __str__(self) -> str:
        return one_line(super().__str__())


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


def one_line(text: str) -> str:
    """A text, such as a folder's name, with what would break a line or cannot be printed in it as `\\n`."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def shortened(text: object) -> str:
    """What a user gave, as it is quoted in a message: of a long text the beginning."""
    return f"{text}" if len(f"{text}") <= QUOTED else f"{str(text)[:QUOTED]}…"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, to be quoted within a one-line message of ours."""
    return (str(error).splitlines() or [type(error).__name__])[0]
