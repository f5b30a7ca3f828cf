"""What each test asks, the bar that it holds a number to, and the verdict: written before anything is measured.

A bar may be changed only with a reason beside it. What is only described, and held to nothing, has no bar.

Of many verdicts some pass or fail by chance: `corrected` says which still do, by Holm's method.

An estimate passes with its whole interval, the wider one where it has two. What cannot be measured passes and fails
nothing: it is *not judged*, and the remark says why.

    >>> verdict = judge("faithfulness", Estimate(0.92, 0.90, 0.94, 97), "full circuit")
    >>> verdict.passed
    True
    >>> print(verdict)
    full circuit: ...: 0.9200 [0.9000, 0.9400]; bar: ...; passed
    >>> print(judge("faithfulness", Estimate(1.0, 1.0, 1.0, 1, doubt="1 sentence"), "full circuit"))
    full circuit: ...: 1.0000 [1.0000, 1.0000]; bar: ...; not judged (1 sentence)
    >>> [f"{p:.2f}" for p in holm([0.01, 0.04, 0.03])]
    ['0.03', '0.06', '0.06']
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from path_patching.bootstrap import Estimate

LEVEL, NORMAL_95 = 0.05, 1.96  # of a p, and half of the interval in standard errors
NO_BAR = "none: described, not judged"


@dataclass(frozen=True)
class Bar:
    """A question, and the numbers that answer it with yes: from `least` to `most`, with the whole interval if any."""

    asked: str
    least: float | None = None
    most: float | None = None
    reason: str = ""
    of_p: bool = False
    """Whether the number that is held to it is a p."""

    @property
    def words(self) -> str:
        """The bar as a reader sees it."""
        if self.least is not None and self.most is not None:
            return f"{self.least:g} to {self.most:g}"
        if self.least is not None:
            return f"at least {self.least:g}"
        return f"at most {self.most:g}" if self.most is not None else NO_BAR

    def side(self, value: float) -> int:
        """−1 for a number below the bar, 1 for one above it, 0 for one within."""
        if self.least is not None and value < self.least:
            return -1
        return int(self.most is not None and value > self.most)

    def holds(self, low: float, high: float) -> bool | None:
        """Whether all from `low` to `high` lies within the bar; None if there is none."""
        if self.least is None and self.most is None:
            return None
        return self.side(low) == self.side(high) == 0

    def p(self, measured: Estimate) -> float:
        """The chance of an estimate so far within the bar if the truth is at its edge: 0.05 if its interval ends there.

        Each half of the interval is taken for that of a normal distribution.
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
        "does it do alone what the model does?", 0.8, 1.2, "the search stops at 0.85; more than the whole is no circuit"
    ),
    "by_sentence": Bar(
        "does it do so on each sentence? Share of them with F from 0.8 to 1.2",
        0.8,
        reason="a mean of 0.8 can be half of the sentences at 1.6 and half at 0",
    ),
    "likeliest": Bar(
        "does it say what the model says? Share of sentences whose likeliest answer is the model's",
        0.8,
        reason="as for F by sentence",
    ),
    "complement": Bar(
        "is the ability gone without it? F of the complement",
        -0.2,
        0.2,
        "the mirror of what faithfulness asks, at both ends: with less than nothing left, the rest does the opposite",
    ),
    "equivalence": Bar(
        "does it score higher than the model as often as lower? p", 0.05, reason="the usual level", of_p=True
    ),
    "independence": Bar(
        "does what is left without it tell nothing of what the model does? p",
        0.05,
        reason="as for equivalence",
        of_p=True,
    ),
    "divergence": Bar(
        "is its distribution the model's? Share of the KL divergence of ∅ that is left",
        most=0.2,
        reason="as for faithfulness, where 0 is perfect",
    ),
    "seeds": Bar("does F stay the same with other sentences? Largest minus smallest", most=0.05, reason="N = 490"),
    "random": Bar(
        "do random circuits of its shape do less? p",
        most=0.01,
        reason="200 draws cannot show less than 0.005",
        of_p=True,
    ),
    "minimality": Bar(
        "is every node needed? Share of nodes whose removal, alone or given that of its class, changes F by 0.01",
        1.0,
        reason="by name; 0.01, since effects of 0.00006 were called needed; given its class, since a backup is needed",
    ),
    "minimality_links": Bar("is every link needed? Share of links, likewise", 0.9, reason="links are many, some weak"),
    "random_links": Bar(
        "does each link matter more than random ones of its kind? Smallest p", 0.05, reason="the usual level", of_p=True
    ),
    "completeness": Bar(
        "is nothing left out that takes over? |F(M∖K) − F(C∖K)|, of the K whose interval reaches furthest",
        most=0.3,
        reason="twice what faithfulness may lack, and rounded up: both may fall short",
    ),
    "counterfactual": Bar("does it hold for another counterfactual? F", 0.7, 1.3, "others change more than YY's order"),
    "control": Bar(
        "does what should not matter matter? |span| as a share of the 01 twin's", most=0.1, reason="a tenth, section 9"
    ),
    "on_curve": Bar(
        "is it as good as the best nodes of its size? F of the curve at its size minus its own",
        most=0.1,
        reason="a tenth of the whole effect",
    ),
    "stability": Bar(
        "is it found again on other sentences? Mean pairwise Jaccard index", 0.7, reason="five of six nodes in common"
    ),
    "consensus": Bar("is it the consensus of these searches? Jaccard index", 0.7, reason="as for stability"),
    "monotone": Bar(
        "does a stronger patch do more? Share of the steps from 0 to 1 that go the same way", 1.0, reason="all of them"
    ),
    "own_loss": Bar(
        "does impeding it take this ability? Share of its span lost, minus what random circuits of its shape take",
        0.5,
        1.2,
        "more than half, beyond chance: random ones can take all; and not much more than there is, as for faithfulness",
    ),
    "other_loss": Bar(
        "does it leave the other ability? |share of its span lost|", most=0.1, reason="a tenth, lost or gained"
    ),
    "interactions": Bar("do its nodes add up? eff(ab) − eff(a) − eff(b)"),
}


