"""What each test asks, the bar that it holds a number to, and the verdict: written before anything is measured.

A bar may be changed only with a reason beside it. What is only described, and held to nothing, has no bar.

    >>> verdict = judge("faithfulness", Estimate(0.92, 0.90, 0.94, 97), "full circuit")
    >>> verdict.passed
    True
    >>> print(verdict)
    full circuit: ...: 0.9200 [0.9000, 0.9400]; bar: ...; passed
"""

from __future__ import annotations

from dataclasses import dataclass

from path_patching.bootstrap import Estimate


@dataclass(frozen=True)
class Bar:
    """A question, and the numbers that answer it with yes: from `least` to `most`, with the whole interval if any."""

    asked: str
    least: float | None = None
    most: float | None = None
    reason: str = ""

    @property
    def words(self) -> str:
        """The bar as a reader sees it."""
        if self.least is not None and self.most is not None:
            return f"{self.least:g} to {self.most:g}"
        if self.least is not None:
            return f"at least {self.least:g}"
        return f"at most {self.most:g}" if self.most is not None else "none: described, not judged"

    def holds(self, low: float, high: float) -> bool | None:
        """Whether all from `low` to `high` lies within the bar; None if there is none."""
        if self.least is None and self.most is None:
            return None
        return (self.least is None or low >= self.least) and (self.most is None or high <= self.most)


BARS: dict[str, Bar] = {
    "faithfulness": Bar(
        "does it do alone what the model does?", 0.8, 1.2, "the search stops at 0.85; more than the whole is no circuit"
    ),
    "complement": Bar("is the ability gone without it?", most=0.2, reason="what is left mirrors what faithfulness asks"),
    "divergence": Bar(
        "is its distribution the model's? Share of the KL divergence of ∅ that is left",
        most=0.2,
        reason="as for faithfulness, where 0 is perfect",
    ),
    "seeds": Bar("does F stay the same with other sentences? Largest minus smallest", most=0.05, reason="N = 490"),
    "random": Bar(
        "do random circuits of its shape do less? p", most=0.01, reason="200 draws cannot show less than 0.005"
    ),
    "minimality": Bar(
        "is every node needed? Share of nodes whose removal changes F, its interval without 0", 1.0, reason="by name"
    ),
    "minimality_links": Bar("is every link needed? Share of links, likewise", 0.9, reason="links are many, some weak"),
    "completeness": Bar(
        "is nothing left out that takes over? Largest |F(M∖K) − F(C∖K)|", most=0.3, reason="IOI's was judged at about that"
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
    "stability": Bar("is it found again on other sentences? Mean pairwise Jaccard index", 0.7, reason="common in ACDC"),
    "consensus": Bar("is it the consensus of these searches? Jaccard index", 0.7, reason="as for stability"),
    "monotone": Bar(
        "does a stronger patch do more? Share of the steps from 0 to 1 that go the same way", 1.0, reason="all of them"
    ),
    "own_loss": Bar("does impeding it take this ability? Share of its span lost", 0.5, reason="more than half"),
    "other_loss": Bar("does it leave the other ability? Share of its span lost", most=0.1, reason="a tenth"),
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

    def __str__(self) -> str:
        bar = BARS[self.bar]
        number = str(self.measured) if isinstance(self.measured, Estimate) else f"{self.measured:.4g}"
        outcome = {True: "passed", False: "failed", None: "not judged"}[self.passed]
        text = f"{self.subject}: {bar.asked}: {number}; bar: {bar.words}; {outcome}"
        return f"{text} ({self.remark})" if self.remark else text


def judge(bar: str, measured: Estimate | float, subject: str, remark: str = "", too_weak: bool = False) -> Verdict:
    """Hold a number to its bar, an estimate with its whole interval. What is `too_weak` to judge by is only shown."""
    low, high = (measured.low, measured.high) if isinstance(measured, Estimate) else (measured, measured)
    passed = None if too_weak else BARS[bar].holds(low, high)
    return Verdict(bar, subject, measured, passed, remark)
