"""Every number of the paper, and every fact of its figures that a run can be held to, in the order of its sections.

What the paper does not give, and a reader may want beside the rest, is listed without it. The tolerances are ours: a
few points for means over other sentences than the paper's, of which it does not release the seeds; more where it says
“about”. That heads mostly raise YY itself, and m9 and m10 the years above it, is read off its figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from path_patching.bootstrap import Estimate
from path_patching.circuits.circuit import LOGITS, Circuit
from path_patching.sweeps import strongest
from reproduction.run import Artifacts

Verdict = Literal["agrees", "differs"]
Unit = Literal["%", "points", ""]  # a share of one in percent; a change of one in hundredths; anything else as it is


@dataclass(frozen=True)
class Stated:
    """What the paper says of a number, in words, and between which ends a measurement is like it."""

    words: str
    low: float
    high: float


@dataclass(frozen=True)
class Leaders:
    """The strongest nodes of a sweep and their effects, changes of the mean probability difference."""

    names: tuple[str, ...]
    effects: tuple[float, ...]

    def __str__(self) -> str:
        """Each node with its effect, in points, which no line break parts."""
        pairs = zip(self.names, self.effects, strict=True)
        return ", ".join(f"{name}\N{NO-BREAK SPACE}{_number(effect, 'points')}" for name, effect in pairs)


@dataclass(frozen=True)
class Claim:
    """A number that a `script` measures and records as `number`; `stated` is None if the paper does not give it."""

    section: str
    what: str
    script: str
    number: str
    stated: Stated | None = None
    unit: Unit = "%"
    of_circuit: bool = False

    @property
    def expected(self) -> str:
        """What the paper says, with the tolerance."""
        return self.stated.words if self.stated else ""

    def measure(self, made: Artifacts) -> Estimate | float | str | None:
        """What a run measured; None if it did not."""
        found = made.record["numbers"].get(self.number)
        return Estimate(**found) if isinstance(found, Mapping) else found

    def shown(self, measured: Estimate | float | str) -> str:
        """A measurement with its unit and, where it has one, its 95 % interval."""
        if isinstance(measured, str):
            return measured
        if not isinstance(measured, Estimate):
            return with_unit(measured, self.unit)
        low, high = (_number(end, self.unit) for end in (measured.low, measured.high))
        return f"{with_unit(measured.value, self.unit)} [{low} … {high}]"

    def verdict(self, measured: Estimate | float) -> Verdict | None:
        """Whether a measurement is within the tolerance."""
        if self.stated is None:
            return None
        value = measured.value if isinstance(measured, Estimate) else measured
        return "agrees" if self.stated.low <= value <= self.stated.high else "differs"


@dataclass(frozen=True)
class LeadingNodes:
    """A fact of a figure: which nodes lead a sweep. At least `enough` of the paper's are among as many strongest.

    Without nodes, where the paper names none, the five strongest are shown.
    """

    section: str
    what: str
    artifact: str
    nodes: tuple[str, ...] = ()
    enough: int = 0
    script: str = "circuit_discovery"
    heads_only: bool = False
    of_circuit: bool = False

    @property
    def expected(self) -> str:
        """The paper's nodes, and how many of them count as alike."""
        if len(self.nodes) < 2:
            return "".join(self.nodes)
        return f"{', '.join(self.nodes)} (≥ {self.enough} of {len(self.nodes)})"

    def measure(self, made: Artifacts) -> Leaders | None:
        """The strongest nodes of the run's sweep, as many as the paper names; None if there is no such sweep."""
        if self.artifact not in made.record["artifacts"]:
            return None
        effects = made.load(self.artifact)
        ranked = strongest(effects, effects.numel())
        names = [name for name in ranked if not self.heads_only or name[0] == "a"][: len(self.nodes) or 5]
        return Leaders(tuple(names), tuple(ranked[name] for name in names))

    def shown(self, measured: Leaders) -> str:
        """Nodes and effects."""
        return str(measured)

    def verdict(self, measured: Leaders) -> Verdict | None:
        """Whether enough of the paper's nodes are among the strongest."""
        if not self.nodes:
            return None
        return "agrees" if len({*measured.names} & {*self.nodes}) >= self.enough else "differs"


Measured = Estimate | Leaders | float | str


def is_of_paper(claim: Claim | LeadingNodes, made: Artifacts) -> bool:
    """Whether the paper speaks of what was measured: GPT-2 small and, where that matters, its own circuit."""
    if not made.record["model"]["is_gpt2_small"]:
        return False
    return not claim.of_circuit or made.record["numbers"].get("circuit") == PAPER.name


def with_unit(value: float, unit: Unit) -> str:
    """A number as the table shows it: 81.7 %, −17.0 points, 2.35."""
    return f"{_number(value, unit)} {unit}".rstrip()


