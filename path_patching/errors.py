"""Errors that a user can mend: one line that says what is wrong and what to do."""

from __future__ import annotations

from textwrap import shorten

LONGEST_REASON = 200  # of another library's words within a message of ours
QUOTED = 80  # letters


class UserError(Exception):
    """Something the user can mend. Its message is one line: what is wrong and what to do."""

    def __str__(self) -> str:
        return one_line(super().__str__())

    def _render_traceback_(self) -> list[str]:
        """What IPython shows of it in a notebook, and a script in a terminal, instead of a traceback."""
        return [f"error: {self}"]


def one_line(text: str) -> str:
    """A text, such as a folder's name, with what would break a line or cannot be printed in it as `\\n`."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def shortened(text: object) -> str:
    """What a user gave, as it is quoted in a message: of a long text the beginning."""
    return f"{text}" if len(f"{text}") <= QUOTED else f"{str(text)[:QUOTED]}…"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, to be quoted within a one-line message of ours."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def in_one_line(error: BaseException) -> str:
    """All of an error's message, shortened, where its first line says too little."""
    return shorten(str(error), LONGEST_REASON) or type(error).__name__
