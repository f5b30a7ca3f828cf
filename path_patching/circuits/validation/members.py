"""What a circuit consists of, read off its paths: its nodes by name and class, and its links with their steps.

A node is called as in links, with its place: `a9.h1@END`, `m0@YY`. Embeddings and whole inputs are no nodes that could
be left out; the links that lead to them are.

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

from path_patching.circuits.circuit import EVERYTHING, Link, Step
from path_patching.errors import UserError, shortened
from path_patching.paths import Node, PathSet

HEADS, MLPS, LOWER = "heads", "MLPs", "lower nodes"
SHOWN = 8  # names in a remark


def members(paths: PathSet, yy: int, end: int) -> dict[str, Node]:
    """The heads and MLPs on a circuit's paths by name, those at YY first, in the order of layers.

    Raises `UserError` if there are none.
    """
    found = [node for node in paths.nodes() if node.kind in ("head", "mlp")]
    if not found:
        raise UserError(f"no head or MLP is on the paths {shortened(repr(paths))}: no node of theirs can be removed")
    in_order = sorted(found, key=lambda node: (node.position, node.depth, node.index))
    return {_label(node, yy, end): node for node in in_order}


def class_of(node: Node, end: int) -> str:
    """The class of a node of a circuit: a head or an MLP at END, or a lower node."""
    if node.position != end:
        return LOWER
    return HEADS if node.kind == "head" else MLPS


def classes(paths: PathSet, yy: int, end: int) -> dict[str, list[Node]]:
    """The nodes on a circuit's paths by class; a class without nodes is left out."""
    found: dict[str, list[Node]] = {HEADS: [], MLPS: [], LOWER: []}
    for node in members(paths, yy, end).values():
        found[class_of(node, end)].append(node)
    return {name: group for name, group in found.items() if group}


def link_steps(paths: PathSet, yy: int, end: int) -> dict[Link, frozenset[Step]]:
    """The links on a circuit's paths, in order, each with all steps that it stands for.

    A link to `everything`, or to the embeddings, stands for a step to each position that the reader reads.
    """

    @cache
    def within(part: PathSet) -> frozenset[Step]:
        own = frozenset((part.node, branch.via, branch.paths.node) for branch in part.branches)
        return own.union(*(within(branch.paths) for branch in part.branches))

    found: defaultdict[Link, set[Step]] = defaultdict(set)
    for reader, via, sender in within(paths):
        found[Link(_label(reader, yy, end), via, _label(sender, yy, end))].add((reader, via, sender))
    return {link: frozenset(found[link]) for link in sorted(found)}


def listed(names: Sequence[str]) -> str:
    """Names of nodes or links in a remark, as many as can be read."""
    rest = len(names) - SHOWN
    return ", ".join([*names[:SHOWN], *([f"and {rest} more"] if rest > 0 else [])])


def _label(node: Node, yy: int, end: int) -> str:
    """A node's name with its place, as links have it; embeddings before YY go with those at YY."""
    if node.kind == "residual":
        return EVERYTHING
    if node.kind == "embeds" and node.position <= yy:
        return f"{node.name}@YY"
    place = {yy: "YY", end: "END"}.get(node.position, str(node.position))
    return f"{node.name}@{place}"
