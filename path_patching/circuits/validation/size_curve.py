"""Test 7: how good is the best circuit of each size? Nodes at END added in the order of their |effect|.

    CPR = ∫ F(s) ds,   CMD = ∫ |1 − F(s)| ds,   s = share of the nodes at END, from 0 to 1 (trapezoids)

The circuit of k nodes has all paths from the logits through any chain of its MLPs to one of its heads. As in the late
half, everything that its heads read is clean. A node's effect is that on the logits through every chain of MLPs at END,
direct and by way of later MLPs. One half of the sentences ranks the nodes, F is measured on the other.

    >>> first, second = halves(97)  # rows of the sentences
    >>> metric = lambda probs: probs[:, 50:].sum(1)
    >>> order = ranked_nodes(engine.like(engine.sentences.rows(first)), metric, END)
    >>> evaluated = engine.like(engine.sentences.rows(second))
    >>> scale = Scale.of(evaluated, metric)
    >>> curve, by_chance = size_curve(evaluated, scale, order, END), random_curve(evaluated, scale, END)
    >>> curve.sizes, curve.faithfulness[0]
    ((0, 1, 2, 3, 4, 5, 6, 7, 8, 9), 0.0)
    >>> better = curve.cpr > by_chance.cpr, curve.cmd < by_chance.cmd
    >>> print(*on_curve(evaluated, scale, order, circuit, END).verdicts())
    late half: is it as good as the strongest nodes, as many as it has? ...
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from path_patching.bootstrap import Estimate
from path_patching.circuits.circuit import Circuit, late_half, nodes
from path_patching.circuits.validation.measuring import Scale, isolated, measured
from path_patching.circuits.validation.verdicts import Verdict, judge
from path_patching.engine import Engine
from path_patching.errors import UserError
from path_patching.numbers import with_unit
from path_patching.paths import Node, PathSet
from path_patching.sweeps import Metric, by_size, effects_of, every_node

ALL_UP_TO = 30  # up to this many nodes, every size is evaluated
STEP = 6  # between sizes above that
RANDOM_ORDERS = 5


@dataclass(frozen=True)
class Curve:
    """F of the circuits of each size."""

    sizes: tuple[int, ...]
    faithfulness: tuple[float, ...]

    @property
    def shares(self) -> tuple[float, ...]:
        """The sizes as shares of all nodes at END."""
        return tuple(size / self.sizes[-1] for size in self.sizes)

    @property
    def cpr(self) -> float:
        """∫F over the share of nodes: 1 if no node were needed, more if circuits outdo the model."""
        return area(self.shares, self.faithfulness)

    @property
    def cmd(self) -> float:
        """∫|1 − F| over the share of nodes: 0 if no node were needed."""
        return area(self.shares, [abs(1 - each) for each in self.faithfulness])


def halves(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of two random halves of n sentences, each in order; the second has one more if n is odd.

    Raises `UserError` for fewer than two sentences.
    """
    if n < 2:
        raise UserError(f"{n} sentence has no two halves, one to rank nodes and one to evaluate; give two or more")
    drawn = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return drawn[: n // 2].sort().values, drawn[n // 2 :].sort().values


def size_grid(n_nodes: int) -> tuple[int, ...]:
    """The sizes evaluated: each up to `ALL_UP_TO`, then every `STEP` nodes, and all nodes."""
    return tuple(sorted({*range(min(ALL_UP_TO, n_nodes) + 1), *range(ALL_UP_TO, n_nodes, STEP), n_nodes}))


def names_at_end(engine: Engine) -> tuple[str, ...]:
    """All heads and MLPs of the model, in the order of layers."""
    return tuple(node.name for node in every_node(engine, 0))


def ranked_nodes(engine: Engine, metric: Metric, end: int) -> tuple[str, ...]:
    """All heads and MLPs at END, from the largest |effect| on the logits through any chain of MLPs to the smallest.

    Effects that differ by less than 1e-7 are ranked in the order of layers, so that all engines rank alike.
    """
    every = every_node(engine, end)
    mlps = [node for node in every if node.kind == "mlp"]
    effects = effects_of(engine, PathSet.at(Node.logits(end)).through_chains(mlps), every, metric)
    return tuple(every[place].name for place in by_size(effects.tolist()))


def circuit_of(names: Sequence[str], end: int) -> PathSet | None:
    """All paths through any chain of the MLPs among some nodes at END to the heads among them; None without a head."""
    every = nodes(names, end)
    heads = [node for node in every if node.kind == "head"]
    if not heads:
        return None
    return PathSet.at(Node.logits(end)).through_chains(set(every) - set(heads)).extend(heads)


def size_curve(engine: Engine, scale: Scale, order: Sequence[str], end: int) -> Curve:
    """F of the circuit of the first k nodes of an order, for each size k; `scale` is that of the engine's sentences.

    Raises `UserError` unless the order has each node at END once.
    """
    every = names_at_end(engine)
    if sorted(order) != sorted(every):
        raise UserError(f"the order has to name each of the {len(every)} heads and MLPs once")
    sizes = size_grid(len(every))
    requests = [isolated(circuit_of(order[:size], end)) for size in sizes]
    scores = measured(engine, requests, [scale.metric])[0]  # (sizes, N)
    return Curve(sizes, tuple(scale.of_means(scores).tolist()))


def random_curve(engine: Engine, scale: Scale, end: int, orders: int = RANDOM_ORDERS, seed: int = 0) -> Curve:
    """The mean curve of several random orders."""
    rng, every = random.Random(seed), names_at_end(engine)
    drawn = [size_curve(engine, scale, rng.sample(every, len(every)), end) for _ in range(orders)]
    means = torch.tensor([curve.faithfulness for curve in drawn], dtype=torch.float64).mean(0)
    return Curve(drawn[0].sizes, tuple(means.tolist()))


def area(places: Sequence[float], values: Sequence[float]) -> float:
    """The area under straight lines between values at rising places."""
    return torch.trapezoid(torch.tensor(values, dtype=torch.float64), torch.tensor(places, dtype=torch.float64)).item()


@dataclass(frozen=True)
class OnCurve:
    """A circuit as a point beside the curve."""

    subject: str
    size: int
    """How many heads and MLPs its late half has."""
    own: Estimate
    """F of its late half."""
    best: Estimate
    """F of the same number of strongest nodes."""
    behind: Estimate
    """`best` minus `own`."""

    def verdicts(self) -> tuple[Verdict, ...]:
        """On how far the circuit is behind."""
        own, best = (with_unit(each.value, "%") for each in (self.own, self.best))
        shown = f"{self.size} nodes at END: F {own}, the strongest {best}"
        return (judge("on_curve", self.behind, self.subject, shown),)


def on_curve(engine: Engine, scale: Scale, order: Sequence[str], circuit: Circuit, end: int) -> OnCurve:
    """The late half of a circuit beside the circuit of the first nodes of an order, the same number at END."""
    late = late_half(circuit, end)
    size = sum(node.kind in ("head", "mlp") for node in late.nodes())
    requests = [isolated(late), isolated(circuit_of(order[:size], end))]
    own, best = measured(engine, requests, [scale.metric])[0]
    return OnCurve("late half", size, scale.normalized(own), scale.normalized(best), scale.of_span(best - own))
