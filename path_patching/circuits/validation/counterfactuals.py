"""Test 6: does the circuit hold with other counterfactuals?

A scheme is one counterfactual: an engine with twins of its own, or mean or zero ablation, which need no twins.

    span = m(M) − m(∅),   F(C) = (m(C) − m(∅)) / span,   ρ = Spearman's correlation of its logits sweep with the first's

The circuit has k nodes with an edge to the logits; `leading` are those among the k strongest of the sweep. In the
correlation, effects that differ only by rounding have the same rank. A control changes what should not matter: its
span has to be small. A scheme whose span is less than a tenth of the first's is shown but not judged. Nor is zero
ablation judged: it also removes what is the same in all data, and a circuit that was found by twins does not have that.

    >>> schemes = [Scheme("01", engine), Scheme("mean ablation", engine, "mean")]
    >>> found = compare(schemes, Scale.of(engine, metric), circuit, {"late half": late_half(circuit, END)}, END)
    >>> found[1].name, round(found[0].rank_correlation, 6)
    ('mean ablation', ...)
    >>> print(*found[0].verdicts())
    late half, 01: does it hold with another counterfactual? F: ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from path_patching.bootstrap import Estimate
from path_patching.circuits.circuit import LOGITS, Circuit, bare, is_member
from path_patching.circuits.validation.measuring import ROUNDING, Scale, magnitude, measured
from path_patching.circuits.validation.verdicts import Verdict, judge
from path_patching.engine import Data, Engine, Request
from path_patching.errors import UserError
from path_patching.numbers import with_unit
from path_patching.paths import Node, PathSet
from path_patching.sweeps import effects_on, strongest

LEAST_SPAN = 0.1  # of the first scheme's span; a scheme with less is not judged


@dataclass(frozen=True, eq=False)
class Scheme:
    """A counterfactual: what replaces the clean data. A control should change nothing."""

    name: str
    engine: Engine
    """It has the same clean sentences in every scheme, and the scheme's own twins."""
    data: Data = "corrupted"
    control: bool = False


@dataclass(frozen=True, eq=False)
class Counterfactual:
    """A circuit measured with one scheme."""

    name: str
    control: bool
    span: Estimate
    of_first: Estimate
    """The span as a share of the first scheme's."""
    faithfulness: Mapping[str, Estimate]
    """F by part of the circuit."""
    sweep: torch.Tensor
    """The effect of each node at END on the logits directly, (L, H + 1)."""
    rank_correlation: float | None
    """Of this sweep and the first scheme's; None if all effects of either are equal."""
    leading: tuple[str, ...]
    """The circuit's nodes with an edge to the logits that are among the `of` strongest of the sweep."""
    of: int
    """How many nodes with an edge to the logits the circuit has."""

    of_what_differs: bool = True
    """Whether it removes only what differs between data; zero ablation also removes what is the same."""

    @property
    def too_weak(self) -> bool:
        """Whether the span is too small a share of the first's to judge a circuit."""
        return not abs(self.of_first.value) >= LEAST_SPAN

    def verdicts(self) -> tuple[Verdict, ...]:
        """On a control's span; on F of each part with another scheme, not judged if it is weak or zero ablation."""
        led = f"{len(self.leading)} of its {self.of} direct nodes are among the {self.of} strongest"
        alike = "none, all effects of one are equal"
        if self.rank_correlation is not None:
            alike = f"{self.rank_correlation:.2f}"
        remark = f"{led}; rank correlation with the first scheme's sweep: {alike}"
        if self.control:
            return (judge("control", magnitude(self.of_first), self.name, remark),)
        span = with_unit(self.of_first.value, "%")
        weak = f"its span is too small to judge: {span} of the first scheme's" if self.too_weak else ""
        unjudged = weak if self.of_what_differs else "zero ablation also removes what is the same in all data"
        return tuple(
            judge("counterfactual", estimate, f"{part}, {self.name}", remark, self.of_first.doubt or unjudged)
            for part, estimate in self.faithfulness.items()
        )


def compare(
    schemes: Sequence[Scheme], scale: Scale, circuit: Circuit, parts: Mapping[str, PathSet], end: int
) -> tuple[Counterfactual, ...]:
    """A circuit with each scheme, compared with the first; `parts` are its path sets by name, `end` is END.

    `scale` is that of the first scheme. Raises `UserError` if there is no scheme, or if one has other clean sentences.
    """
    if not schemes:
        raise UserError("no scheme is given; give one or more, the first to compare the others with")
    for each in schemes:
        if not torch.equal(each.engine.sentences.clean, schemes[0].engine.sentences.clean):
            raise UserError(f"{each.name} has other clean sentences than {schemes[0].name}; only twins may differ")
    direct = [bare(link.sender) for link in circuit.links if bare(link.reader) == LOGITS and is_member(link.sender)]
    logits, unit = PathSet.at(Node.logits(end)), ROUNDING * scale.span.mean().abs()
    sweeps = [effects_on(each.engine, logits, scale.metric, end, inside=each.data) for each in schemes]
    found = []
    for scheme, sweep in zip(schemes, sweeps, strict=True):
        requests = [Request.whole(scheme.data), *(Request.isolate(paths, scheme.data) for paths in parts.values())]
        nothing, *alone = measured(scheme.engine, requests, [scale.metric])[0]
        own = replace(scale, nothing=nothing)
        found.append(
            Counterfactual(
                scheme.name,
                scheme.control,
                span=own.mean(own.span),
                of_first=scale.of_span(own.span),
                faithfulness={part: own.normalized(each) for part, each in zip(parts, alone, strict=True)},
                sweep=sweep,
                rank_correlation=_alike(sweep, sweeps[0], unit) if not scale.is_flat else None,
                leading=tuple(name for name in strongest(sweep, len(direct)) if name in direct),
                of=len(direct),
                of_what_differs=scheme.data != "zero",
            )
        )
    return tuple(found)


def _alike(one: torch.Tensor, other: torch.Tensor, unit: torch.Tensor) -> float | None:
    """The rank correlation of two sweeps (L, H + 1), with effects rounded to a unit."""
    return spearman(*(each.flatten().div(unit).round() for each in (one, other)))


def ranks(values: torch.Tensor) -> torch.Tensor:
    """The rank of each number (n,), 1 for the smallest; equal numbers have the mean of their ranks."""
    ordered, order = values.sort(stable=True)
    _, group, counts = ordered.unique_consecutive(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    found = torch.empty(len(values), dtype=torch.float64)
    found[order] = (last - (counts - 1) / 2)[group]
    return found


def spearman(one: torch.Tensor, other: torch.Tensor) -> float | None:
    """Spearman's rank correlation of paired numbers (n,) and (n,); None if all of either are equal."""
    a, b = (each - each.mean() for each in (ranks(one), ranks(other)))
    product = float(a.norm() * b.norm())
    return float(a @ b) / product if product else None
