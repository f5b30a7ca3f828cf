"""Verdicts of a run: each number under a key, with its bar, and one table of them, which the report shows.

    asked, subject, measured [interval], N, bar, verdict, p, the verdict corrected for the number of verdicts, remark

What was left out is recorded with the reason; the report shows it below the table. A number that could not be measured,
such as a share of a span of zero, is in the table without a value, and does not end a run. The tables of a validation
have estimates in columns: `faithfulness`, `faithfulness_low`, `faithfulness_high`.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import pandas as pd

from path_patching.bootstrap import Estimate
from path_patching.circuits.validation.members import listed
from path_patching.circuits.validation.verdicts import BARS, Verdict, corrected
from reproduction.run import NOT_MEASURED, Artifacts, Run

TABLE = "validation_verdicts.csv"
KIND = "verdicts"
LEFT_OUT_TABLE, LEFT_OUT = "validation_left_out.csv", "left_out"
LEFT_OUT_COLUMNS = ["test", "subject", "why"]
NOTHING: Mapping[str, str] = MappingProxyType({})
OUTCOMES = {True: "passed", False: "failed", None: "not judged"}


@dataclass(frozen=True, eq=False)
class Verdicts:
    """The verdicts of a run, and what was left out, by test; a test that is run again replaces its own."""

    run: Run
    by_test: dict[str, tuple[Verdict, ...]] = field(default_factory=dict)
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)

    def note(self, test: str, verdicts: Iterable[Verdict], left_out: Mapping[str, str] = NOTHING) -> None:
        """Record and print the verdicts of a test, each number under the test, its subject and its bar.

        `left_out` has the subjects that were left out, and why; a line is printed for each.
        """
        self.by_test[test], self.left_out[test] = tuple(verdicts), dict(left_out)
        for why in left_out.values():
            print(f"left out: {why}")
        for verdict in self.by_test[test]:
            words = f"{verdict.subject}: {BARS[verdict.bar].asked}"
            self.measure(f"{test}/{as_key(verdict.subject)}/{verdict.bar}", verdict.measured, words, str(verdict))

    def measure(self, key: str, value: Estimate | float, words: str, line: str | None = None) -> None:
        """Record and print a number, or print that it could not be measured; see `Run.note`."""
        if isinstance(value, Estimate) or math.isfinite(value):
            self.run.note(key, value, words, line=line)
        else:
            print(line or f"{words}: {NOT_MEASURED}")

    def save(self) -> None:
        """Stage the tables, record how many verdicts have each outcome, and print what failed or was not judged."""
        every = [(test, verdict) for test, verdicts in self.by_test.items() for verdict in verdicts]
        after = corrected([verdict for _, verdict in every])
        lines = [_line(*each, *by_holm) for each, by_holm in zip(every, after, strict=True)]
        counts = Counter(line["verdict"] for line in lines)
        for outcome in OUTCOMES.values():
            self.run.note(f"verdicts/{as_key(outcome)}", counts[outcome], f"verdicts: {outcome}")
        by_holm = [line["corrected"] for line in lines if line["corrected"]]
        self.run.note("verdicts/with_p", len(by_holm), "verdicts with a p or an interval")
        words = "of these passed, corrected for their number by Holm's method"
        self.run.note("verdicts/with_p/passed", by_holm.count("passed"), words)
        self._print_open()
        for outcome in ("failed", "passed"):
            changed = [
                f"{verdict.subject} ({verdict.bar})"
                for (_, verdict), line in zip(every, lines, strict=True)
                if line["corrected"] == outcome != line["verdict"]
            ]
            if changed:
                advice = "; more sentences or draws would tell" if outcome == "failed" else ""
                print(f"{outcome}, corrected for {len(by_holm)} verdicts{advice}: {listed(changed)}")
        if lines:
            nan = "no interval, no p, or not measured"
            self.run.save_table(TABLE, [pd.DataFrame(lines)], kind=KIND, nan=nan)
        left_out = [(test, *each) for test, whys in self.left_out.items() for each in whys.items()]
        if left_out:
            self.run.save_table(LEFT_OUT_TABLE, [pd.DataFrame(left_out, columns=LEFT_OUT_COLUMNS)], kind=LEFT_OUT)

    def _print_open(self) -> None:
        """Print a line for each verdict that failed, and for each reason one with the verdicts not judged."""
        every = [verdict for verdicts in self.by_test.values() for verdict in verdicts]
        for verdict in every:
            if verdict.passed is False:
                print(f"failed: {verdict}")
        because: defaultdict[str, list[str]] = defaultdict(list)
        for verdict in every:
            if verdict.passed is None:
                because[verdict.why].append(f"{verdict.subject} ({verdict.bar})")
        for why, subjects in because.items():
            print(f"not judged, {why}: {listed(subjects)}")


def read_verdicts(made: Artifacts) -> pd.DataFrame:
    """The table of a run's verdicts. Raises `UserError` like `Artifacts.load`."""
    (name,) = made.find(kind=KIND)
    table: pd.DataFrame = made.load(name).astype({"remark": object, "corrected": object})
    table = table.fillna({"remark": "", "corrected": ""})
    return table


def corrected_counts(table: pd.DataFrame) -> Counter[str]:
    """How many of a run's verdicts have each outcome, corrected for their number where they have a p."""
    return Counter(line["corrected"] or line["verdict"] for line in table.to_dict("records"))


def count_smallest_p(table: pd.DataFrame) -> int:
    """How many passed by themselves and fail if corrected though their p is the smallest that their draws can give."""
    changed = table[(table["verdict"] == "passed") & (table["corrected"] == "failed")]
    return int(changed["remark"].str.match(r"0 of \d+ drawn ").sum())


def read_left_out(made: Artifacts) -> pd.DataFrame:
    """What a run left out: (test, subject, why), without rows if nothing was. Raises like `Artifacts.load`."""
    tables = [made.load(name) for name in made.find(kind=LEFT_OUT)]
    return tables[0] if tables else pd.DataFrame(columns=LEFT_OUT_COLUMNS)


def as_key(words: str) -> str:
    """Words as part of a key: `late half, mean ablation` becomes `late_half_mean_ablation`."""
    return "_".join(re.findall(r"[a-z0-9]+(?:\.[a-z0-9]+)*", words.lower()))


def columns(**named: Estimate) -> dict[str, float]:
    """Estimates as columns of a table: each value and the ends of its interval."""
    found: dict[str, float] = {}
    for name, each in named.items():
        found |= {name: each.value, f"{name}_low": each.low, f"{name}_high": each.high}
    return found


def interval_columns(table: pd.DataFrame, name: str) -> np.ndarray:
    """An estimate's columns of a table: (rows, 3) value, low and high."""
    ends: np.ndarray = table[[name, f"{name}_low", f"{name}_high"]].to_numpy(float)
    return ends


def _line(test: str, verdict: Verdict, p_corrected: float | None, passed: bool | None) -> dict[str, object]:
    measured, bar = verdict.measured, BARS[verdict.bar]
    if isinstance(measured, Estimate):
        number = {"value": measured.value, "low": measured.low, "high": measured.high, "n": measured.n}
    else:
        number = {"value": measured, "low": math.nan, "high": math.nan, "n": 0}
    return {
        "test": test,
        "asked": bar.asked,
        "subject": verdict.subject,
        "measured": verdict.number,
        **number,
        "bar": bar.words,
        "reason": bar.reason,
        "verdict": OUTCOMES[verdict.passed],
        "p": verdict.p,
        "p_corrected": p_corrected,
        "corrected": "" if passed is None else OUTCOMES[passed],
        "remark": verdict.remark,
    }
