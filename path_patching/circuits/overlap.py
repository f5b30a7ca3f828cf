"""What two circuits share: the nodes and links that both have, and those that only one has.

    Jaccard(A, B) = |A ∩ B| / |A ∪ B|, 1 if both are empty

Nodes are heads and MLPs. If only one of the circuits has places, they are compared without places.

    >>> narrow = Circuit("no queries", tuple(link for link in circuit.links if link.via != "q"))
    >>> found = overlap(circuit, narrow)
    >>> found.links.one_alone
    ('everything →q a1.h0@END',)
    >>> print(found)
    nodes: 4 in both, 0 and 0 in one alone, Jaccard 1.000
    links: 8 in both, 1 and 0 in one alone, Jaccard 0.889
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass

from path_patching.circuits.circuit import Circuit, Link, bare, check_circuit, in_order


@dataclass(frozen=True)
class Shared:
    """The nodes, or the links, of two circuits: those that both have, and those that only one has."""

    both: tuple[str, ...]
    one_alone: tuple[str, ...]
    other_alone: tuple[str, ...]

    @property
    def jaccard(self) -> float:
        """The Jaccard index, 0 to 1."""
        return jaccard({*self.both, *self.one_alone}, {*self.both, *self.other_alone})

    def __str__(self) -> str:
        alone = f"{len(self.one_alone)} and {len(self.other_alone)} in one alone"
        return f"{len(self.both)} in both, {alone}, Jaccard {self.jaccard:.3f}"


@dataclass(frozen=True)
class Overlap:
    """What two circuits share; `placed` says whether they were compared with places."""

    nodes: Shared
    links: Shared
    placed: bool

    def __str__(self) -> str:
        return f"nodes: {self.nodes}\nlinks: {self.links}" + ("" if self.placed else "\ncompared without places")


def overlap(one: Circuit, other: Circuit) -> Overlap:
    """The nodes and links that two circuits share."""
    one, other = check_circuit(one), check_circuit(other)
    placed = one.placed and other.placed
    nodes = [each.members if placed else in_order({*map(bare, each.members)}) for each in (one, other)]
    links = [each.links if placed else without_places(each.links) for each in (one, other)]
    return Overlap(shared(*nodes), shared(*(list(map(str, each)) for each in links)), placed)


def shared(one: Iterable[str], other: Iterable[str]) -> Shared:
    """What two collections of names share, each in its own order."""
    ones, others = dict.fromkeys(one), dict.fromkeys(other)
    return Shared(
        tuple(each for each in ones if each in others),
        tuple(each for each in ones if each not in others),
        tuple(each for each in others if each not in ones),
    )


def without_places(links: Iterable[Link]) -> tuple[Link, ...]:
    """The links without places, in order, each once."""
    return tuple(sorted({Link(bare(link.reader), link.via, bare(link.sender)) for link in links}))


def jaccard(one: Set[str], other: Set[str]) -> float:
    """Jaccard's index of two sets: 1 if they are equal, also if both are empty; 0 if they are disjoint."""
    return len(one & other) / len(one | other) if one | other else 1.0
