"""What a claim of the paper is, where a run measures it, and whether the two are alike. `paper_claims.py` lists them.

A claim is of GPT-2 small alone and, if it is `of_circuit`, of the paper's circuit; of another model or circuit the
paper says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from artifacts import Artifacts
from bootstrap import Estimate
from circuit import PAPER
from path_patching.iterative import strongest

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
