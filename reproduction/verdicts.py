"""Verdicts of a run: each number under a key, with its bar; one table of them, which the report shows.

    asked, subject, measured [interval], N, bar, verdict, remark

What a test could not ask is recorded with the reason, and the report shows that below the table.
The tables of a validation hold estimates in columns: `faithfulness`, `faithfulness_low`, `faithfulness_high`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from path_patching.bootstrap import Estimate
from path_patching.circuits.validation.verdicts import BARS, Verdict
from reproduction.run import Artifacts, Run

TABLE = "validation_verdicts.csv"
KIND = "verdicts"
LEFT_OUT = "left_out"  # how the keys of what was not asked end
OUTCOMES = {True: "passed", False: "failed", None: "not judged"}


@dataclass(frozen=True, eq=False)
class Verdicts:
    """The verdicts of a run, test by test; a test that is run again replaces its own."""

    run: Run
    by_test: dict[str, tuple[Verdict, ...]] = field(default_factory=dict)

    def note(self, test: str, verdicts: Iterable[Verdict]) -> None:
        """Record what a test measured, each number under the test, its subject and its bar."""
        self.by_test[test] = tuple(verdicts)
        for verdict in self.by_test[test]:
            words = f"{verdict.subject}: {BARS[verdict.bar].asked}"
            self.run.note(f"{test}/{as_key(verdict.subject)}/{verdict.bar}", verdict.measured, words)

    def leave_out(self, test: str, subject: str, why: str) -> None:
        """Print what a test does not ask of a subject, and why, and record it for the report."""
        self.run.note(f"{test}/{as_key(subject)}/{LEFT_OUT}", why, "left out")

    def save(self) -> None:
        """Stage the table, and record how many verdicts there are of each kind."""
        lines = [_line(test, verdict) for test, verdicts in self.by_test.items() for verdict in verdicts]
        counts = Counter(line["verdict"] for line in lines)
        for outcome in OUTCOMES.values():
            self.run.note(f"verdicts/{as_key(outcome)}", counts[outcome], f"verdicts: {outcome}")
        if lines:
            self.run.save_table(TABLE, [pd.DataFrame(lines)], kind=KIND, nan="a number without an interval")


def read_verdicts(made: Artifacts) -> pd.DataFrame:
    """The table of a run's verdicts. Raises `UserError` like `Artifacts.load`."""
    (name,) = made.find(kind=KIND)
    table: pd.DataFrame = made.load(name).astype({"remark": object}).fillna({"remark": ""})
    return table


def read_left_out(made: Artifacts) -> list[str]:
    """What a run's tests did not ask, each in words."""
    return [made.number(key) for key in made.keys if key.rpartition("/")[2] == LEFT_OUT]


def as_key(words: str) -> str:
    """Words as part of a key: `late half, mean ablation` becomes `late_half_mean_ablation`."""
    return "_".join(re.findall(r"[a-z0-9]+(?:\.[a-z0-9]+)*", words.lower()))


def columns(**named: Estimate) -> dict[str, float]:
    """Estimates as columns of a table: the value, and the ends of its interval, by name."""
    found: dict[str, float] = {}
    for name, each in named.items():
        found |= {name: each.value, f"{name}_low": each.low, f"{name}_high": each.high}
    return found


def interval_columns(table: pd.DataFrame, name: str) -> np.ndarray:
    """An estimate's columns of a table: (rows, 3) value, low and high."""
    ends: np.ndarray = table[[name, f"{name}_low", f"{name}_high"]].to_numpy(float)
    return ends


def _line(test: str, verdict: Verdict) -> dict[str, object]:
    measured, bar = verdict.measured, BARS[verdict.bar]
    if isinstance(measured, Estimate):
        number = {"value": measured.value, "low": measured.low, "high": measured.high, "n": measured.n}
    else:
        number = {"value": measured, "low": math.nan, "high": math.nan, "n": 0}
    return {
        "test": test,
        "asked": bar.asked,
        "subject": verdict.subject,
        "measured": str(measured) if isinstance(measured, Estimate) else f"{measured:.4g}",
        **number,
        "bar": bar.words,
        "reason": bar.reason,
        "verdict": OUTCOMES[verdict.passed],
        "remark": verdict.remark,
    }
