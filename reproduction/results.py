"""The table of the paper's numbers beside the measured ones, from claims and the artifacts of experiments.

One table is made, with a line for each claim; Markdown, CSV, the record and the report's page come from it. Intervals
draw the nouns and YYs of the N sentences again. A plain interval, which draws single sentences, is given beside where
it is clearly narrower or wider.
"""

from __future__ import annotations

import html
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields

import pandas as pd

from path_patching.bootstrap import Estimate
from path_patching.errors import one_line
from reproduction.claims import Claim, is_of_paper, read_claims
from reproduction.experiments import EXPERIMENTS
from reproduction.plots import start_plots
from reproduction.publication import invocation
from reproduction.run import Artifacts, Number
from reproduction.steps import read_experiments
from reproduction.subcommands import ResultsSettings

MARKDOWN_COLUMNS = {
    "words": "what",
    "measured": "measured [95 % interval]",
    "n": "N",
    "paper": "paper ± tolerance",
    "verdict": "verdict",
}
NOT_MEASURED = "not measured"


def results_table(claims: Iterable[Claim], made: Mapping[str, Artifacts]) -> pd.DataFrame:
    """A line for each claim, from the experiments' artifacts (by script).

    `measured` and `paper` are in words, with units; the fields of an `Estimate` are numbers in ones, or None.
    """
    return pd.DataFrame([_line(claim, made) for claim in claims], dtype=object)


def _line(claim: Claim, made: Mapping[str, Artifacts]) -> dict[str, object]:
    """The line of one claim. Fields that the paper does not state are empty; without an interval, so are ends and N."""
    artifacts = made.get(claim.script)
    measured = claim.measure(artifacts) if artifacts else None
    of_paper = any(is_of_paper(claim, each) for each in ([artifacts] if artifacts else made.values()))
    return {
        "section": claim.section,
        "words": claim.words,
        "measured": NOT_MEASURED if measured is None else claim.shown(measured),
        "paper": claim.expected if of_paper else "",
        "verdict": (claim.verdict(measured) if of_paper and measured is not None else None) or "",
        **_values(claim, measured),
        "key": claim.key,
        "sure": claim.sure if of_paper else "",
        "paper_section": claim.paper_section,
        "figure": claim.figure,
        "script": claim.script,
        "command": artifacts.record["command"] if artifacts else invocation(claim.script),
    }


def _values(claim: Claim, measured: Number | None) -> dict[str, object]:
    """A measurement as the line's value, ends and N."""
    if isinstance(measured, Estimate):
        return asdict(measured)
    value = claim.shown(measured) if isinstance(measured, Mapping) else measured
    return {each.name: None for each in fields(Estimate)} | {"value": value}


def sections(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The sections of the table, with their lines."""
    return iter(table.groupby("section", sort=False))


def markdown(table: pd.DataFrame, title: str) -> str:
    """A Markdown table for each section; the commands that measured it are below its heading."""
    parts = [f"# {html.escape(title, quote=False)}\n"]
    for section, lines in sections(table):
        commands = ", ".join(f"`{one_line(command)}`" for command in dict.fromkeys(lines["command"]))
        parts += [f"## {section}\n", f"Measured by {commands}.\n", _markdown_rows(lines)]
    return "\n".join(parts)


def _markdown_rows(lines: pd.DataFrame) -> str:
    """The lines of one section."""
    shown = lines[[*MARKDOWN_COLUMNS]].assign(n=[f"{n:,}" if n else "" for n in lines["n"]])
    rows: list[Sequence[str]] = [[*MARKDOWN_COLUMNS.values()], ["---"] * len(MARKDOWN_COLUMNS)]
    rows += [[cell.replace("|", "\\|") for cell in row] for row in shown.itertuples(index=False)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main(settings: ResultsSettings) -> None:
    """Publish and print the table; with --check, exit with status 1 if a verdict fails."""
    claims, made = read_claims(), read_experiments(settings.artifact_folder())
    summary = start_plots("results", settings, *made.values(), might_read=tuple(EXPERIMENTS))
    table = results_table(claims, made)
    text = markdown(table, summary.plainly_titled("The paper's numbers and the measured ones"))
    summary.publication.stage("results.md", text.encode())
    summary.publication.stage("results.csv", table.to_csv(index=False, lineterminator="\n").encode())
    summary.publish(table=table.to_dict("records"))
    print(text)  # printed last: its reader, such as `head`, may close the pipe
    if settings.check and not _everything_agrees(table):
        sys.exit(1)


def _everything_agrees(table: pd.DataFrame) -> bool:
    """Whether no verdict fails and everything that the paper states was measured; prints a line for each failure."""
    if not (table["paper"] != "").any():
        print("nothing to check: these are not GPT-2 small's results, and the paper has no others")
    failed = table[table["verdict"] == "differs"]
    missing = table[(table["paper"] != "") & (table["measured"] == NOT_MEASURED)]
    for line in failed.itertuples():
        print(f"failed: {line.section}: {line.words} ({line.measured}, not {line.paper})", file=sys.stderr)
    for line in missing.itertuples():
        print(f"failed: {line.section}: {line.words} ({NOT_MEASURED})", file=sys.stderr)
    return len(failed) == len(missing) == 0
