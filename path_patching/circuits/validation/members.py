"""The nodes on a circuit's paths by name and class, and its links with their steps.

A node has its name in links, with its place: `a9.h1@END`, `m0@YY`. In a circuit without places (`placed=False`),
`a9.h1` is that head at every position. Embeddings and whole inputs do not count as nodes, but links to them count as
links.

    >>> paths = full_circuit(circuit, YY, END)
    >>> members(paths, YY, END)
    {'m0@YY': Node(...), 'a1.h0@END': Node(...), 'm1@END': Node(...), 'm2@END': Node(...)}
    >>> {name: [str(node) for node in group] for name, group in classes(paths, YY, END).items()}
    {'heads': ['a1.h0@12'], 'MLPs': ['m1@12', 'm2@12'], 'lower nodes': ['m0@8']}
    >>> tuple(link_steps(paths, YY, END)) == circuit.links
    True
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cache

from path_patching.circuits.circuit import END, EVERYTHING, Link, Step, kind_of, place_of
from path_patching.errors import UserError, shortened
from path_patching.paths import Node, PathSet

HEADS, MLPS, LOWER = "heads", "MLPs", "lower nodes"
SHOWN = 8  # names in a remark


def members(paths: PathSet, yy: int, end: int) -> dict[str, Node]:
    """The heads and MLPs on a circuit's paths by name, in the order of positions, then of layers.

    Raises `UserError` if there are none.
    """
    found = [node for node in paths.nodes() if node.kind in ("head", "mlp")]
    if not found:
        raise UserError(f"no head or MLP is on the paths {shortened(repr(paths))}; give paths with one")
    in_order = sorted(found, key=lambda node: (node.position, node.depth, node.index))
    return {_label(node, yy, end, placed=True): node for node in in_order}


def by_name(paths: PathSet, yy: int, end: int, placed: bool = True) -> dict[str, frozenset[Node]]:
    """The `members`, each with the nodes behind its name: one, or without places one at each position.

    Raises `UserError` if there are none.
    """
    found: defaultdict[str, set[Node]] = defaultdict(set)
    for node in members(paths, yy, end).values():
        found[_label(node, yy, end, placed)].add(node)
    if placed:
        return {name: frozenset(group) for name, group in found.items()}
    in_order = sorted(found, key=lambda name: (min(found[name]).depth, min(found[name]).index))
    return {name: frozenset(found[name]) for name in in_order}


def class_of(name: str) -> str:
    """The class of a node: heads or MLPs at END or without a place; lower nodes elsewhere."""
    if place_of(name) not in ("", END):
        return LOWER
    return HEADS if kind_of(name) == "head" else MLPS


def classes(paths: PathSet, yy: int, end: int, placed: bool = True) -> dict[str, list[Node]]:
    """The nodes on a circuit's paths by class; a class without nodes is left out."""
    found: dict[str, list[Node]] = {HEADS: [], MLPS: [], LOWER: []}
    for name, group in by_name(paths, yy, end, placed).items():
        found[class_of(name)] += sorted(group)
    return {name: group for name, group in found.items() if group}


def link_steps(paths: PathSet, yy: int, end: int, placed: bool = True) -> dict[Link, frozenset[Step]]:
    """The links on a circuit's paths, in order, each with its steps between nodes.

    A link to `everything`, or to the embeddings, has a step to each position that the reader reads; without places, a
    link has steps at each position.
    """

    @cache
    def within(part: PathSet) -> frozenset[Step]:
        own = frozenset((part.node, branch.via, branch.paths.node) for branch in part.branches)
        return own.union(*(within(branch.paths) for branch in part.branches))

    found: defaultdict[Link, set[Step]] = defaultdict(set)
    for reader, via, sender in within(paths):
        link = Link(_label(reader, yy, end, placed), via, _label(sender, yy, end, placed))
        found[link].add((reader, via, sender))
    return {link: frozenset(found[link]) for link in sorted(found)}


def listed(names: Sequence[str]) -> str:
    """Names of nodes or links in a remark: the first `SHOWN`, and how many more there are."""
    rest = len(names) - SHOWN
    return ", ".join([*names[:SHOWN], *([f"and {rest} more"] if rest > 0 else [])])


def _label(node: Node, yy: int, end: int, placed: bool) -> str:
    """A node's name in links; with places, embeddings before YY are named as at YY."""
    if node.kind == "residual":
        return EVERYTHING
    if not placed:
        return node.name
    if node.kind == "embeds" and node.position <= yy:
        return f"{node.name}@YY"
    place = {yy: "YY", end: "END"}.get(node.position, str(node.position))
    return f"{node.name}@{place}"
