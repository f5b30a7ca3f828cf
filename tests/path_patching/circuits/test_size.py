"""The share of the model's graph that a circuit is, beside a count by hand and all links that a circuit may have."""

from __future__ import annotations

from itertools import product

import pytest

from path_patching.circuits.circuit import Circuit, Link, _wrong_with
from path_patching.circuits.edge_lists import without_places
from path_patching.circuits.size import size_of
from path_patching.gpt2.model import Architecture
from path_patching.paths import VIAS
from tests.helpers.planted import SIZES, planted_chain

GPT2 = Architecture(12, 12, 768, 64, 3072, 1024, 50257)
CHAIN = planted_chain().circuit  # embeds@YY → m0@YY →v a1.h1@END → m2@END → logits


def ends(*places: str) -> list[str]:
    names = ["embeds", *(node for layer in range(3) for node in (f"a{layer}.h0", f"a{layer}.h1", f"m{layer}"))]
    return [f"{name}{place}" for name, place in product(names, places)]


@pytest.mark.parametrize(("circuit", "places"), [(CHAIN, ("@END", "@YY")), (None, ("",))])
def test_the_graph_has_every_link_that_a_circuit_may_have(circuit, places):
    circuit = circuit or Circuit("without places", without_places(CHAIN.links))
    every = [Link(*each) for each in product([*ends(*places), f"logits{places[0]}"], VIAS, ends(*places))]
    assert size_of(circuit, SIZES).of_links == sum(_wrong_with(link) is None for link in every)
    assert (size_of(circuit, SIZES).nodes, size_of(circuit, SIZES).of_nodes) == (3, 9 * len(places))
    assert size_of(circuit, SIZES).links == 4


def test_gpt2_has_as_many_links_as_in_other_tools():
    """Σ 36 (1 + 13 l) into heads, Σ (13 + 13 l) into MLPs, over layers 0 to 11, and 157 into the logits."""
    circuit = Circuit("m0 alone", tuple(map(Link.parse, ("m0 → logits", "embeds → m0"))))
    assert str(size_of(circuit, GPT2)) == "1 of 156 nodes (0.6 %), 2 of 32,491 links (0.0 %)"


def test_everything_is_all_that_an_input_reads():
    """a1.h1's keys at END read 4 nodes at END and 4 at YY, its query those at END; m0 at YY reads 1 and 2 heads."""
    links = ("a1.h1@END → logits@END", "m0@YY →v a1.h1@END", *(f"everything →{via} a1.h1@END" for via in "qk"))
    circuit = Circuit("whole", tuple(map(Link.parse, (*links, "everything → m0@YY", "m0@YY →k a1.h1@END"))))
    assert size_of(circuit, SIZES).links == 2 + 4 + 8 + 3, "m0 is in everything"
