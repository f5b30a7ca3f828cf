"""A circuit as data: its nodes and how they are linked, from which everything else is made (section 3).

From the logits down: any chain of the MLPs `mlps` at END (none to all), then a head of `heads` at END. With the heads'
inputs taken whole this is the *late half*. The *full circuit* follows some inputs of the heads to YY, through
`first_below`, then any chain of `further_below`, down to the embeddings, and takes others whole. An input that is
neither followed nor whole is no part of it. Every node of a circuit is on one of these paths.

    >>> circuit = Circuit(
    ...     "mine", mlps=("m1", "m2"), heads=("a1.h0",), heads_feed=("m1", "m2"), first_below=("m0",), further_below=()
    ... )
    >>> print(late_half(circuit, END))
    a1.h0@12 → m1@12 → logits@12
    a1.h0@12 → m2@12 → logits@12
    a1.h0@12 → m1@12 → m2@12 → logits@12
    >>> full_circuit(circuit, YY, END).count()  # each goes on by keys and values to m0@8, and takes its queries whole
    9
    >>> probs = engine.isolate(full_circuit(circuit, YY, END))  # what it achieves alone, (N, A)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cache

from path_patching.errors import UserError, shortened
from path_patching.gpt2.model import Architecture, Model
from path_patching.paths import Node, PathSet, Via, union

LOGITS, EMBEDS = "logits", "embeds"
LONGEST_NAME = 100  # letters, of a circuit's name, which stands in titles


@dataclass(frozen=True)
class Circuit:
    """A circuit of the paper's shape; nodes by name (`m10`, `a9.h1`), without positions.

    Raises `UserError` if the description contradicts itself, or has a node that is on no path.
    """

    name: str
    mlps: tuple[str, ...]  # at END, in any chain
    heads: tuple[str, ...]  # at END
    heads_feed: tuple[str, ...]  # what a head of the circuit writes to: `logits` and MLPs of the circuit
    first_below: tuple[str, ...]  # at YY, read by the heads' followed inputs; `embeds` if they are read directly
    further_below: tuple[str, ...]  # at YY, in any chain below those
    followed: tuple[Via, ...] = ("k", "v")  # inputs of the heads that are followed to YY
    whole: tuple[Via, ...] = ("q",)  # inputs of the heads that are inside as a whole
    studied: tuple[str, ...] = ()  # heads to look at closely, the most telling first

    def __post_init__(self) -> None:
        for complaint in _complaints(self):
            raise UserError(f"{shortened(self.name)} cannot be a circuit: {complaint}")

    @property
    def lower(self) -> tuple[str, ...]:
        """The heads and MLPs at YY, in the order of layers."""
        return in_order({*self.first_below, *self.further_below} - {EMBEDS})


def is_same(one: Circuit, other: Circuit) -> bool:
    """Whether two circuits have the same paths, so the same nodes and links, whatever they are called."""
    if one == other:  # which costs nothing
        return True
    return late_half(one, 1) == late_half(other, 1) and full_circuit(one, 0, 1) == full_circuit(other, 0, 1)


def nodes(names: Iterable[str], position: int) -> list[Node]:
    """Several nodes at one position."""
    return [Node.named(name, position) for name in names]


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Names of nodes in the order in which a forward pass computes them."""
    return tuple(sorted(names, key=lambda name: (_depth(name), Node.named(name, 0).index)))


def _complaints(circuit: Circuit) -> Iterator[str]:
    """What is wrong with a circuit's description, one sentence each."""
    name = circuit.name
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name.strip()) <= len(name) <= LONGEST_NAME:
        yield f"its name has to be a text of 1 to {LONGEST_NAME} letters, all of them printable"
    for field in (each.name for each in fields(circuit) if each.name != "name"):
        names = getattr(circuit, field)
        if not isinstance(names, tuple) or not all(isinstance(each, str) for each in names):
            yield f"{field} has to be a tuple of names"
        yield from (f"{shortened(each)} is twice in {field}" for each, times in Counter(names).items() if times > 1)
    kinds = {"mlps": {"mlp"}, "heads": {"head"}, "heads_feed": {"mlp", "logits"}}
    kinds |= {"first_below": {"head", "mlp", "embeds"}, "further_below": {"head", "mlp"}, "studied": {"head"}}
    for field, allowed in kinds.items():
        names = getattr(circuit, field)
        yield from (f"{name} cannot be in {field}" for name in names if Node.named(name, 0).kind not in allowed)
    yield from (
        f"its heads feed {name}, which is not in mlps" for name in {*circuit.heads_feed} - {*circuit.mlps, LOGITS}
    )
    yield from (f"{name} is studied, but not in heads" for name in {*circuit.studied} - {*circuit.heads})
    if not circuit.heads or not circuit.heads_feed:
        yield "without heads, and something that they feed, it has no path"
    if not {*circuit.followed} <= {"k", "v"} or not {*circuit.whole} <= {"q", "k", "v"}:
        yield "followed can be k and v (a query at END reads nothing at YY), and whole q, k and v"
    if {*circuit.followed} & {*circuit.whole} or not (circuit.followed or circuit.whole):
        yield "an input of the heads is followed or whole, not both, and at least one must be either"
    if bool(circuit.followed) != bool(circuit.first_below):
        yield "what is followed leads to first_below: both are empty or neither is"
    yield from (f"{name} is on no path of it; link it, or leave it out" for name in _unlinked(circuit))


