"""Circuits of the paper's shape, described by a few lists of nodes (section 3).

From the logits down, there is any chain of the MLPs `mlps` at END (none to all), then a head of `heads` at END. Some
inputs of the heads are followed to YY: through `first_below`, then any chain of `further_below`, down to the
embeddings. Other inputs are taken whole. An input that is neither followed nor whole is not in the circuit.

    >>> circuit = in_papers_shape(
    ...     "mine", mlps=("m1", "m2"), heads=("a1.h0",), heads_feed=("m1", "m2"), first_below=("m0",), further_below=()
    ... )
    >>> [str(link) for link in circuit.links][:2]
    ['m0@YY →k a1.h0@END', 'everything →q a1.h0@END']
    >>> lists_of(circuit)["heads_feed"]
    ('m1', 'm2')
    >>> narrow = varied(circuit, heads_feed=("m1",))  # other links, so another circuit
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any, TypedDict

from path_patching.circuits.circuit import (
    EMBEDS,
    END,
    EVERYTHING,
    LOGITS,
    YY,
    Circuit,
    Link,
    bare,
    in_order,
    kind_of,
    place_of,
)
from path_patching.errors import UserError, shortened
from path_patching.paths import INPUTS, Node, Via


class Lists(TypedDict):
    """The lists that describe a circuit of the paper's shape; nodes by name (`m10`, `a9.h1`), without places."""

    mlps: tuple[str, ...]
    """MLPs at END, in any chain."""
    heads: tuple[str, ...]
    """At END."""
    heads_feed: tuple[str, ...]
    """What a head of the circuit writes to: `logits`, and MLPs of the circuit."""
    first_below: tuple[str, ...]
    """Nodes at YY that the heads' followed inputs read; `embeds` if they read the embeddings directly."""
    further_below: tuple[str, ...]
    """Nodes at YY, in any chain below those."""
    followed: tuple[Via, ...]
    """Inputs of the heads that are followed to YY."""
    whole: tuple[Via, ...]
    """Inputs of the heads that are inside as a whole."""


def in_papers_shape(
    name: str,
    mlps: tuple[str, ...],
    heads: tuple[str, ...],
    heads_feed: tuple[str, ...],
    first_below: tuple[str, ...],
    further_below: tuple[str, ...],
    followed: tuple[Via, ...] = ("k", "v"),
    whole: tuple[Via, ...] = ("q",),
    studied: tuple[str, ...] = (),
) -> Circuit:
    """The circuit that the lists (`Lists`) describe.

    Raises `UserError` if they contradict each other, or have a node on no path.
    """
    lists = Lists(
        mlps=mlps, heads=heads, heads_feed=heads_feed, first_below=first_below, further_below=further_below,
        followed=followed, whole=whole,
    )  # fmt: skip
    for complaint in _complaints(lists):
        raise UserError(f"{shortened(name)} cannot be a circuit: {complaint}")
    return Circuit(name, (*_links(lists),), studied)


def varied(circuit: Circuit, **changed: Any) -> Circuit:
    """A circuit of the paper's shape with its name, its `studied` heads or some of its lists changed.

    Raises `UserError` like `in_papers_shape`, and if the circuit is not of this shape.
    """
    lists = lists_of(circuit)
    if lists is None:
        raise UserError(f"{circuit.name} is not of the paper's shape, so it has no lists; change its links")
    return in_papers_shape(**{"name": circuit.name, **lists, "studied": circuit.studied, **changed})


@cache
def lists_of(circuit: Circuit) -> Lists | None:
    """The lists that describe a circuit, in the order of layers; None if it is not of the paper's shape.

    `further_below` has the nodes at YY that other nodes at YY read.
    """
    of_heads = [link for link in circuit.links if place_of(link.reader) == END and kind_of(link.reader) == "head"]
    further = {bare(link.sender) for link in circuit.links if place_of(link.reader) == YY} - {EMBEDS}
    lists = Lists(
        mlps=circuit.mlps,
        heads=circuit.heads,
        heads_feed=circuit.heads_feed,
        first_below=in_order({bare(link.sender) for link in of_heads if link.sender != EVERYTHING}),
        further_below=in_order(further),
        followed=_ways(link.via for link in of_heads if link.sender != EVERYTHING),
        whole=_ways(link.via for link in of_heads if link.sender == EVERYTHING),
    )
    with suppress(UserError):  # it is of another shape
        if in_papers_shape(circuit.name, **lists).links == circuit.links:
            return lists
    return None


def _ways(ways: Iterable[Via]) -> tuple[Via, ...]:
    found = {*ways}
    return tuple(way for way in INPUTS["head"] if way in found)


def _links(lists: Lists) -> Iterator[Link]:
    """The links of a circuit of the paper's shape."""
    at_end = dict.fromkeys((LOGITS, *lists["mlps"]), lists["mlps"])
    for reader, mlps in at_end.items():
        senders = (*mlps, *(lists["heads"] if reader in lists["heads_feed"] else ()))
        yield from _read(reader, END, ("in",), senders, END)
    for head in lists["heads"]:
        yield from _read(head, END, lists["followed"], lists["first_below"], YY)
        yield from (Link(f"{head}@{END}", way, EVERYTHING) for way in lists["whole"])
    for lower in {*lists["first_below"], *lists["further_below"]} - {EMBEDS}:
        yield from _read(lower, YY, INPUTS[kind_of(lower)], (*lists["further_below"], EMBEDS), YY)


def _read(reader: str, at: str, ways: Iterable[Via], senders: Iterable[str], place: str) -> Iterator[Link]:
    """The links into some inputs of a reader from the senders that come before it."""
    depth = Node.named(reader, 0).depth
    before = [name for name in senders if Node.named(name, 0).depth < depth]
    yield from (Link(f"{reader}@{at}", way, f"{name}@{place}") for way in ways for name in before)


def _complaints(lists: Lists) -> Iterator[str]:
    """What is wrong with a circuit's lists, in sentences."""
    for field in Lists.__annotations__:
        names = lists[field]  # type: ignore[literal-required]
        if not isinstance(names, tuple) or not all(isinstance(each, str) for each in names):
            yield f"{field} has to be a tuple of names"
        yield from (f"{shortened(each)} is twice in {field}" for each, times in Counter(names).items() if times > 1)
    kinds: dict[str, tuple[tuple[str, ...], set[str]]] = {
        "mlps": (lists["mlps"], {"mlp"}),
        "heads": (lists["heads"], {"head"}),
        "heads_feed": (lists["heads_feed"], {"mlp", "logits"}),
        "first_below": (lists["first_below"], {"head", "mlp", "embeds"}),
        "further_below": (lists["further_below"], {"head", "mlp"}),
    }
    for field, (names, allowed) in kinds.items():
        yield from (f"{name} cannot be in {field}" for name in names if Node.named(name, 0).kind not in allowed)
    mlps, followed, whole = {*lists["mlps"]}, {*lists["followed"]}, {*lists["whole"]}
    yield from (f"its heads feed {name}, which is not in mlps" for name in {*lists["heads_feed"]} - mlps - {LOGITS})
    if not lists["heads"] or not lists["heads_feed"]:
        yield "without heads, and something that they feed, it has no path"
    if not followed <= {"k", "v"} or not whole <= {"q", "k", "v"}:
        yield "followed can be k and v (a query at END reads nothing at YY), and whole q, k and v"
    if followed & whole or not (followed or whole):
        yield "an input of the heads is followed or whole, not both, and at least one must be either"
    if bool(followed) != bool(lists["first_below"]):
        yield "what is followed leads to first_below: both are empty or neither is"
