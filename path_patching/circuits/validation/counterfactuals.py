"""Test 6: does the circuit depend on what it is tested against? Other counterfactuals than the first.

A scheme of counterfactual is an engine whose twins are made by it, or mean or zero ablation, which need no twins:

    span = m(M) − m(∅),   F(C) = (m(C) − m(∅)) / span,   ρ = Spearman's correlation of its logits sweep with the first's

`leading` are those of the circuit's k nodes with an edge to the logits that are among the k strongest of the sweep; in
the correlation, effects that differ by no more than rounding have one rank. A control changes what should not matter:
it is judged by how small its span is. A scheme with less than a tenth of the first's span is too weak to judge a
circuit by, and is shown all the same; so is zero ablation, which takes away what all data have in common as well, and
which no circuit that was found by twins can make up for.

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
from path_patching.paths import Node, PathSet
from path_patching.sweeps import effects_on, strongest

LEAST_SPAN = 0.1  # of the first scheme's; with less, nothing is judged


@dataclass(frozen=True, eq=False)
class Scheme:
    """A counterfactual: what stands in for the clean data. A control is one that should change nothing."""

    name: str
    engine: Engine
    """Its sentences are everyone's, its twins the scheme's own."""
    data: Data = "corrupted"
    control: bool = False


@dataclass(frozen=True, eq=False)
class Counterfactual:
    """What a scheme says of a circuit."""

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
    """Of the sweep with the first scheme's; None where all effects of one are equal, as where nothing acts."""
    leading: tuple[str, ...]
    """The circuit's nodes with an edge to the logits that are among the `of` strongest."""
    of: int
    """How many such nodes the circuit has."""

    of_what_differs: bool = True
    """Whether it asks for what differs between data; zero ablation asks for what is the same in all of them, too."""

    @property
    def too_weak(self) -> bool:
        """Whether the span is too small beside the first's to judge a circuit by."""
        return not abs(self.of_first.value) >= LEAST_SPAN

    def verdicts(self) -> tuple[Verdict, ...]:
        """A control by its span; another scheme by the F of each part, unless it is too weak or asks for more."""
        led = f"{len(self.leading)} of its {self.of} direct nodes lead the sweep on the logits"
        alike = "not judged, all effects of one being equal"
        if self.rank_correlation is not None:
            alike = f"{self.rank_correlation:.2f}"
        remark = f"{led}; its rank correlation with the first: {alike}"
        if self.control:
            return (judge("control", magnitude(self.of_first), self.name, remark),)
        weak = f"too weak to judge by: its span is {self.of_first.value:.3f} of the first" if self.too_weak else ""
        unjudged = weak if self.of_what_differs else "it asks for what writes the same on all data, too"
        return tuple(
            judge("counterfactual", estimate, f"{part}, {self.name}", remark, self.of_first.doubt or unjudged)
            for part, estimate in self.faithfulness.items()
        )


def compare(
    schemes: Sequence[Scheme], scale: Scale, circuit: Circuit, parts: Mapping[str, PathSet], end: int
) -> tuple[Counterfactual, ...]:
    """What each scheme says of a circuit, whose `parts` are path sets by name, and whose END is at `end`.

    The first scheme is what others are held to, and `scale` is its own. Raises `UserError` if there is no scheme, or if
    one has other clean sentences.
    """
    if not schemes:
        raise UserError("no scheme of counterfactual is given; the first is what others are held to")
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
    """The rank correlation of two sweeps (L, H + 1), of which what differs by less than a unit has one rank."""
    return spearman(*(each.flatten().div(unit).round() for each in (one, other)))


def ranks(values: torch.Tensor) -> torch.Tensor:
    """The rank of each of some numbers (n,), from 1 for the smallest; equal ones share the mean of theirs."""
    ordered, order = values.sort(stable=True)
    _, group, counts = ordered.unique_consecutive(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    found = torch.empty(len(values), dtype=torch.float64)
    found[order] = (last - (counts - 1) / 2)[group]
    return found


def spearman(one: torch.Tensor, other: torch.Tensor) -> float | None:
    """Spearman's rank correlation of paired numbers (n,) and (n,); None where all of one are equal."""
    a, b = (each - each.mean() for each in (ranks(one), ranks(other)))
    product = float(a.norm() * b.norm())
    return float(a @ b) / product if product else None