def _number(value: float, unit: Unit) -> str:
    rounded = round(100 * value, 1) if unit else round(value, 2)
    text = f"{rounded + 0.0:.{1 if unit else 2}f}"  # a sum with 0.0 is never −0.0
    return text.replace("-", "−")


PAPER = Circuit(
    name="the paper's circuit",
    mlps=("m8", "m9", "m10", "m11"),
    heads=("a5.h1", "a5.h5", "a6.h9", "a7.h10", "a8.h8", "a8.h11", "a9.h1"),
    heads_feed=(LOGITS, "m8", "m9", "m10", "m11"),
    first_below=("m0", "m1", "m2", "m3", "a0.h1", "a0.h3", "a0.h5"),
    further_below=("m0", "m1", "m2", "m3", "a0.h1"),
    studied=("a7.h10", "a8.h11", "a9.h1"),
)


def _near(value: float, tolerance: float, unit: Unit = "%", about: str = "") -> Stated:
    return Stated(f"{about}{with_unit(value, unit)} ± {100 * tolerance:g}", value - tolerance, value + tolerance)


_ABOUT, _SD = "about ", "standard deviation"
_MOSTLY = Stated("mostly", 0.5, 1.0)
_ABOVE_ZERO, _BELOW_ZERO = Stated("above 0", 0.0, math.inf), Stated("below 0", -math.inf, 0.0)
_DISCOVERY, _BIG, _NEURONS = "circuit_discovery", "big_ds_experiments", "neuron_investigations"
_TASKS, _PCA, _RANDOM = "sequence_generalization", "pca_experiments", "random_circuit_ablation"

_MODEL = tuple(
    Claim("the model", *each)
    for each in (
        ("probability difference", _BIG, "clean: probability difference", _near(0.817, 0.03)),
        (f"probability difference, {_SD}", _BIG, f"clean: probability difference, {_SD}"),
        ("cutoff sharpness", _BIG, "clean: cutoff sharpness", _near(0.06, 0.015, about=_ABOUT)),
        (f"cutoff sharpness, {_SD}", _BIG, f"clean: cutoff sharpness, {_SD}"),
        ("probability difference, all on 01 data", _BIG, "all on 01 data: probability difference"),
        ("before XX2, probability of centuries from XX1 on", "topk_years",
         "before XX2, top 100: probability of centuries from XX1 on"),
        ("before XX2, probability of XX1", "topk_years", "before XX2, top 100: probability of XX1"),
        ("at END, probability of years from YY on among the 5 likeliest tokens", "topk_years",
         "at END, top 5: probability of years from YY on"),
        ("at END, how many of these 5 are years from YY on", "topk_years",
         "at END, top 5: how many are years from YY on", None, ""),
        ("after five random years, probability of YY5 + 1", "random_years", "probability of YY5 + 1"),
        ("after five random years, probability of all later years", "random_years",
         "probability of years later than YY5"),
        ("after five random years, probability of the other years", "random_years",
         "probability of years not later than YY5"),
    )
)  # fmt: skip

_CIRCUIT = tuple(
    Claim("the circuit, alone and impeded", *each, of_circuit=True)
    for each in (
        ("late half alone, probability difference", _BIG, "late half alone: probability difference",
         _near(0.727, 0.03)),
        ("late half alone, share of clean", _BIG, "late half alone: probability difference, share of clean",
         _near(0.895, 0.03)),
        ("late half alone, cutoff sharpness", _BIG, "late half alone: cutoff sharpness",
         _near(0.08, 0.02, about=_ABOUT)),
        ("all but the late half, probability difference", _BIG, "all but the late half: probability difference",
         _near(-0.366, 0.05)),
        ("full circuit alone, probability difference", _BIG, "full circuit alone: probability difference",
         _near(0.715, 0.03)),
        ("full circuit alone, share of clean", _BIG, "full circuit alone: probability difference, share of clean"),
        ("full circuit alone, cutoff sharpness", _BIG, "full circuit alone: cutoff sharpness"),
        ("share of the late half lost with its heads' queries and keys on 01 data", _BIG,
         "queries and keys on 01 data cost, as a share of the late half", _near(0.15, 0.05, about=_ABOUT)),
        ("random circuits that recover less", _RANDOM, "random circuits that recover less"),
        ("its heads and MLPs", _DISCOVERY, "circuit's heads and MLPs"),
    )
)  # fmt: skip

