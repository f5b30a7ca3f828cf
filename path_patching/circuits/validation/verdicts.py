"""What each test asks, the bar for its number, and the verdict. Bars were written before anything was measured.

A bar may be changed only with a reason beside it. A number that is only described has no bar.

An estimate passes if its whole interval is within the bar, the wider one if it has two. What cannot be measured is *not
judged*, and the remark says why. Of many verdicts some pass or fail by chance: `corrected` holds their p to Holm's
method.

    >>> verdict = judge("faithfulness", Estimate(0.92, 0.90, 0.94, 97), "full circuit")
    >>> verdict.passed
    True
    >>> print(verdict)
    full circuit: ...: 92.0 % [90.0, 94.0]; bar: ...; passed
    >>> print(judge("faithfulness", Estimate(1.0, 1.0, 1.0, 1, doubt="1 sentence"), "full circuit"))
    full circuit: ...: 100.0 % [100.0, 100.0]; bar: ...; not judged (1 sentence)
    >>> [f"{p:.2f}" for p in holm([0.01, 0.04, 0.03])]
    ['0.03', '0.06', '0.06']
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from path_patching.bootstrap import Estimate
from path_patching.numbers import shown

LEVEL, NORMAL_95 = 0.05, 1.96  # the level for p; half of a 95 % interval in standard errors
NO_BAR = "none: described, not judged"


@dataclass(frozen=True)
class Bar:
    """A question, and the numbers that answer it with yes: from `least` to `most`."""

    asked: str
    least: float | None = None
    most: float | None = None
    reason: str = ""
    of_p: bool = False
    """Whether the number is a p."""
    unit: str = "%"
    """Of F and of shares; a p and a Jaccard index have none."""

    @property
    def words(self) -> str:
        """The bar as a reader sees it."""
        if self.least is not None and self.most is not None:
            return f"{self._plain(self.least)} to {self._with_unit(self.most)}"
        if self.least is not None:
            return f"at least {self._with_unit(self.least)}"
        return f"at most {self._with_unit(self.most)}" if self.most is not None else NO_BAR

    def _plain(self, end: float) -> str:
        return f"{100 * end if self.unit else end:g}".replace("-", "−")

    def _with_unit(self, end: float) -> str:
        return f"{self._plain(end)} {self.unit}".rstrip()

    def side(self, value: float) -> int:
        """−1 for a number below the bar, 1 for one above it, 0 for one within."""
        if self.least is not None and value < self.least:
            return -1
        return int(self.most is not None and value > self.most)

    def holds(self, low: float, high: float) -> bool | None:
        """Whether the interval from `low` to `high` lies within the bar; None without a bar."""
        if self.least is None and self.most is None:
            return None
        return self.side(low) == self.side(high) == 0

    def p(self, measured: Estimate) -> float:
        """The chance of an estimate this far within the bar if the truth is at its edge: 0.05 if it ends there.

        Each half of the interval is treated as that of a normal distribution.
        """
        low, high = measured.ends
        to_least = math.inf if self.least is None else measured.value - self.least
        to_most = math.inf if self.most is None else self.most - measured.value
        return max(_p(to_least, measured.value - low), _p(to_most, high - measured.value))


def _p(distance: float, half: float) -> float:
    """The two-sided p of a distance, given half of the 95 % interval."""
    if half <= 0 or math.isinf(distance):
        return float(distance < 0)
    return min(1.0, math.erfc(NORMAL_95 * distance / half / math.sqrt(2)))


BARS: dict[str, Bar] = {
    "faithfulness": Bar(
        "does it alone do what the model does? F",
        0.8,
        1.2,
        "the search stops at 85 %; a part should not outdo the whole",
    ),
    "by_sentence": Bar(
        "does it do so on each sentence? Share of sentences with F from 80 to 120 %",
        0.8,
        reason="half of the sentences at 160 % and half at 0 have a mean of 80 %, too",
    ),
    "likeliest": Bar(
        "does it give the model's answer? Share of sentences with the same likeliest answer",
        0.8,
        reason="as for by_sentence",
    ),
    "complement": Bar(
        "is the ability gone without it? F of the model without the circuit",
        -0.2,
        0.2,
        "as much as faithfulness may lack; below zero, the rest of the model does the opposite",
    ),
    "equivalence": Bar(
        "does it score higher than the model as often as lower? p, two-sided, of scoring higher on 40 to 60 % of "
        "sentences (fails if small)",
        0.05,
        reason="the usual level",
        of_p=True,
        unit="",
    ),
    "independence": Bar(
        "are scores without it independent of the model's scores? p, one-sided, of independence (fails if small)",
        0.05,
        reason="as for equivalence",
        of_p=True,
        unit="",
    ),
    "divergence": Bar(
        "does it give the model's probabilities? KL divergence from them, as a share of that with all data corrupted",
        most=0.2,
        reason="as for faithfulness; 0 is perfect",
    ),
    "seeds": Bar(
        "does F stay the same with other sentences? Largest F minus smallest", most=0.05, reason="for 490 sentences"
    ),
    "random": Bar(
        "do random circuits of its shape do less? p, one-sided, of being one of them (passes if small)",
        most=0.01,
        reason="with 200 draws, p is 0.005 at best",
        of_p=True,
        unit="",
    ),
    "minimality": Bar(
        "is every node needed? Share of nodes whose removal changes F by 1 %, alone or after the rest of their class",
        1.0,
        reason="1 %, for effects of 0.006 % were called needed; after the rest of the class, for backups are needed",
    ),
    "minimality_links": Bar(
        "is every link needed? Share of links, as for nodes", 0.9, reason="there are many links, and some are weak"
    ),
    "random_links": Bar(
        "does each link matter more than random links of its kind? Smallest p, one-sided, of mattering more than 90 % "
        "of them (fails if small)",
        0.05,
        reason="the usual level",
        of_p=True,
        unit="",
    ),
    "completeness": Bar(
        "is nothing missing from it? Largest |F(M∖K) − F(C∖K)| over sets of its nodes K, removed from both",
        most=0.3,
        reason="alone it may lack 20 %, and without it 20 % may be left; two such faults, if independent, make 28 %",
    ),
    "counterfactual": Bar(
        "does it hold with another counterfactual? F",
        0.7,
        1.3,
        "wider than for faithfulness: others change more than 01 does",
    ),
    "control": Bar(
        "does this change leave the answer alone, as it should? |span| as a share of that of 01",
        most=0.1,
        reason="a tenth of the effect of 01",
    ),
    "on_curve": Bar(
        "is it as good as the strongest nodes, as many as it has? Their F minus its own",
        most=0.1,
        reason="a tenth of the whole effect",
    ),
    "stability": Bar(
        "does it find the same nodes on other sentences? Mean Jaccard index of pairs of draws",
        0.7,
        reason="five of six nodes in common",
        unit="",
    ),
    "consensus": Bar("is it what most of these searches find? Jaccard index", 0.7, reason="as for stability", unit=""),
    "monotone": Bar(
        "does a stronger patch do more? Share of the steps from α = 0 to 1 in one direction", 1.0, reason="all of them"
    ),
    "own_loss": Bar(
        "is this ability lost? Share of its span lost, minus the share lost without random circuits of its shape",
        0.5,
        1.2,
        "half or more beyond chance, since random circuits can take all; not over 1.2, as for faithfulness",
    ),
    "other_loss": Bar("is this ability kept? |share of its span lost|", most=0.1, reason="a tenth, lost or gained"),
    "interactions": Bar("do their effects add up? eff(ab) − eff(a) − eff(b)", unit=""),
}


@dataclass(frozen=True)
class Verdict:
    """Which bar, for which part (`full circuit`, `m10`), what was measured, and whether it passes.

    `passed` is None where nothing is judged; `remark` says what a reader has to know beside the number.
    """

    bar: str
    subject: str
    measured: Estimate | float
    passed: bool | None
    remark: str = ""
    unit: str = ""
    """Of the number; that of the bar, where `judge` is given no other."""

    @property
    def number(self) -> str:
        """What was measured, as a reader sees it."""
        if self.unit:
            return shown(self.measured, self.unit)
        return str(self.measured) if isinstance(self.measured, Estimate) else f"{self.measured:.4g}"

    @property
    def p(self) -> float | None:
        """The p that it was judged by, for an interval that of `Bar.p`; None for other numbers."""
        bar = BARS[self.bar]
        if self.passed is None or not (bar.of_p or isinstance(self.measured, Estimate)):
            return None
        return bar.p(self.measured) if isinstance(self.measured, Estimate) else self.measured

    @property
    def why(self) -> str:
        """Why nothing is judged: the first part of the remark, or that there is no bar."""
        return self.remark.partition("; ")[0] if BARS[self.bar].words != NO_BAR else "only described"

    def __str__(self) -> str:
        bar = BARS[self.bar]
        outcome = {True: "passed", False: "failed", None: "not judged"}[self.passed]
        text = f"{self.subject}: {bar.asked}: {self.number}; bar: {bar.words}; {outcome}"
        return f"{text} ({self.remark})" if self.remark else text


def judge(
    bar: str, measured: Estimate | float, subject: str, remark: str = "", unjudged: str = "", unit: str | None = None
) -> Verdict:
    """Hold a number to its bar, an estimate with the wider of its intervals.

    It is not judged if it is not finite, or if `unjudged` or the estimate's own `doubt` gives a reason; the remark then
    begins with the reason. `unit` is that of the number, if not the bar's.
    """
    low, high = measured.ends if isinstance(measured, Estimate) else (measured, measured)
    doubt = unjudged or (measured.doubt if isinstance(measured, Estimate) else "")
    if not doubt and not (math.isfinite(low) and math.isfinite(high)):
        doubt = "nothing to judge: it is not a number"
    passed = None if doubt else BARS[bar].holds(low, high)
    wide = passed is False and isinstance(measured, Estimate) and BARS[bar].side(measured.value) == 0
    why = "the number is within the bar, its interval is not: more sentences would narrow it" if wide else doubt
    return Verdict(bar, subject, measured, passed, joined(why, remark), BARS[bar].unit if unit is None else unit)


def holm(ps: Sequence[float]) -> list[float]:
    """Each p corrected for their number m: the i-th smallest times m + 1 − i, and never less than the one before."""
    corrected, last = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        last = corrected[place] = max(last, min(1.0, (len(ps) - rank) * ps[place]))
    return corrected


def corrected(verdicts: Sequence[Verdict]) -> list[tuple[float | None, bool | None]]:
    """The p of each verdict, corrected for how many have one, and whether it then passes; (None, None) without a p."""
    ps = [verdict.p for verdict in verdicts]
    by_holm = iter(holm([p for p in ps if p is not None]))
    return [(None, None) if p is None else _held(each, next(by_holm)) for each, p in zip(verdicts, ps, strict=True)]


def _held(verdict: Verdict, p: float) -> tuple[float, bool]:
    bar = BARS[verdict.bar]
    return p, bar.side(p) == 0 if bar.of_p else verdict.passed is True and p <= LEVEL


def joined(*remarks: str) -> str:
    """Several remarks as one; empty ones are left out."""
    return "; ".join(filter(None, remarks))
