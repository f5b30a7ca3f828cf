"""A circuit as data: its nodes and how they are linked, from which everything else is made (section 3).

From the logits down: any chain of the MLPs `mlps` at END (none to all), then a head of `heads` at END. With the heads'
inputs taken whole this is the *late half*. The *full circuit* follows some inputs of the heads to YY, through
`first_below`, then any chain of `further_below`, down to the embeddings, and takes others whole. An input that is
neither followed nor whole is no part of it.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from gpt2 import Architecture, Model
from path_patching.paths import Branch, Node, PathSet, PathSetError, Via, layer_nodes, union
from utils import UserError

LOGITS, EMBEDS, EVERYTHING = "logits", "embeds", "everything"
DRAWS = 1000  # of a random circuit, before it is given up


@dataclass(frozen=True)
class Circuit:
    """A circuit of the paper's shape; nodes by name (`m10`, `a9.h1`), without positions.

    Raises `UserError` if the description contradicts itself.
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
            raise UserError(f"{self.name} cannot be a circuit: {complaint}")

    @property
    def lower(self) -> tuple[str, ...]:
        """The heads and MLPs at YY, in the order of layers."""
        return in_order({*self.first_below, *self.further_below} - {EMBEDS})


@dataclass(frozen=True, order=True)
class Link:
    """One link of a circuit: what `sender` writes is read by `reader` through its input `via`.

    Both carry their position: `a9.h1@END`, `m0@YY`. The sender `everything` is all that the input reads.
    """

    reader: str
    via: Via
    sender: str


def node(name: str, position: int) -> Node:
    """The node of a name at a position. Raises `PathSetError` if it is not a node's name."""
    if name == LOGITS:
        return Node.logits(position)
    if name == EMBEDS:
        return Node.embeds(position)
    if mlp := re.fullmatch(r"m(\d+)", name):
        return Node.mlp(int(mlp[1]), position)
    if head := re.fullmatch(r"a(\d+)\.h(\d+)", name):
        return Node.head(int(head[1]), int(head[2]), position)
    raise PathSetError(f"{name!r} is not a node; nodes are called m10, a9.h1, embeds or logits")


def nodes(names: Iterable[str], position: int) -> list[Node]:
    """Several nodes at one position."""
    return [node(name, position) for name in names]


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Names of nodes in the order in which a forward pass computes them."""
    return tuple(sorted(names, key=lambda name: (node(name, 0).depth, node(name, 0).index)))


def _complaints(circuit: Circuit) -> Iterator[str]:
    """What is wrong with a circuit's description, one sentence each."""
    kinds = {"mlps": {"mlp"}, "heads": {"head"}, "heads_feed": {"mlp", "logits"}}
    kinds |= {"first_below": {"head", "mlp", "embeds"}, "further_below": {"head", "mlp"}, "studied": {"head"}}
    for field, allowed in kinds.items():
        names = getattr(circuit, field)
        yield from (f"{name} cannot be in {field}" for name in names if node(name, 0).kind not in allowed)
        yield from (f"{name} is twice in {field}" for name, times in Counter(names).items() if times > 1)
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


PAPER = Circuit(
    name="the paper's circuit",
    mlps=("m8", "m9", "m10", "m11"),
    heads=("a5.h1", "a5.h5", "a6.h9", "a7.h10", "a8.h8", "a8.h11", "a9.h1"),
    heads_feed=(LOGITS, "m8", "m9", "m10", "m11"),
    first_below=("m0", "m1", "m2", "m3", "a0.h1", "a0.h3", "a0.h5"),
    further_below=("m0", "m1", "m2", "m3", "a0.h1"),
    studied=("a7.h10", "a8.h11", "a9.h1"),
)


def mlp_chains(circuit: Circuit, end: int) -> PathSet:
    """The logits, and every chain of the circuit's MLPs below them."""
    return PathSet.at(Node.logits(end)).through(nodes(circuit.mlps, end))


def into_mlp(circuit: Circuit, mlp: str, end: int) -> PathSet:
    """The paths that end at one MLP: from the logits through any chain of the circuit's later MLPs."""
    later = [other for other in nodes(circuit.mlps, end) if other.depth > node(mlp, end).depth]
    return PathSet.at(Node.logits(end)).through(later).extend([node(mlp, end)])


def heads_readers(circuit: Circuit, end: int) -> PathSet:
    """The paths to what the circuit's heads write to."""
    return mlp_chains(circuit, end).ending_at(nodes(circuit.heads_feed, end))


def late_half(circuit: Circuit, end: int) -> PathSet:
    """The paths to the circuit's heads, whose inputs count as inside whole."""
    return heads_readers(circuit, end).extend(nodes(circuit.heads, end))


