"""Test 5: is nothing missing from the circuit? (Completeness, from *Interpretability in the Wild*.)

    |F(M∖K) − F(C∖K)|  for K empty, each class of nodes, each node, and random and greedy sets of nodes of the circuit C

M∖K is the model with the circuit's paths through K on corrupted data, C∖K the circuit alone without them. If nothing
is missing, circuit and model lose the same without K. If the model keeps more, something else does what K did: nodes
outside, or links between the circuit's own nodes that it lacks. A greedy set starts with the node that leaves the
widest gap, and adds the node that widens it most, up to five nodes. The set with the largest upper end of the gap's
interval is judged.

    >>> paths, scale = late_half(circuit, END), Scale.of(engine, metric)
    >>> found = completeness(engine, scale, paths, YY, END, "late half")
    >>> [gap.removed for gap in found.gaps]  # a class of one node has that node's name; no set is there twice
    ['nothing', 'heads', 'MLPs', 'm1@END', 'm2@END', ...]
    >>> print(f"without {found.largest.removed}: {found.largest.gap}")  # of F, signed
    without ...: ... [..., ...]
    >>> [verdict.bar for verdict in found.verdicts()]
    ['completeness']
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from path_patching.bootstrap import Estimate
from path_patching.circuits.twins import check_yy
from path_patching.circuits.validation.measuring import Scale, isolated, magnitude, measured, removed
from path_patching.circuits.validation.members import by_name, classes, listed
from path_patching.circuits.validation.verdicts import BARS, Verdict, joined, judge
from path_patching.engine import Engine
from path_patching.paths import Node, PathSet

Nodes = frozenset[Node]

RANDOM_SETS = 20
GREEDY = 5  # nodes
CANDIDATES = 10  # for a greedy set: the nodes that leave the widest gaps alone


@dataclass(frozen=True)
class Gap:
    """F of the model and of the circuit alone, both without the nodes K; `removed` describes K."""

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
    """The gaps between a circuit and the model as nodes are removed from both."""

    subject: str
    gaps: tuple[Gap, ...]

    @property
    def largest(self) -> Gap:
        """The gap whose absolute value has the largest upper end of its interval."""
        return max(self.gaps, key=lambda each: magnitude(each.gap).ends[1])

    def verdicts(self) -> tuple[Verdict, ...]:
        """On the absolute value of `largest`."""
        largest = self.largest
        without = f"without {largest.removed}" + (f": {listed(largest.nodes)}" if len(largest.nodes) > 1 else "")
        more = "the model keeps more: nodes outside do it, too, or links between the circuit's own nodes are missing"
        less = "the circuit keeps more: something outside works against it"
        wide = BARS["completeness"].side(abs(largest.gap.value)) == 1
        says = (more if largest.gap.value > 0 else less) if wide else ""
        return (judge("completeness", magnitude(largest.gap), self.subject, joined(without, says)),)


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
    """The gaps between model and circuit on the metric of a scale, for each set of nodes once.

    In a circuit without places (`placed=False`) a node is removed at all positions together.

    Raises `UserError` for paths without a node and, with places, for a `yy` at which no twin differs; `PathSetError`
    for paths that the model or its sentences do not have.
    """
    if placed:
        check_yy(engine.sentences, yy)
    nodes = by_name(paths, yy, end, placed)
    sets: dict[Nodes, str] = {frozenset(): "nothing"}
    for group, of_group in classes(paths, yy, end, placed).items():
        sets.setdefault(frozenset(of_group), group)
    for name, own in nodes.items():
        sets.setdefault(own, name)
    for drawn in _drawn([*nodes], random_sets, seed):
        sets.setdefault(frozenset().union(*(nodes[name] for name in drawn)), f"{len(drawn)} nodes at random")
    scores = _scores(engine, scale, paths, [*sets])
    for grown, score in _grown(engine, scale, paths, nodes, dict(zip(sets, scores, strict=True))).items():
        if grown not in sets:
            sets[grown] = f"{sum(own <= grown for own in nodes.values())} nodes chosen greedily"
            scores.append(score)
    of_models, of_circuits = torch.stack(scores, 1)
    both = zip(scale.of_means(of_models).tolist(), scale.of_means(of_circuits).tolist(), strict=True)
    gaps = [
        Gap(what, tuple(name for name, own in nodes.items() if own <= each), model, circuit, gap)
        for (each, what), (model, circuit), gap in zip(
            sets.items(), both, scale.of_spans(of_models - of_circuits), strict=True
        )
    ]
    return Completeness(subject, tuple(gaps))


def _scores(engine: Engine, scale: Scale, paths: PathSet, sets: Sequence[Nodes]) -> list[torch.Tensor]:
    """The metric of the model and of the circuit alone, both without each set of nodes: (2, N) for each."""
    requests = [removed(paths.passing(each)) for each in sets] + [isolated(paths.avoiding(each)) for each in sets]
    found = measured(engine, requests, [scale.metric])[0]
    return [*found.unflatten(0, (2, -1)).transpose(0, 1)]


def _grown(
    engine: Engine, scale: Scale, paths: PathSet, nodes: Mapping[str, Nodes], known: Mapping[Nodes, torch.Tensor]
) -> dict[Nodes, torch.Tensor]:
    """Greedy sets of two to `GREEDY` nodes with their scores (2, N), as long as the gap widens.

    `known` has the scores of single nodes.
    """

    def width(score: torch.Tensor) -> float:
        return abs((score[0] - score[1]).mean().item())

    candidates = sorted(nodes.values(), key=lambda own: -width(known[own]))[:CANDIDATES]
    grown, widest = candidates[0], width(known[candidates[0]])
    found: dict[Nodes, torch.Tensor] = {}
    while len(found) < GREEDY - 1:
        larger = [grown | own for own in candidates if not own <= grown]
        if not larger:
            break
        scores = dict(zip(larger, _scores(engine, scale, paths, larger), strict=True))
        grown = max(scores, key=lambda each: width(scores[each]))
        if not width(scores[grown]) > widest:
            break
        widest, found[grown] = width(scores[grown]), scores[grown]
    return found


def _drawn(names: Sequence[str], count: int, seed: int) -> list[list[str]]:
    """Random sets of nodes; all sizes from one to all nodes are equally likely."""
    rng = random.Random(seed)
    return [rng.sample(names, rng.randint(1, len(names))) for _ in range(count)]
