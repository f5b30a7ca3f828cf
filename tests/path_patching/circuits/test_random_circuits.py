"""Random circuits with as many heads in each layer: same MLPs, other heads, linked alike."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from path_patching.circuits.circuit import Circuit, Link, full_circuit, is_same
from path_patching.circuits.edge_lists import from_text
from path_patching.circuits.papers_shape import in_papers_shape, lists_of
from path_patching.circuits.random_circuits import matched_circuit, random_circuit
from path_patching.errors import UserError
from path_patching.gpt2.model import GPT2_SMALL, Architecture
from path_patching.paths import Node
from reproduction.paper import PAPER
from tests.helpers.edge_patching import all_edges

TINY = Architecture(n_layers=2, n_heads=2, d_model=8, d_head=4, d_mlp=16, n_positions=16, vocab_size=50)
HEADS = {"heads": ("a1.h0", "a1.h1"), "followed": (), "first_below": (), "further_below": (), "whole": ("v",)}


def layers(names: tuple[str, ...]) -> Counter[int]:
    return Counter(Node.named(name, 0).layer for name in names if name.startswith("a"))


def test_it_has_as_many_heads_in_each_layer_and_the_same_mlps():
    rng = random.Random(0)
    drawn = [matched_circuit(PAPER, GPT2_SMALL, rng) for _ in range(100)]
    for circuit in drawn:
        assert circuit.mlps == PAPER.mlps
        assert circuit.heads_feed == PAPER.heads_feed
        lists, own = lists_of(circuit), lists_of(PAPER)
        assert (lists["followed"], lists["whole"], circuit.studied) == (own["followed"], own["whole"], ())
        assert layers(circuit.heads) == layers(PAPER.heads)
        assert layers(circuit.lower) == layers(PAPER.lower)
        assert layers(lists["further_below"]) == layers(own["further_below"])
        assert {*circuit.lower} - {*lists["first_below"]} == set()
        assert len({*circuit.heads}) == len(PAPER.heads)
    assert full_circuit(drawn[0], 8, 12).count() == full_circuit(PAPER, 8, 12).count()
    assert len({circuit.heads for circuit in drawn}) == 100
    assert {head for circuit in drawn for head in circuit.heads if head.startswith("a9")} == {
        f"a9.h{index}" for index in range(12)
    }


def test_it_is_never_the_circuit_itself():
    one = in_papers_shape("one head", mlps=(), heads_feed=("logits",), **{**HEADS, "heads": ("a1.h0",)})
    drawn = [matched_circuit(one, TINY, random.Random(seed)) for seed in range(10)]
    assert {circuit.heads for circuit in drawn} == {("a1.h1",)}
    assert not any(is_same(circuit, one) for circuit in drawn)


def test_layers_without_another_head_are_said():
    both = in_papers_shape("both heads", mlps=(), heads_feed=("logits",), **HEADS)
    with pytest.raises(UserError, match="layers of 2 heads have no other circuit with as many heads in each as both"):
        matched_circuit(both, TINY, random.Random(0))


def test_it_repeats_with_its_seed():
    first, again, other = (matched_circuit(PAPER, GPT2_SMALL, random.Random(seed)) for seed in (3, 3, 4))
    assert first == again != other


OF_LINKS = Circuit(
    "of links",
    tuple(map(Link.parse, ("m1 → logits", "a1.h1 → m1", "m0 →v a1.h1", "a0.h1 →q a1.h1", "a0.h1 → m0", "embeds → m0",
                           "embeds →k a0.h1", "a0.h0 → logits", "everything →v a0.h0"))),
)  # fmt: skip


@pytest.mark.parametrize("draw", [random_circuit, matched_circuit])
def test_any_links_are_drawn_with_other_nodes_and_still_go_upstream(draw):
    rng = random.Random(0)
    drawn = [draw(OF_LINKS, GPT2_SMALL, rng) for _ in range(20)]
    assert len({circuit.links for circuit in drawn}) == 20
    for circuit in drawn:
        assert (len(circuit.heads), len(circuit.mlps), len(circuit.links)) == (3, 2, len(OF_LINKS.links))
        assert full_circuit(circuit, 1, 3).count() == full_circuit(OF_LINKS, 1, 3).count()
    assert (layers(drawn[0].heads) == layers(OF_LINKS.heads)) is (draw is matched_circuit)
    assert draw(OF_LINKS, GPT2_SMALL, random.Random(1)) == draw(OF_LINKS, GPT2_SMALL, random.Random(1))


def test_every_other_set_of_such_links_is_as_likely():
    """a1.h1 may be either head of its layer; a0.h0, which only the logits read, any head that is left of the model."""
    found = Counter(random_circuit(OF_LINKS, TINY, random.Random(seed)).links for seed in range(200))
    assert len(found) == 8
    assert min(found.values()) > 10


def test_links_whose_nodes_cannot_move_are_said():
    every = Circuit("all", tuple(map(Link.parse, ("m1 → logits", "m0 → m1", "embeds → m0"))))
    with pytest.raises(UserError, match="2 layers of 2 heads have no circuit of the shape of all: 0 heads and 2 MLPs"):
        random_circuit(every, TINY, random.Random(0))


def test_heads_that_change_places_in_a_whole_graph_make_no_other_circuit():
    sizes = replace(TINY, n_layers=1)
    whole = Circuit("whole", from_text("\n".join(all_edges(sizes))))
    assert len(whole.heads) == 2
    with pytest.raises(UserError, match="1 layers of 2 heads have no circuit of the shape of whole"):
        random_circuit(whole, sizes, random.Random(0))
    but_one = Circuit("but one", tuple(link for link in whole.links if link != Link.parse("embeds →q a0.h1")))
    drawn = {random_circuit(but_one, sizes, random.Random(seed)).links for seed in range(10)}
    assert len(drawn) == 2