def into_lower(circuit: Circuit, name: str, yy: int, end: int) -> PathSet:
    """The paths that end at one node at YY: from the heads' followed inputs through any chain of the nodes there."""
    return _lower_chains(circuit, yy, end).ending_at([node(name, yy)])


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
    return read.through(nodes(circuit.further_below, yy))


def down_to(paths: PathSet, end: Node) -> PathSet | None:
    """The upper parts of the paths that pass through a node, ending there; None if none does."""

    @cache
    def upper(part: PathSet) -> PathSet | None:
        if part.node == end:
            return PathSet.at(end)
        parts = [(branch.via, upper(branch.paths)) for branch in part.branches]
        branches = tuple(Branch(via, below) for via, below in parts if below is not None)
        return PathSet(part.node, ends_here=False, branches=branches) if branches else None

    return upper(paths)


def links(circuit: Circuit) -> tuple[Link, ...]:
    """Every link on a path of the full circuit."""
    places = {0: "YY", 1: "END"}

    def label(each: Node) -> str:
        return EVERYTHING if each.kind == "residual" else f"{each.name}@{places[each.position]}"

    @cache
    def within(part: PathSet) -> frozenset[Link]:
        own = {Link(label(part.node), branch.via, label(branch.paths.node)) for branch in part.branches}
        return frozenset(own).union(*(within(branch.paths) for branch in part.branches))

    return tuple(sorted(within(full_circuit(circuit, yy=0, end=1))))


def located(name: str, yy: int, end: int) -> Node:
    """The node that a link names: `m0@YY`, `a9.h1@END`."""
    name, place = name.split("@")
    return node(name, {"YY": yy, "END": end}[place])


def random_circuit(circuit: Circuit, architecture: Architecture, rng: random.Random) -> Circuit:
    """A circuit of the same shape, its nodes drawn at random from all that a model has.

    It has as many heads and MLPs at END and at YY, none twice, linked alike: each takes the place of one of its kind,
    in the order of layers. Nodes at YY are drawn from those that its last head can read. Raises `UserError` if the
    model has too few nodes.
    """
    n_layers, n_heads = architecture.n_layers, architecture.n_heads
    everything = [each for layer in range(n_layers) for each in layer_nodes(layer, n_heads, 0)]
    late = {*circuit.mlps, *circuit.heads}
    for _ in range(DRAWS):
        at_end = _drawn(late, everything, rng)
        feeding = nodes(_renamed(circuit.heads_feed, at_end), 0)
        heads = nodes(_renamed(circuit.heads, at_end), 0)
        linked = [head.depth for head in heads if any(head.depth < reader.depth for reader in feeding)]
        at_yy = _drawn(circuit.lower, [each for each in everything if each.depth < max(linked, default=0)], rng)
        if linked and len(at_end) == len(late) and len(at_yy) == len(circuit.lower):
            return replace(
                circuit,
                name=f"a random circuit of the shape of {circuit.name}",
                mlps=_renamed(circuit.mlps, at_end),
                heads=_renamed(circuit.heads, at_end),
                heads_feed=_renamed(circuit.heads_feed, at_end),
                first_below=_renamed(circuit.first_below, at_yy),
                further_below=_renamed(circuit.further_below, at_yy),
                studied=(),
            )
    raise UserError(
        f"{n_layers} layers of {n_heads} heads have no circuit of the shape of {circuit.name}: "
        f"{len(circuit.heads)} heads and {len(circuit.mlps)} MLPs at END, {len(circuit.lower)} nodes at YY below them"
    )


def _drawn(names: Iterable[str], candidates: Sequence[Node], rng: random.Random) -> dict[str, str]:
    """For each name another one of its kind from the candidates, in the same order; for fewer if those are too few."""
    drawn: dict[str, str] = {}
    for kind in ("head", "mlp"):
        old = [name for name in in_order(names) if node(name, 0).kind == kind]
        pool = [each.name for each in candidates if each.kind == kind]
        new = rng.sample(pool, min(len(old), len(pool)))
        drawn |= dict(zip(old, in_order(new), strict=False))
    return drawn


def _renamed(names: Iterable[str], renamed: Mapping[str, str]) -> tuple[str, ...]:
    """Names as `renamed` has them; `logits` and `embeds` stay."""
    return tuple(renamed.get(name, name) for name in names)


def in_model(names: Iterable[str], architecture: Architecture) -> tuple[str, ...]:
    """Those of the heads and MLPs that a model has."""
    found = {name: node(name, 0) for name in names}
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
            "find its own circuit with --circuit auto"
        )
