"""A circuit planted by hand is found by path patching, whole and nothing besides it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import chain

import pytest
import torch

from path_patching.paths import Node, PathSet, layer_nodes, union
from path_patching.reference import Reference
from tests.helpers.engines import CLASSES, make_engine, request
from tests.helpers.planted import BEFORE_END, CHAIN, END, SIZES, YEARS, YY, planted_model, planted_sentences
from utils import prob_diff

NOTHING = 1e-6  # a change of probability difference by patching what does not matter
ALL = 1e-4  # a change of probability difference, of 2, by patching all that matters and nothing else
M2, HEAD, M0, EMBEDS = CHAIN
LOGITS = PathSet.at(Node.logits(END))
CIRCUIT = LOGITS.extend([M2]).extend([HEAD]).extend([M0], "v").extend([EMBEDS])

Evaluate = Callable[[PathSet | None, str], torch.Tensor]


@cache
def probabilities_of(way: str) -> Evaluate:
    model, sentences = planted_model(), planted_sentences()
    if way == "reference":
        return Reference(model, sentences).probabilities
    engine = make_engine(way, model, sentences)
    return lambda paths, inside: engine.evaluate([request(paths, inside)])[0]


each_way = pytest.mark.parametrize("way", ["reference", *CLASSES])


def difference(way: str, paths: PathSet | None = None, inside: str = "corrupted") -> torch.Tensor:
    return prob_diff(probabilities_of(way)(paths, inside), YEARS)


def found(way: str, receivers: PathSet, senders: Sequence[Node], via: str = "all") -> list[Node]:
    """The senders that matter: patching them through `receivers` changes the probability difference."""
    clean = difference(way)
    reached = [sender for sender in senders if receivers.reachable(sender, via)]
    changes = {node: (difference(way, receivers.extend([node], via)) - clean).abs().max() for node in reached}
    matter = [node for node, change in changes.items() if change > NOTHING]
    assert all(changes[node] > 0.2 for node in matter)  # nothing in between
    return matter


def everything_at(position: int) -> list[Node]:
    rows = (layer_nodes(layer, SIZES.n_heads, position) for layer in range(SIZES.n_layers))
    return [Node.embeds(position), *chain.from_iterable(rows)]


@each_way
def test_the_model_answers_and_is_fooled_by_01(way):
    assert (difference(way) > 0.98).all()
    assert (difference(way, inside="clean") < 0.2).all()
    assert difference(way, inside="clean").mean() < -0.5


@each_way
def test_each_sweep_finds_the_next_node_and_no_decoy(way):
    receivers = LOGITS
    assert found(way, receivers, everything_at(END)) == [M2]
    receivers = receivers.extend([M2])
    assert found(way, receivers, everything_at(END)) == [HEAD]
    receivers = receivers.extend([HEAD])
    for via in ("q", "k", "v"):
        assert found(way, receivers, everything_at(YY), via) == ([M0] if via == "v" else [])
    assert found(way, receivers, everything_at(END)) == []
    receivers = receivers.extend([M0], "v")
    assert found(way, receivers, everything_at(YY)) == [EMBEDS]


@each_way
def test_a_copy_at_another_position_is_not_found(way):
    """a1.h0 moves the year too, to the position before END; a query there is not a query at END."""
    assert found(way, LOGITS.extend([Node.mlp(2, END)]), [Node.head(1, 0, BEFORE_END), Node.head(1, 0, END)]) == []
    assert found(way, LOGITS.extend([Node.head(2, 0, END)]), everything_at(BEFORE_END)) == []


@each_way
def test_the_two_neurons_that_copy_are_found(way):
    neurons = [Node.neuron(2, index, END) for index in range(SIZES.d_mlp)]
    assert found(way, LOGITS, neurons) == neurons[:2]
    assert (difference(way, LOGITS.extend(neurons)) - difference(way, LOGITS.extend([M2]))).abs().max() < NOTHING


@each_way
def test_the_circuit_alone_suffices_and_without_it_nothing_is_left(way):
    clean, corrupted = difference(way), difference(way, inside="clean")
    assert (difference(way, CIRCUIT, "clean") - clean).abs().max() < ALL
    assert (difference(way, CIRCUIT, "corrupted") - corrupted).abs().max() < ALL


@each_way
def test_every_link_of_the_chain_is_needed(way):
    """Whatever else is given clean data, a chain that ends one node early or goes around one recovers nothing."""
    corrupted = difference(way, inside="clean")
    around = union(
        [
            LOGITS.extend([HEAD]).extend([M0], "v"),
            LOGITS.extend([M2]).extend([HEAD]).extend([EMBEDS], "v"),
            LOGITS.extend([M2]).extend([HEAD]).extend([Node.residual(END)], "q"),
            LOGITS.extend([M2]).extend([HEAD]).extend([M0], "k"),
            LOGITS.extend([M2]).extend([Node.head(0, 1, END), Node.head(1, 0, END)]),
        ]
    )
    assert (difference(way, around, "clean") - corrupted).abs().max() < ALL
