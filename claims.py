"""What the paper says that can be measured, beside where this repository measures it, and how far off is still alike.

The tolerances are ours: a few points for means over other sentences than the paper's, of which it does not release the
seeds; more where it says “about”. They are for GPT-2 small alone; of another model the paper says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from artifacts import Artifacts
from bootstrap import Estimate
from path_patching.iterative import strongest

Verdict = Literal["agrees", "differs"]
Measured = Estimate | float | str


@dataclass(frozen=True)
class Claim:
    """A number of the paper: a share of one (`%`, with points as its tolerance), which `number` of `script` measures.

    `paper` is None for what the paper does not give and a reader may want beside the rest.
    """

    section: str
    what: str
    script: str
    number: str
    paper: float | None = None
    tolerance: float | None = None

    def measure(self, made: Artifacts) -> Measured | None:
        """What a run measured; None if it did not."""
        found = made.record["numbers"].get(self.number)
        if isinstance(found, Mapping):
            return Estimate(found["value"], found["low"], found["high"])
        return found

    def stated(self) -> str:
        """The paper's number, and what counts as alike."""
        return "" if self.paper is None else f"{_percent(self.paper)} ± {100 * self.tolerance:g}"

    def verdict(self, measured: Measured) -> Verdict | None:
        """Whether a measurement is within the tolerance."""
        if self.paper is None:
            return None
        value = measured.value if isinstance(measured, Estimate) else measured
        return "agrees" if abs(value - self.paper) <= self.tolerance else "differs"


@dataclass(frozen=True)
class LeadingNodes:
    """A fact of a figure: which nodes lead a sweep. At least `enough` of the paper's are among as many strongest."""

    section: str
    what: str
    artifact: str
    nodes: tuple[str, ...]
    enough: int
    script: str = "circuit_discovery"
    heads_only: bool = False

    def measure(self, made: Artifacts) -> Measured | None:
        """The strongest nodes of the run's sweep, as many as the paper names; None if there is no such sweep."""
        if self.artifact not in made.record["artifacts"]:
            return None
        effects = made.load(self.artifact)
        ranked = strongest(effects, effects.numel())
        return ", ".join([name for name in ranked if not self.heads_only or name[0] == "a"][: len(self.nodes)])

    def stated(self) -> str:
        """The paper's nodes, and how many of them count as alike."""
        return f"{', '.join(self.nodes)} (≥ {self.enough} of {len(self.nodes)})"

    def verdict(self, measured: Measured) -> Verdict | None:
        """Whether enough of the paper's nodes are among the strongest."""
        found = set(measured.split(", ")) & set(self.nodes)
        return "agrees" if len(found) >= self.enough else "differs"


def shown(measured: Measured) -> str:
    """A measurement in percent, with its 95 % interval where it has one; nodes as they are."""
    if isinstance(measured, str):
        return measured
    if not isinstance(measured, Estimate):
        return _percent(measured)
    ends = " … ".join(f"{100 * end:.1f}".replace("-", "−") for end in (measured.low, measured.high))
    return f"{_percent(measured.value)} [{ends}]"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %".replace("-", "−")


_BIG, _DISCOVERY, _TASKS = "big_ds_experiments", "circuit_discovery", "sequence_generalization"
_ON_BIG = "10,000 sentences"

