"""Random circuits of the same shape as a given one, which show what any such circuit would recover.

A circuit of a few nodes means something only if others of as many nodes, linked alike, recover less. Their nodes are
drawn from any layers, or each head from the layer of the one whose place it takes, the MLPs staying what they are.

    >>> another = random_circuit(circuit, model.architecture, random.Random(0))
    >>> len(another.mlps), len(another.heads), len(another.lower)  # as many as in `circuit`
    (2, 1, 1)
    >>> alone = metric(engine.isolate(late_half(another, END))).mean()
    >>> matched_circuit(circuit, model.architecture, random.Random(0)).heads  # in place of a1.h0, of two in its layer
    ('a1.h1',)
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import groupby

from path_patching.circuits.circuit import Circuit, in_order, nodes
from path_patching.errors import UserError
from path_patching.gpt2.model import Architecture
from path_patching.paths import Node, layer_nodes

DRAWS = 1000  # of a random circuit, before it is given up


def random_circuit(circuit: Circuit, architecture: Architecture, rng: random.Random) -> Circuit:
    """A circuit of the same shape, its nodes drawn at random from all that a model has.

    It has as many heads and MLPs at END and at YY, none twice, linked alike: each takes the place of one of its kind,
    in the order of layers. Heads are drawn from those that come before the last of their readers, nodes at YY from
    those that its last head can read. Raises `UserError` if the model has too few nodes.
    """
    n_layers, n_heads = architecture.n_layers, architecture.n_heads
    everything = [each for layer in range(n_layers) for each in layer_nodes(layer, n_heads, 0)]
    for _ in range(DRAWS):
        mlps = _drawn(circuit.mlps, everything, rng)
        fed = _renamed(circuit.heads_feed, mlps)
        heads = _drawn(circuit.heads, _before(fed, everything), rng)
        lower = _drawn(circuit.lower, _before(heads.values(), everything), rng)
        if (len(mlps), len(heads), len(lower)) != (len(circuit.mlps), len(circuit.heads), len(circuit.lower)):
            continue
        with suppress(UserError):  # a node is on no path
            return _in_their_place(circuit, mlps, heads, lower)
    raise UserError(
        f"{n_layers} layers of {n_heads} heads have no circuit of the shape of {circuit.name}: "
        f"{len(circuit.heads)} heads and {len(circuit.mlps)} MLPs at END, {len(circuit.lower)} nodes at YY below them"
    )


def matched_circuit(circuit: Circuit, architecture: Architecture, rng: random.Random) -> Circuit:
    """Another circuit of the same shape, with as many heads in each layer, at END and at YY, and the same MLPs.

    Raises `UserError` if the model has no other: in each layer with a head of the circuit, all heads are its own.
    """
    for _ in range(DRAWS):
        heads = _drawn_by_layer(circuit.heads, architecture.n_heads, rng)
        lower = _drawn_by_layer(circuit.lower, architecture.n_heads, rng)
        drawn = _in_their_place(circuit, {}, heads, lower)
        if _roles(drawn) != _roles(circuit):
            return drawn
    raise UserError(
        f"layers of {architecture.n_heads} heads have no other circuit with as many heads in each as {circuit.name}; "
        "draw from any layers"
    )


def _roles(circuit: Circuit) -> tuple[set[str], ...]:
    """What is drawn of a circuit with its MLPs given, in no order."""
    return {*circuit.heads}, {*circuit.first_below}, {*circuit.further_below}


def _in_their_place(
    circuit: Circuit, mlps: Mapping[str, str], heads: Mapping[str, str], lower: Mapping[str, str]
) -> Circuit:
    """The circuit with other nodes in the place of its own. Raises `UserError` if one of them is on no path."""
    return replace(
        circuit,
        name="a random circuit",
        mlps=_renamed(circuit.mlps, mlps),
        heads=_renamed(circuit.heads, heads),
        heads_feed=_renamed(circuit.heads_feed, mlps),
        first_below=_renamed(circuit.first_below, lower),
        further_below=_renamed(circuit.further_below, lower),
        studied=(),
    )


def _drawn_by_layer(names: Iterable[str], n_heads: int, rng: random.Random) -> dict[str, str]:
    """For each head of the names another one, or itself, of its layer, none twice."""
    drawn: dict[str, str] = {}
    heads = [node for node in nodes(in_order(names), 0) if node.kind == "head"]
    for layer, group in groupby(heads, key=lambda head: head.layer):
        old = [head.name for head in group]
        new = rng.sample(range(n_heads), len(old))
        drawn |= zip(old, (Node.head(layer, index, 0).name for index in new), strict=True)
    return drawn


def _before(readers: Iterable[str], candidates: Sequence[Node]) -> list[Node]:
    """The candidates that come before the last of some readers; none if there are no readers."""
    last = max((reader.depth for reader in nodes(readers, 0)), default=0)
    return [each for each in candidates if each.depth < last]


def _drawn(names: Iterable[str], candidates: Sequence[Node], rng: random.Random) -> dict[str, str]:
    """For each name another one of its kind from the candidates, in the same order; for fewer if those are too few."""
    drawn: dict[str, str] = {}
    for kind in ("head", "mlp"):
        old = [name for name in in_order(names) if Node.named(name, 0).kind == kind]
        pool = [each.name for each in candidates if each.kind == kind]
        new = rng.sample(pool, min(len(old), len(pool)))
        drawn |= dict(zip(old, in_order(new), strict=False))
    return drawn


def _renamed(names: Iterable[str], renamed: Mapping[str, str]) -> tuple[str, ...]:
    """Names as `renamed` has them; `logits` and `embeds` stay."""
    return tuple(renamed.get(name, name) for name in names)
