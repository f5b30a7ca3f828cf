"""What two circuits share, counted by hand."""

from __future__ import annotations

import pytest

from path_patching.circuits.circuit import Circuit, Link
from path_patching.circuits.overlap import jaccard, overlap


def of(*links: str) -> Circuit:
    return Circuit("of links", tuple(map(Link.parse, links)))


ONE = of("m1@END → logits@END", "a1.h0@END → m1@END", "m0@YY →v a1.h0@END", "embeds@YY → m0@YY")
OTHER = of("m1@END → logits@END", "m0@END → m1@END", "embeds@END → m0@END")


def test_nodes_at_two_places_are_two():
    found = overlap(ONE, OTHER)
    assert found.placed
    assert (found.nodes.both, found.nodes.one_alone) == (("m1@END",), ("m0@YY", "a1.h0@END"))
    assert found.nodes.other_alone == ("m0@END",)
    assert found.nodes.jaccard == 1 / 4
    assert found.links.both == ("m1@END → logits@END",)
    assert found.links.jaccard == 1 / 6


def test_with_a_circuit_without_places_no_place_counts():
    found = overlap(ONE, of("m1 → logits", "m0 → m1", "embeds → m0"))
    assert not found.placed
    assert (found.nodes.both, found.nodes.one_alone, found.nodes.other_alone) == (("m0", "m1"), ("a1.h0",), ())
    assert {*found.links.both} == {"m1 → logits", "embeds → m0"}
    assert found.links.jaccard == pytest.approx(2 / 5)
    assert str(found).splitlines() == [
        "nodes: 2 in both, 1 and 0 in one alone, Jaccard 0.667",
        "links: 2 in both, 2 and 1 in one alone, Jaccard 0.400",
        "compared without places",
    ]


def test_a_circuit_is_all_of_itself():
    assert overlap(ONE, ONE).nodes.jaccard == overlap(ONE, ONE).links.jaccard == 1
    assert jaccard(set(), set()) == 1
    assert jaccard({1}, {2}) == 0