CLAIMS: tuple[Claim | LeadingNodes, ...] = (
    Claim(_ON_BIG, "probability difference, clean", _BIG, "clean: probability difference", 0.817, 0.03),
    Claim(_ON_BIG, "cutoff sharpness, clean", _BIG, "clean: cutoff sharpness", 0.06, 0.015),
    Claim(_ON_BIG, "probability difference, all on 01 data", _BIG, "all on 01 data: probability difference"),
    Claim(
        _ON_BIG, "probability difference, late half alone", _BIG,
        "late half alone: probability difference", 0.727, 0.03,
    ),
    Claim(
        _ON_BIG, "the same as a share of clean", _BIG,
        "late half alone: probability difference, share of clean", 0.895, 0.03,
    ),
    Claim(_ON_BIG, "cutoff sharpness, late half alone", _BIG, "late half alone: cutoff sharpness", 0.08, 0.02),
    Claim(
        _ON_BIG, "probability difference, all but the late half", _BIG,
        "all but the late half: probability difference", -0.366, 0.05,
    ),
    Claim(
        _ON_BIG, "probability difference, full circuit alone", _BIG,
        "full circuit alone: probability difference", 0.715, 0.03,
    ),
    Claim(
        _ON_BIG, "the same as a share of clean", _BIG, "full circuit alone: probability difference, share of clean"
    ),
    Claim(
        _ON_BIG, "lost with the heads' queries and keys on 01 data, share of the late half", _BIG,
        "queries and keys on 01 data cost, as a share of the late half", 0.15, 0.05,
    ),
    Claim("circuit discovery", "heads and MLPs of the circuit", _DISCOVERY, "circuit's heads and MLPs"),
    LeadingNodes(
        "circuit discovery", "strongest on the logits", "ipp_logits.pt", ("m8", "m9", "m10", "m11", "a9.h1"), 4
    ),
    LeadingNodes(
        "circuit discovery", "strongest heads through m9", "ipp_mlp9.pt",
        ("a5.h1", "a5.h5", "a6.h9", "a7.h10", "a8.h8", "a8.h11", "a9.h1"), 5, heads_only=True,
    ),
    LeadingNodes(
        "circuit discovery", "strongest heads through m8", "ipp_mlp8.pt",
        ("a5.h1", "a5.h5", "a6.h9", "a7.h10", "a8.h8", "a8.h11"), 4, heads_only=True,
    ),
    LeadingNodes(
        "circuit discovery", "strongest at YY through the heads' values", "attn_v.pt",
        ("m0", "m1", "m2", "m3", "a0.h1", "a0.h3", "a0.h5"), 5,
    ),
    Claim("circuit discovery", "attention of a7.h10 from END to YY", _DISCOVERY, "attention of a7.h10 from END to YY"),
    Claim("circuit discovery", "attention of a8.h11 from END to YY", _DISCOVERY, "attention of a8.h11 from END to YY"),
    Claim(
        "random circuits", "late half alone, share of clean", "random_circuit_ablation", "circuit's share of clean"
    ),
    Claim(
        "random circuits", "random circuits that recover less", "random_circuit_ablation",
        "random circuits that recover less",
    ),
    Claim(
        "PCA", "lost with the linear trace of YY erased (LEACE) from m8's input, in points", "pca_experiments",
        "input of m8 at END: change in probability difference, LEACE, YY as classes", -0.17, 0.05,
    ),
    Claim(
        "PCA", "lost with its top two PCA dimensions ablated, in points", "pca_experiments",
        "input of m8 at END: change in probability difference, PCA, top 2", 0.0, 0.05,
    ),
    Claim(
        "other prompts", "task 0 (started, ended), late half alone, share of clean", _TASKS,
        "task 0, late half: share of clean", 0.988, 0.05,
    ),
    Claim(
        "other prompts", "task 8 (prices), late half alone, share of clean", _TASKS,
        "task 8, late half: share of clean", 0.889, 0.05,
    ),
    Claim(
        "other prompts", "task 2 (list of years), late half alone, share of clean", _TASKS,
        "task 2, late half: share of clean", 0.678, 0.05,
    ),
    Claim(
        "other prompts", "task 2 with m7, a6.h1 and a7.h11 as well", _TASKS,
        "task 2, late half with m7, a6.h1 and a7.h11: share of clean", 0.903, 0.05,
    ),
    Claim("other prompts", "task 9 (five years), late half alone, share of clean", _TASKS,
        "task 9, late half: share of clean"),
)  # fmt: skip