@dataclass(frozen=True)
class Verdict:
    """What was asked of which part (`full circuit`, `m10`), what was measured, and whether it passes the bar.

    `passed` is None where nothing is judged, and `remark` says what a reader has to know beside it.
    """

    bar: str
    subject: str
    measured: Estimate | float
    passed: bool | None
    remark: str = ""

    @property
    def p(self) -> float | None:
        """The p that it was judged by, or what stands for one where it was an interval; None for other numbers."""
        bar = BARS[self.bar]
        if self.passed is None or not (bar.of_p or isinstance(self.measured, Estimate)):
            return None
        return bar.p(self.measured) if isinstance(self.measured, Estimate) else self.measured

    @property
    def why(self) -> str:
        """Why nothing is judged: the first thing that the remark says, or that there is no bar."""
        return self.remark.partition("; ")[0] if BARS[self.bar].words != NO_BAR else "only described"

    def __str__(self) -> str:
        bar = BARS[self.bar]
        number = str(self.measured) if isinstance(self.measured, Estimate) else f"{self.measured:.4g}"
        outcome = {True: "passed", False: "failed", None: "not judged"}[self.passed]
        text = f"{self.subject}: {bar.asked}: {number}; bar: {bar.words}; {outcome}"
        return f"{text} ({self.remark})" if self.remark else text


def judge(bar: str, measured: Estimate | float, subject: str, remark: str = "", unjudged: str = "") -> Verdict:
    """Hold a number to its bar, an estimate with the wider of its intervals.

    It is only shown if `unjudged`, or the estimate's own `doubt`, says why nothing can be judged by it, and if it is
    not a number; the remark then begins with the reason.
    """
    low, high = measured.ends if isinstance(measured, Estimate) else (measured, measured)
    doubt = unjudged or (measured.doubt if isinstance(measured, Estimate) else "")
    if not doubt and not (math.isfinite(low) and math.isfinite(high)):
        doubt = "nothing to judge: it is not a number"
    passed = None if doubt else BARS[bar].holds(low, high)
    wide = passed is False and isinstance(measured, Estimate) and BARS[bar].side(measured.value) == 0
    why = "the number is within the bar, its interval is not: more sentences would narrow it" if wide else doubt
    return Verdict(bar, subject, measured, passed, joined(why, remark))


def holm(ps: Sequence[float]) -> list[float]:
    """Each p corrected for the number of them: the i-th smallest of m times m + 1 − i, or as the one before if more."""
    corrected, last = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        last = corrected[place] = max(last, min(1.0, (len(ps) - rank) * ps[place]))
    return corrected


def corrected(verdicts: Sequence[Verdict]) -> list[tuple[float | None, bool | None]]:
    """The p of each verdict, corrected for how many of them have one, and whether it passes by that; or None."""
    ps = [verdict.p for verdict in verdicts]
    by_holm = iter(holm([p for p in ps if p is not None]))
    return [(None, None) if p is None else _held(each, next(by_holm)) for each, p in zip(verdicts, ps, strict=True)]


def _held(verdict: Verdict, p: float) -> tuple[float, bool]:
    bar = BARS[verdict.bar]
    return p, bar.side(p) == 0 if bar.of_p else verdict.passed is True and p <= LEVEL


def joined(*remarks: str) -> str:
    """Several remarks as one; those that say nothing are left out."""
    return "; ".join(filter(None, remarks))
