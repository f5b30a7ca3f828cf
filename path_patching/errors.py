"""Errors that a user can mend: one line that says what is wrong and what to do."""

from __future__ import annotations

from numbers import Integral
from textwrap import shorten

LONGEST_REASON = 200  # letters of another library's message that ours quotes
QUOTED = 80  # letters of a user's input that a message quotes


class UserError(Exception):
    """Something the user can mend. Its message is one line: what is wrong and what to do."""

    def __str__(self) -> str:
        return one_line(super().__str__())

    def _render_traceback_(self) -> list[str]:
        """What IPython in a notebook, or a script in a terminal, shows instead of a traceback."""
        return [f"error: {self}"]


def one_line(text: str) -> str:
    """A text on one line: line breaks and what cannot be printed are escaped, as `\\n`."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def shortened(text: object) -> str:
    """A user's input as a message quotes it: of a long text only the beginning."""
    return f"{text}" if len(f"{text}") <= QUOTED else f"{str(text)[:QUOTED]}…"


def is_whole(given: object) -> bool:
    """Whether a user gave a whole number, Python's or NumPy's; True and False are none."""
    return isinstance(given, Integral) and not isinstance(given, bool)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, to be quoted within a one-line message of ours."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def in_one_line(error: BaseException) -> str:
    """An error's whole message, shortened, for errors whose first line says too little."""
    return shorten(str(error), LONGEST_REASON) or type(error).__name__
