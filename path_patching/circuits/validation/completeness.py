"""Test 5: is nothing left out that takes over? (Completeness, as it was asked of later circuits.)

    |F(M∖K) − F(C∖K)|  for K empty, each class of nodes, each node, and random sets of nodes of the circuit C

M∖K is the model with the circuit's paths through K on corrupted data, C∖K the circuit alone without them. If the
circuit is all there is, what it loses with K is what the model loses.

    >>> paths, scale = late_half(circuit, END), Scale.of(engine, metric)
    >>> found = completeness(engine, scale, paths, YY, END, "late half")
    >>> [gap.removed for gap in found.gaps]  # a class of one is that node, and no set is there twice
    ['nothing', 'heads', 'MLPs', 'm1@END', 'm2@END', ...]
    >>> print(f"without {found.largest.removed}: {found.largest.gap}")  # of F, signed
    without ...: ... [..., ...]
    >>> [verdict.bar for verdict in found.verdicts()]
    ['completeness']
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from path_patching.bootstrap import Estimate
from path_patching.circuits.twins import check_yy
from path_patching.circuits.validation.measuring import Scale, isolated, magnitude, measured, removed
from path_patching.circuits.validation.members import by_name, classes, listed
from path_patching.circuits.validation.verdicts import Verdict, judge
from path_patching.engine import Engine
from path_patching.paths import Node, PathSet

RANDOM_SETS = 20


@dataclass(frozen=True)
class Gap:
    """F of the model and of the circuit alone, both without the same nodes K; `removed` says which in words."""

    removed: str
    nodes: tuple[str, ...]
    model: float
    """F(M∖K)."""
    circuit: float
    """F(C∖K)."""
    gap: Estimate
    """F(M∖K) − F(C∖K)."""


@dataclass(frozen=True)
class Completeness:
    """How far a circuit falls behind the model as nodes are removed from both."""

    subject: str
    gaps: tuple[Gap, ...]

    @property
    def largest(self) -> Gap:
        """The gap whose size is largest."""
        return max(self.gaps, key=lambda each: abs(each.gap.value))

    def verdicts(self) -> tuple[Verdict, ...]:
        """On the size of the largest gap."""
        largest = self.largest
        remark = f"without {largest.removed}" + (f": {listed(largest.nodes)}" if len(largest.nodes) > 1 else "")
        return (judge("completeness", magnitude(largest.gap), self.subject, remark),)


def completeness(
    engine: Engine,
    scale: Scale,
    paths: PathSet,
    yy: int,
    end: int,
    subject: str,
    seed: int = 0,
    random_sets: int = RANDOM_SETS,
    placed: bool = True,
) -> Completeness:
    """The gaps between model and circuit on the metric of a scale; a random set that was there before is left out.

    In a circuit without places (`placed=False`) a node is removed at all positions together.

    Raises `UserError` for paths without a node and, with places, for a `yy` at which no twin differs; `PathSetError`
    for paths that the model or its sentences do not have.
    """
    if placed:
        check_yy(engine.sentences, yy)
    nodes = by_name(paths, yy, end, placed)
    sets: dict[frozenset[Node], str] = {frozenset(): "nothing"}
    for group, of_group in classes(paths, yy, end, placed).items():
        sets.setdefault(frozenset(of_group), group)
    for name, own in nodes.items():
        sets.setdefault(own, name)
    for drawn in _drawn([*nodes], random_sets, seed):
        sets.setdefault(frozenset().union(*(nodes[name] for name in drawn)), f"{len(drawn)} nodes at random")
    requests = [removed(paths.passing(each)) for each in sets] + [isolated(paths.avoiding(each)) for each in sets]
    of_models, of_circuits = measured(engine, requests, [scale.metric])[0].tensor_split(2)
    both = zip(scale.of_means(of_models).tolist(), scale.of_means(of_circuits).tolist(), strict=True)
    gaps = [
        Gap(what, tuple(name for name, own in nodes.items() if own <= each), model, circuit, gap)
        for (each, what), (model, circuit), gap in zip(
            sets.items(), both, scale.of_spans(of_models - of_circuits), strict=True
        )
    ]
    return Completeness(subject, tuple(gaps))


def _drawn(names: Sequence[str], count: int, seed: int) -> list[list[str]]:
    """Sets of one node up to all, every size as likely as another."""
    rng = random.Random(seed)
    return [rng.sample(names, rng.randint(1, len(names))) for _ in range(count)]