_NODES = "the strongest nodes, effects in points"
_BELOW_M8 = ("a5.h1", "a5.h5", "a6.h9", "a7.h10", "a8.h8", "a8.h11")
_SWEEPS = (
    LeadingNodes(_NODES, "on the logits", "ipp_logits.pt", ("m8", "m9", "m10", "m11", "a9.h1"), 4),
    *(
        LeadingNodes(_NODES, *each, of_circuit=True)
        for each in (
            ("through m11", "ipp_mlp11.pt"),
            ("through m10", "ipp_mlp10.pt"),
            ("through m9", "ipp_mlp9.pt"),
            ("through m8", "ipp_mlp8.pt"),
            ("at END, through the heads' queries", "attn_q.pt"),
            ("at YY, through the heads' keys", "attn_k.pt"),
            ("at YY, through the heads' values", "attn_v.pt", (*PAPER.lower,), 5),
            ("at YY, through m3 and the values", "results_mlp3.pt"),
            ("at YY, through m2 and the values", "results_mlp2.pt"),
            ("at YY, through m1 and the values", "results_mlp1.pt"),
        )
    ),
    *(
        LeadingNodes(_NODES, *each, of_circuit=True, heads_only=True)
        for each in (
            ("heads alone, through m9", "ipp_mlp9.pt", ("a9.h1",), 1),
            ("heads alone, through m8", "ipp_mlp8.pt", _BELOW_M8, 4),
        )
    ),
)

_PARTS = tuple(
    Claim("heads, MLPs and neurons by themselves", number, script, number, *more)
    for script, number, *more in (
        *((_DISCOVERY, f"attention of {head} from END to YY") for head in PAPER.studied[:2]),
        *((_DISCOVERY, f"logit lens of {head}: YY is the highest year", _MOSTLY) for head in PAPER.studied),
        (_DISCOVERY, "logit lens of m8: YY is the highest year"),
        (_DISCOVERY, "logit lens of m9: years above YY minus the others", _ABOVE_ZERO, ""),
        (_DISCOVERY, "logit lens of m10: years above YY minus the others", _ABOVE_ZERO, ""),
        (_DISCOVERY, "logit lens of m11: years above YY minus the others", None, ""),
        (_NEURONS, "direct effect of m10", None, "points"),
        (_NEURONS, "direct effects of its neurons, summed", None, "points"),
        (_NEURONS, "share of that sum in the strongest 10"),
        (_NEURONS, "mean |year logit| lost, strongest neurons patched together", None, ""),
        (_NEURONS, "the same, patched alone and summed", None, ""),
    )
)

_CHANGE, _CONTROLS = "change in probability difference", "the same of controls"
_CLASSES, _NUMBER, _TOP2 = "LEACE, YY as classes", "LEACE, YY as a number", "PCA, top 2"
_EDITED = tuple(
    Claim("activations edited, in points", f"{place}: {by}, {edit}", _PCA, f"{place}: {by}, {edit}", stated, "points")
    for place, by, edit, stated in (
        ("input of m8 at END", _CHANGE, _CLASSES, _near(-0.17, 0.05, "points", _ABOUT)),
        ("input of m8 at END", _CONTROLS, _CLASSES, None),
        ("input of m8 at END", _CHANGE, _NUMBER, None),
        ("input of m8 at END", _CHANGE, _TOP2, Stated("little (± 5)", -0.05, 0.05)),
        ("input of m8 at END", _CONTROLS, _TOP2, None),
        ("output of a7.h10 at END", _CHANGE, _CLASSES, None),
        ("output of a7.h10 at END", _CHANGE, _TOP2, None),
        ("output of a7.h8 at END", _CHANGE, _CLASSES, None),
        ("output of a7.h8 at END", _CHANGE, _TOP2, None),
        ("embedding of YY", _CHANGE, _CLASSES, None),
        ("embedding of YY", _CHANGE, _TOP2, None),
    )
)

_OTHER = "other prompts"
_PROMPTS = (
    "started … ended", "some years later", "a list of years", "a falling list of years", "an arithmetic progression",
    "is smaller than", "ended … started", "years BC", "prices", "five random years",
)  # fmt: skip
_TASK_NAMES = tuple(f"task {number} ({prompt})" for number, prompt in enumerate(_PROMPTS))
_OTHER_PROMPTS = (
    *(
        Claim(_OTHER, f"{_TASK_NAMES[task]}, {what}", _TASKS, f"task {task}, {what}", stated, of_circuit=True)
        for task, what, stated in (
            (0, "late half: share of clean", _near(0.988, 0.05)),
            (8, "late half: share of clean", _near(0.889, 0.05)),
            (2, "late half: share of clean", _near(0.678, 0.05)),
            (2, "late half with m7, a6.h1 and a7.h11: share of clean", _near(0.903, 0.05)),
            (9, "late half: share of clean", None),
        )
    ),
    *(
        Claim(
            _OTHER, f"{name}, probability difference", _TASKS, f"task {task}: probability difference",
            _BELOW_ZERO if task in (6, 7) else None,
        )
        for task, name in enumerate(_TASK_NAMES)
    ),
    *(
        LeadingNodes(f"{_OTHER}, {_NODES}", f"on the logits in {name}", f"generalization/ipp_{task}.pt", script=_TASKS)
        for task, name in enumerate(_TASK_NAMES)
    ),
)  # fmt: skip

CLAIMS: tuple[Claim | LeadingNodes, ...] = (*_MODEL, *_CIRCUIT, *_SWEEPS, *_PARTS, *_EDITED, *_OTHER_PROMPTS)
