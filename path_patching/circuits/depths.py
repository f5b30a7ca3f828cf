"""How deep the nodes of a circuit lie, and what circuits in models of different sizes share.

    depth(v) = layer(v) / (L − 1), from 0 in the first of L layers to 1 in the last; 0 in a model of one layer
    shared(A, B) = Σ_c min(A_c / |A|, B_c / |B|)

c goes over the classes of nodes: heads or MLPs, at END or at YY, in one of six equal bins of depth. A_c is the number
of A's nodes in class c, |A| the number of all its nodes. So `shared` is the intersection of two histograms: 1 if each
class has the same share of both circuits, 0 if no class has nodes of both. The circuits' sizes do not matter. GPT-2s
have 6, 12, 24, 36 or 48 layers, so each of six bins holds the same number of layers.

    >>> relative_depth("m1@END", n_layers=3)
    0.5
    >>> mean_depth(circuit, "mlp", "END", n_layers=3)  # of m1 and m2
    0.75
    >>> shared(histogram(circuit, 3), histogram(circuit, 12))  # of four nodes only m0 at YY is as deep in both
    0.25
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from statistics import fmean

from path_patching.circuits.circuit import Circuit, bare, kind_of, place_of
from path_patching.paths import Kind, Node

BINS = 6

Histogram = Mapping[tuple[Kind, str, int], float]
"""By kind, place and bin of depth, the share of a circuit's nodes; classes without a node are left out."""


def relative_depth(member: str, n_layers: int) -> float:
    """How deep a circuit's node lies in a model of `n_layers` layers, 0 to 1."""
    return _layer(member) / max(1, n_layers - 1)


def mean_depth(circuit: Circuit, kind: Kind, place: str, n_layers: int) -> float | None:
    """The mean depth of a circuit's nodes of one kind at one place, 0 to 1; None if it has none."""
    there = [each for each in circuit.members if (kind_of(each), place_of(each)) == (kind, place)]
    return fmean(relative_depth(each, n_layers) for each in there) if there else None


def histogram(circuit: Circuit, n_layers: int) -> Histogram:
    """The share of each class among the nodes of a circuit in a model of `n_layers` layers."""
    counts = Counter((kind_of(each), place_of(each), _bin(each, n_layers)) for each in circuit.members)
    return {each: count / counts.total() for each, count in counts.items()}


def shared(one: Histogram, other: Histogram) -> float:
    """How much two histograms have in common, 0 to 1."""
    return sum(min(share, other.get(each, 0.0)) for each, share in one.items())


def _bin(member: str, n_layers: int) -> int:
    """The number of the bin, from 0 to `BINS` − 1, by whole numbers, without rounding."""
    return min(BINS - 1, BINS * _layer(member) // max(1, n_layers - 1))


def _layer(member: str) -> int:
    return Node.named(bare(member), 0).layer
