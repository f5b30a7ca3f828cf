"""The links of a circuit, and how much each of them matters.

A link leads from one node of the circuit into one input of another. Its effect is that of patching the sender along
all paths of the circuit that begin with this link, on the mean of a metric (section 3).

    >>> links(circuit)[0]
    Link(reader='a1.h0@END', via='k', sender='m0@YY')
    >>> effects = link_effects(engine, circuit, metric, YY, END)  # by link
    >>> effects.keys() == set(links(circuit))
    True
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from path_patching.circuits.circuit import Circuit, full_circuit
from path_patching.engine import Engine
from path_patching.paths import Branch, Node, PathSet, Via
from path_patching.sweeps import Effects, Metric, remembered_effects

EVERYTHING = "everything"


@dataclass(frozen=True, order=True)
class Link:
    """One link of a circuit: what `sender` writes is read by `reader` through its input `via`.

    Both carry their position: `a9.h1@END`, `m0@YY`. The sender `everything` is all that the input reads.
    """

    reader: str
    via: Via
    sender: str

    def __str__(self) -> str:
        """As paths are written: `m0@YY →v a9.h1@END`, `a9.h1@END → m10@END`."""
        return f"{self.sender} →{'' if self.via == 'in' else self.via} {self.reader}"


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
    return Node.named(name, {"YY": yy, "END": end}[place])


def link_effects(
    engine: Engine, circuit: Circuit, metric: Metric, yy: int, end: int, effects: Effects | None = None
) -> dict[Link, float]:
    """The effect of every link: of its sender on the mean of the metric, through the reader's input alone.

    The reader's own effect goes through every path of the circuit that leads to it, as in iterative path patching.
    What `effects` of this engine and metric have evaluated already is not evaluated again.
    """
    paths = full_circuit(circuit, yy, end)

    def beginning_with(link: Link) -> PathSet:
        receivers = down_to(paths, located(link.reader, yy, end))
        assert receivers is not None, "a link's reader is on a path of its circuit"
        everything = link.sender == EVERYTHING
        senders = map(Node.residual, range(end + 1)) if everything else [located(link.sender, yy, end)]
        return receivers.extend([*senders], link.via)

    every = links(circuit)
    found = (effects or remembered_effects(engine, metric)).of_each([beginning_with(link) for link in every])
    return dict(zip(every, found.tolist(), strict=True))
