"""Random circuits of the same shape as a given one: what would any such circuit recover?

A circuit means something only if others with as many nodes and the same links between them recover less. The nodes of
random circuits come from any layers. In matched circuits, each head comes from the layer of the head that it replaces,
and the MLPs stay.

    >>> another = random_circuit(circuit, model.architecture, random.Random(0))
    >>> len(another.mlps), len(another.heads), len(another.lower)  # as many as in `circuit`
    (2, 1, 1)
    >>> alone = metric(engine.isolate(late_half(another, END))).mean()
    >>> matched_circuit(circuit, model.architecture, random.Random(0)).heads  # instead of a1.h0; its layer has two
    ('a1.h1',)
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import groupby

from path_patching.circuits.circuit import (
    EMBEDS,
    EVERYTHING,
    YY,
    Circuit,
    Link,
    bare,
    in_order,
    is_same,
    kind_of,
    nodes,
    place_of,
)
from path_patching.circuits.papers_shape import Lists, lists_of, varied
from path_patching.errors import UserError
from path_patching.gpt2.model import Architecture
from path_patching.paths import Node, layer_nodes

NAME = "a random circuit"
DRAWS = 1000  # attempts at a random circuit before giving up
ROUNDS = 50  # in each, every node of a set of links may move


def random_circuit(circuit: Circuit, architecture: Architecture, rng: random.Random) -> Circuit:
    """A circuit of the same shape with nodes drawn at random from the whole model.

    In the paper's shape, it has as many heads and MLPs at END and at YY, and the same links between them. Each node
    replaces one of its kind, in the order of layers. Heads are drawn from those that come before their last reader,
    nodes at YY from those that the last head can read. In any other circuit, nodes move again and again to other nodes
    of their kind, as long as all links go upstream.

    Raises `UserError` if the model has too few nodes, or no other such circuit.
    """
    everything = [
        each for layer in range(architecture.n_layers) for each in layer_nodes(layer, architecture.n_heads, 0)
    ]
    lists = lists_of(circuit)
    drawn = _moved(circuit, everything, rng) if lists is None else _drawn_anew(circuit, lists, everything, rng)
    if drawn is None:
        raise UserError(
            f"{architecture.n_layers} layers of {architecture.n_heads} heads have no circuit of the shape of "
            f"{circuit.name}: {len(circuit.heads)} heads and {len(circuit.mlps)} MLPs"
            + (f" at END, {len(circuit.lower)} nodes at YY below them" if circuit.placed else "")
            + "; draw from a larger model"
        )
    return drawn


def _drawn_anew(circuit: Circuit, lists: Lists, everything: Sequence[Node], rng: random.Random) -> Circuit | None:
    """A circuit of the paper's shape with other nodes; None if in each of `DRAWS` draws some node is on no path.

    No node at YY can read the last MLP there. It counts as one of `further_below` if all other MLPs at YY do.
    """
    further = _with_the_last(lists["further_below"], circuit.lower)
    for _ in range(DRAWS):
        mlps = _drawn(lists["mlps"], everything, rng)
        heads = _drawn(lists["heads"], _before(_renamed(lists["heads_feed"], mlps), everything), rng)
        lower = _drawn(circuit.lower, _before(heads.values(), everything), rng)
        if (len(mlps), len(heads), len(lower)) != (len(lists["mlps"]), len(lists["heads"]), len(circuit.lower)):
            continue
        with suppress(UserError):  # a node is on no path
            return varied(
                circuit,
                name=NAME,
                mlps=_renamed(lists["mlps"], mlps),
                heads=_renamed(lists["heads"], heads),
                heads_feed=_renamed(lists["heads_feed"], mlps),
                first_below=_renamed(lists["first_below"], lower),
                further_below=_renamed(further, lower),
                studied=(),
            )
    return None


def _with_the_last(further: tuple[str, ...], lower: Iterable[str]) -> tuple[str, ...]:
    """The nodes at YY that others there read, and the last MLP there if there are others and all are among them."""
    *others, last = [name for name in lower if kind_of(name) == "mlp"] or [""]
    return (*further, last) if others and {*others} <= {*further} and last not in further else further


def _moved(circuit: Circuit, everything: Sequence[Node], rng: random.Random) -> Circuit | None:
    """A circuit of any links with its nodes moved, one at a time, for `ROUNDS` rounds; None if there is no other.

    If a node moves to where another one is, the two change places. With more rounds, all circuits that can be reached
    this way become equally likely.
    """
    links_of: defaultdict[str, list[Link]] = defaultdict(list)
    for link in circuit.links:
        links_of[link.reader].append(link)
        links_of[link.sender].append(link)
    drawn, is_other = {each: _node(each) for each in links_of}, False
    for each in ROUNDS * circuit.members:
        wanted = rng.choice([node for node in everything if node.kind == kind_of(each)])
        there = [other for other in circuit.members if place_of(other) == place_of(each) and drawn[other] == wanted]
        moved = drawn | dict.fromkeys(there, drawn[each]) | {each: wanted}
        touched = [link for name in (each, *there) for link in links_of[name]]
        if wanted != drawn[each] and all(moved[link.sender].depth < moved[link.reader].depth for link in touched):
            is_other = is_other or _steps(touched, drawn) != _steps(touched, moved)
            drawn = moved
    return _relinked(circuit, {each: drawn[each].name for each in circuit.members}) if is_other else None


def _steps(links: Iterable[Link], drawn: Mapping[str, Node]) -> set[tuple[str, str, str, str, str]]:
    """Links between the nodes drawn for their ends, with their places."""
    return {
        (str(drawn[each.reader]), place_of(each.reader), each.via, str(drawn[each.sender]), place_of(each.sender))
        for each in links
    }


def matched_circuit(circuit: Circuit, architecture: Architecture, rng: random.Random) -> Circuit:
    """Another circuit of the same shape with the same MLPs and as many heads in each layer, at END and at YY.

    Raises `UserError` if there is none: in each layer with a head of the circuit, all heads are in the circuit.
    """
    places = [[each for each in circuit.members if (place_of(each) == YY) is at_yy] for at_yy in (False, True)]
    for _ in range(DRAWS):
        heads: dict[str, str] = {}
        for members in places:
            heads |= _drawn_by_layer(members, architecture.n_heads, rng)
        drawn = _relinked(circuit, heads)
        if not is_same(drawn, circuit):
            return drawn
    raise UserError(
        f"layers of {architecture.n_heads} heads have no other circuit with as many heads in each as {circuit.name}; "
        "draw from any layers"
    )


def _node(labelled: str) -> Node:
    """The node of a link's end, without its place; `everything` becomes the embeddings."""
    return Node.named(EMBEDS if labelled == EVERYTHING else bare(labelled), 0)


