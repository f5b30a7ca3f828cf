"""Which cells of a script have run in a window, so that half a run is not published as the whole.

In an editor's interactive window cells are run one by one; one may be forgotten, or end half-way. A window tells the
text of each cell that it runs, and a script's own text says which cells there are. A cell was run if most of its lines
were, each the last time in a cell that came to its end: so it may be changed, split, or joined with others.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import dropwhile, takewhile

from path_patching.files import ROOT

ASKS = re.compile(r'^(?:el)?if "(\w+)" in settings\.only', re.MULTILINE)


@dataclass(frozen=True)
class Cells:
    """The cells that a run needs, and the lines that ran."""

    needed: Mapping[str, set[str]] = field(default_factory=dict)
    """The lines of each, by its question."""
    ran: set[str] = field(default_factory=set)

    def ended(self, text: str, whole: bool = True) -> None:
        """A cell of this text ran to its end, or only in part."""
        (self.ran.update if whole else self.ran.difference_update)(lines_of(text))

    def not_run(self) -> list[str]:
        """The questions of the cells that did not run."""
        return [question for question, lines in self.needed.items() if 2 * len(lines & self.ran) <= len(lines)]


def text_of(script: str) -> str:
    """A script's own text; empty if there is no such script, as for a notebook's own run."""
    path = ROOT / f"{script}.py"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def needed_cells(text: str, only: Collection[str] | None = None) -> dict[str, set[str]]:
    """The lines of a script's cells by their question: from the cell that opens the run to the last but one.

    Given `only`, without the cells of the tests that it does not name.
    """
    _, *cells = re.split(r"(?m)^(?=# %% )", text)
    opened = dropwhile(lambda cell: "open_run(" not in cell, cells[:-1])
    asked = (cell for cell in opened if only is None or {*ASKS.findall(cell)} <= {*only})
    return {_question(cell): lines_of(cell) for cell in asked}


def lines_of(text: str) -> set[str]:
    """The lines of a cell that say something, without comments, which not every editor sends."""
    return {line for line in map(str.strip, text.splitlines()) if not line.startswith("#") and re.search(r"\w", line)}


def _question(cell: str) -> str:
    """The comment with which a cell opens, up to its first question mark; the editor's marker is cut off."""
    lines = takewhile(lambda line: line.startswith("#"), cell.splitlines())
    words, mark, _ = " ".join(line.strip("# %") for line in lines).partition("?")
    return words + mark
