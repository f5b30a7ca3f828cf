"""The table of the paper's numbers and the measured ones, from claims and the artifacts of experiments.

The interval is that of the mean over the N sentences.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from path_patching.bootstrap import Estimate
from reproduction.paper import CLAIMS, Claim, Leaders, LeadingNodes, Measured, is_of_paper
from reproduction.plots import start_plots
from reproduction.publication import invocation
from reproduction.run import Artifacts
from reproduction.settings import PlotSettings, flag, read_settings
from reproduction.steps import EXPERIMENTS, read_experiments

DESCRIPTION = """Every number of the paper beside the measured one.

Run the experiments first (`make figures` runs them and this). The table is printed, and published in paper-plots as
results.md and results.json. The paper's numbers and the verdicts are for GPT-2 small alone. With --check, the exit
status is 1 where a verdict is not “agrees”.
"""
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
        command=artifacts.record["command"] if artifacts else invocation(claim.script),
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


@dataclass(frozen=True)
class ResultsSettings(PlotSettings):
    """With what to do where a verdict fails."""

    check: bool = flag(False, "exit with status 1 where a verdict fails")


def main(arguments: list[str]) -> None:
    """Print and publish the table; with --check, exit with status 1 where a verdict fails."""
    settings = read_settings(DESCRIPTION, ResultsSettings(), arguments, program="reproduce.py results")
    made = read_experiments(settings.artifact_folder())
    summary = start_plots("results", settings, *made.values(), might_read=tuple(EXPERIMENTS))
    rows = [row_of(claim, made) for claim in CLAIMS]
    table = markdown(rows, summary.titled("The paper's numbers and the measured ones"))
    print(table)
    summary.publication.stage("results.md", table.encode())
    summary.publish(table=[asdict(row) for row in rows])
    if settings.check and not _everything_agrees(rows):
        sys.exit(1)


def _everything_agrees(rows: list[Row]) -> bool:
    """Whether no verdict fails and nothing that the paper states is unmeasured; says what fails, a line each."""
    if not any(row.paper for row in rows):
        print("nothing to check: these are not GPT-2 small's results, and the paper has no others")
    failed = [
        f"{row.section}: {row.what} ({row.measured}, not {row.paper})" for row in rows if row.verdict == "differs"
    ]
    missing = [
        f"{row.section}: {row.what} (not measured)" for row in rows if row.paper and row.measured == NOT_MEASURED
    ]
    for line in [*failed, *missing]:
        print(f"failed: {line}", file=sys.stderr)
    return not failed and not missing