def _relinked(circuit: Circuit, names: Mapping[str, str]) -> Circuit:
    """The circuit with some of its members renamed; each keeps its place."""

    def other(labelled: str) -> str:
        _, at, place = labelled.partition("@")
        return f"{names[labelled]}{at}{place}" if labelled in names else labelled

    return Circuit(NAME, tuple(Link(other(link.reader), link.via, other(link.sender)) for link in circuit.links))


def _drawn_by_layer(members: Iterable[str], n_heads: int, rng: random.Random) -> dict[str, str]:
    """For each head among the members, the name of a random head of its layer (perhaps itself), none twice."""
    drawn: dict[str, str] = {}
    heads = [each for each in members if kind_of(each) == "head"]
    for layer, group in groupby(heads, key=lambda each: _node(each).layer):
        old = [*group]
        new = rng.sample(range(n_heads), len(old))
        drawn |= zip(old, (Node.head(layer, index, 0).name for index in new), strict=True)
    return drawn


def _before(readers: Iterable[str], candidates: Sequence[Node]) -> list[Node]:
    """The candidates that come before the last reader; none without readers."""
    last = max((reader.depth for reader in nodes(readers, 0)), default=0)
    return [each for each in candidates if each.depth < last]


def _drawn(names: Iterable[str], candidates: Sequence[Node], rng: random.Random) -> dict[str, str]:
    """For each name one of its kind from the candidates, in the same order; for fewer if there are too few."""
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
