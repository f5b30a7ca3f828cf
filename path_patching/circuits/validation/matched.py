"""Test 3: do random circuits of its shape do less? (Section 5 draws some; here with a p-value.)

    p = (1 + #{F(random) ≥ F(C)}) / (1 + drawn),  for complements p = (1 + #{F(M∖random) ≤ F(M∖C)}) / (1 + drawn)

A circuit is better if it does more alone, or if less is left without it. The random circuits differ from C and from
each other. They come from any layers, or have the MLPs of C and as many heads in each layer. If a model has only a few
such circuits, all are drawn.

    >>> scale = Scale.of(engine, metric)
    >>> found = matched(engine, scale, circuit, lambda drawn: late_half(drawn, END), "any layers", "late half", count=3)
    >>> found.alone.shape, found.without.shape  # F of each random circuit, and of its complement; here there is one
    (torch.Size([1]), torch.Size([1]))
    >>> found.p_alone in (1 / 2, 1)
    True
    >>> [verdict.passed for verdict in found.verdicts()]  # one is too few
    [None, None]
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch

from path_patching.circuits.circuit import Circuit
from path_patching.circuits.random_circuits import matched_circuit, random_circuit
from path_patching.circuits.validation.measuring import Scale, measured
from path_patching.circuits.validation.verdicts import BARS, Verdict, judge
from path_patching.engine import Engine, Request
from path_patching.errors import UserError
from path_patching.gpt2.model import Architecture
from path_patching.paths import PathSet

Kind = Literal["any layers", "same layers"]

CIRCUITS = 200
TRIES = 200  # draws in a row without a new circuit, before giving up
TIE = 1e-6  # of F: rounding must not make a circuit pass

Part = TypeVar("Part", bound=Hashable)
Draw = Callable[[Circuit, Architecture, random.Random], Circuit]
DRAWS: dict[Kind, Draw] = {"any layers": random_circuit, "same layers": matched_circuit}


@dataclass(frozen=True, eq=False)
class Matched:
    """F of a circuit and of R random ones, alone and of their complements."""

    subject: str
    kind: Kind
    own_alone: float
    """F(C)."""
    own_without: float
    """F(M∖C)."""
    alone: torch.Tensor
    """F(random), (R,) float64."""
    without: torch.Tensor
    """F(M∖random), (R,) float64."""
    doubt: str = ""
    """Why nothing can be judged; "" if it can."""

    @property
    def p_alone(self) -> float:
        """The share of circuits, with C, that do at least as much alone."""
        return p_value(self.alone, self.own_alone)

    @property
    def p_without(self) -> float:
        """The share of circuits, with C, that leave at most as much when they are removed."""
        return p_value(-self.without, -self.own_without)

    def verdicts(self) -> tuple[Verdict, ...]:
        """On the circuit alone and on its complement; not judged if too few were drawn for any to pass."""
        drawn = len(self.alone)
        most = BARS["random"].most
        too_few = most is not None and 1 / (1 + drawn) > most
        unjudged = self.doubt or ("too few random circuits; --circuits draws more" if too_few else "")
        says = [
            f"{as_much(self.alone, self.own_alone)} of {drawn} drawn do as much",
            f"{as_much(-self.without, -self.own_without)} of {drawn} drawn take as much",
        ]
        return (
            judge("random", self.p_alone, f"{self.subject} alone, {self.kind}", says[0], unjudged),
            judge("random", self.p_without, f"complement of the {self.subject}, {self.kind}", says[1], unjudged),
        )


def p_value(drawn: torch.Tensor, own: float) -> float:
    """(1 + #{drawn ≥ own}) / (1 + R) of (R,) random values."""
    return (1 + as_much(drawn, own)) / (1 + len(drawn))


def least_to_pass(drawn: torch.Tensor) -> float | None:
    """The value that a circuit has to exceed to pass among (R,) random values; None if they are too few."""
    as_many = int((BARS["random"].most or 0) * (1 + len(drawn)))  # the circuit itself counts as one
    return drawn.sort(descending=True).values[as_many - 1].item() if as_many else None


def as_much(drawn: torch.Tensor, own: float) -> int:
    """#{drawn ≥ own} of (R,) random values; one that is less only by rounding counts, and so does NaN."""
    return int((~(drawn < own - TIE)).sum())


def matched(
    engine: Engine,
    scale: Scale,
    circuit: Circuit,
    part: Callable[[Circuit], PathSet],
    kind: Kind,
    subject: str,
    count: int = CIRCUITS,
    seed: int = 0,
) -> Matched:
    """A circuit beside `count` random ones, or all that there are, on the metric of a scale.

    `part` gives the paths of a circuit: its late half, say. Raises `UserError` if there is no other circuit.
    """
    drawn = random_parts(circuit, part, kind, engine.model.architecture, count, seed)
    paths = [part(circuit), *drawn]
    requests = [Request.isolate(each) for each in paths] + [Request.patch(each) for each in paths]
    alone, without = scale.of_means(measured(engine, requests, [scale.metric])[0]).tensor_split(2)
    return Matched(subject, kind, alone[0].item(), without[0].item(), alone[1:], without[1:], scale.doubt)


def random_parts(
    circuit: Circuit,
    part: Callable[[Circuit], Part],
    kind: Kind,
    architecture: Architecture,
    count: int,
    seed: int = 0,
) -> list[Part]:
    """The part of `count` random circuits, or of as many as are found; all differ, also from the circuit's own.

    Raises `UserError` if none can.
    """
    if count < 1:
        raise UserError(f"{count} random circuits are too few; draw at least one")
    rng, own = random.Random(seed), part(circuit)
    found: dict[Part, None] = {}  # in the order in which they were drawn
    tries = 0
    while len(found) < count and tries < TRIES:
        drawn = part(DRAWS[kind](circuit, architecture, rng))
        tries = tries + 1 if drawn == own or drawn in found else 0
        if drawn != own:
            found[drawn] = None
    if not found:
        raise UserError(
            f"{architecture.n_layers} layers of {architecture.n_heads} heads have no other circuit of the shape of "
            f"{circuit.name} ({kind}); draw from {'a larger model' if kind == 'any layers' else 'any layers'}"
        )
    return [*found]
