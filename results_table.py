"""The table of the paper's numbers and the measured ones, from claims and the artifacts of experiments.

The interval is that of the mean over the N sentences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from artifacts import Artifacts
from bootstrap import Estimate
from claims import Claim, Leaders, LeadingNodes, Measured, is_of_paper

COLUMNS = ("section", "what", "measured [95 % interval]", "N", "paper ± tolerance", "verdict", "measured by")
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Row:
    """One line of the table; what the paper does not say is empty, and what has no interval has neither ends nor N."""

    section: str
    what: str
    measured: str
    paper: str
    verdict: str
    script: str
    command: str
    value: float | str | None
    low: float | None = None
    high: float | None = None
    n: int | None = None

    def cells(self) -> tuple[str, ...]:
        """What stands in the columns."""
        n = f"{self.n:,}" if self.n else ""
        return (self.section, self.what, self.measured, n, self.paper, self.verdict, self.command)


def row_of(claim: Claim | LeadingNodes, made: Mapping[str, Artifacts]) -> Row:
    """The line of a claim, from what the experiments made."""
    artifacts = made.get(claim.script)
    measured = claim.measure(artifacts) if artifacts else None
    of_paper = any(is_of_paper(claim, each) for each in ([artifacts] if artifacts else made.values()))
    return Row(
        section=claim.section,
        what=claim.what,
        measured=NOT_MEASURED if measured is None else claim.shown(measured),
        paper=claim.expected if of_paper else "",
        verdict=(claim.verdict(measured) if of_paper and measured is not None else None) or "",
        script=claim.script,
        command=artifacts.record["command"] if artifacts else f"python {claim.script}.py",
        **_values(measured),
    )


def _values(measured: Measured | None) -> dict[str, object]:
    """A measurement as the row's value, ends and N."""
    if isinstance(measured, Estimate):
        return asdict(measured)
    return {"value": str(measured) if isinstance(measured, Leaders) else measured}


def markdown(rows: list[Row], title: str) -> str:
    """The table as Markdown."""
    lines = [f"# {title}", "", f"| {' | '.join(COLUMNS)} |", "|" + " --- |" * len(COLUMNS)]
    cells = ([cell.replace("|", "\\|") for cell in row.cells()] for row in rows)
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in cells)]) + "\n"
