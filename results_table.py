"""The table of the paper's numbers and the measured ones, from claims and the artifacts of experiments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from artifacts import Artifacts
from bootstrap import Estimate
from claims import Claim, LeadingNodes, shown

COLUMNS = ("section", "what", "measured [95 % interval]", "paper ± tolerance", "verdict", "measured by")
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Row:
    """One line of the table; what the paper does not say is empty."""

    section: str
    what: str
    measured: str
    paper: str
    verdict: str
    script: str
    command: str
    value: float | str | None
    low: float | None
    high: float | None

    def cells(self) -> tuple[str, ...]:
        """What stands in the columns."""
        return (self.section, self.what, self.measured, self.paper, self.verdict, self.command)


def row_of(claim: Claim | LeadingNodes, made: Mapping[str, Artifacts]) -> Row:
    """The line of a claim, from what the experiments made."""
    artifacts = made.get(claim.script)
    measured = claim.measure(artifacts) if artifacts else None
    says = any(each.record["model"]["is_gpt2_small"] for each in made.values())
    verdict = claim.verdict(measured) if says and measured is not None else None
    number = measured if isinstance(measured, Estimate) else Estimate(measured, None, None)
    return Row(
        claim.section,
        claim.what,
        NOT_MEASURED if measured is None else shown(measured),
        claim.stated() if says else "",
        verdict or "",
        claim.script,
        artifacts.record["command"] if artifacts else f"python {claim.script}.py",
        number.value,
        number.low,
        number.high,
    )


def markdown(rows: list[Row], title: str) -> str:
    """The table as Markdown."""
    lines = [f"# {title}", "", f"| {' | '.join(COLUMNS)} |", "|" + " --- |" * len(COLUMNS)]
    return "\n".join([*lines, *(f"| {' | '.join(row.cells())} |" for row in rows)]) + "\n"