def _unlinked(circuit: Circuit) -> Iterator[str]:
    """The nodes that are on no path, since all that would read them, or be read by them, lies on their wrong side."""
    heads, readers = [_depth(head) for head in circuit.heads], [_depth(reader) for reader in circuit.heads_feed]
    first_fed = min((reader for reader in readers if reader > min(heads)), default=math.inf)
    last_below = max(map(_depth, circuit.first_below), default=0)
    yield from (name for name in circuit.heads if _depth(name) >= max(readers))
    yield from (name for name in circuit.mlps if _depth(name) < first_fed)
    yield from (name for name in circuit.first_below if _depth(name) >= max(heads))
    further = [name for name in circuit.further_below if name not in circuit.first_below]
    yield from (name for name in further if _depth(name) >= last_below)


@cache
def _depth(name: str) -> int:
    return Node.named(name, 0).depth


def mlp_chains(circuit: Circuit, end: int) -> PathSet:
    """The logits, and every chain of the circuit's MLPs below them."""
    return PathSet.at(Node.logits(end)).through_chains(nodes(circuit.mlps, end))


def into_mlp(circuit: Circuit, mlp: str, end: int) -> PathSet:
    """The paths that end at one MLP: from the logits through any chain of the circuit's later MLPs."""
    later = [other for other in nodes(circuit.mlps, end) if other.depth > Node.named(mlp, end).depth]
    return PathSet.at(Node.logits(end)).through_chains(later).extend([Node.named(mlp, end)])


def indirect_into_mlp(circuit: Circuit, mlp: str, end: int) -> PathSet | None:
    """The paths that end at one MLP through one or more of the circuit's later MLPs; None for the last, which has none.

    With the direct edge from the MLP to the logits they are `into_mlp`.
    """
    later = [other for other in nodes(circuit.mlps, end) if other.depth > Node.named(mlp, end).depth]
    if not later:
        return None
    return PathSet.at(Node.logits(end)).extend(later).through_chains(later).extend([Node.named(mlp, end)])


def heads_readers(circuit: Circuit, end: int) -> PathSet:
    """The paths to what the circuit's heads write to."""
    return mlp_chains(circuit, end).ending_at(nodes(circuit.heads_feed, end))


def late_half(circuit: Circuit, end: int) -> PathSet:
    """The paths to the circuit's heads, whose inputs count as inside whole."""
    return heads_readers(circuit, end).extend(nodes(circuit.heads, end))


def into_lower(circuit: Circuit, name: str, yy: int, end: int) -> PathSet:
    """The paths that end at one node at YY: from the heads' followed inputs through any chain of the nodes there."""
    return _lower_chains(circuit, yy, end).ending_at([Node.named(name, yy)])


def full_circuit(circuit: Circuit, yy: int, end: int) -> PathSet:
    """The late half followed down to the embeddings of all positions up to YY; some inputs of its heads whole."""
    heads = late_half(circuit, end)
    parts = [heads.extend([Node.residual(position) for position in range(end + 1)], way) for way in circuit.whole]
    if circuit.lower:
        parts.append(_lower_chains(circuit, yy, end).extend([Node.embeds(position) for position in range(yy + 1)]))
    if EMBEDS in circuit.first_below:
        parts.extend(heads.extend([Node.embeds(yy)], way) for way in circuit.followed)
    return union(parts)


def _lower_chains(circuit: Circuit, yy: int, end: int) -> PathSet:
    """The paths to the heads and MLPs at YY, through every chain of them."""
    first = nodes((name for name in circuit.first_below if name != EMBEDS), yy)
    read = union(late_half(circuit, end).extend(first, way) for way in circuit.followed)
    return read.through_chains(nodes(circuit.further_below, yy))


def in_model(names: Iterable[str], architecture: Architecture) -> tuple[str, ...]:
    """Those of the heads and MLPs that a model has."""
    found = {name: Node.named(name, 0) for name in names}
    return tuple(
        name
        for name, each in found.items()
        if each.layer < architecture.n_layers and (each.kind == "mlp" or each.index < architecture.n_heads)
    )


def check_fits(circuit: Circuit, model: Model) -> None:
    """Raise `UserError` if the model lacks a node of the circuit."""
    names, sizes = (*circuit.mlps, *circuit.heads, *circuit.lower), model.architecture
    had = in_model(names, sizes)
    for lacking in (name for name in names if name not in had):
        raise UserError(
            f"{circuit.name} has {lacking}, but {model.name} has {sizes.n_layers} layers of {sizes.n_heads} heads: "
            "take its own circuit, found automatically"
        )
