"""What F loses with a node is what it loses with its paths left out by hand; what is not needed is named."""

from __future__ import annotations

import pytest
import torch

from benchmarks.calibration import engine_of, planted
from path_patching.bootstrap import Estimate
from path_patching.circuits.circuit import Link, full_circuit
from path_patching.circuits.validation.measuring import Scale, isolated
from path_patching.circuits.validation.minimality import (
    LinkLoss,
    Minimality,
    NodeLoss,
    is_nothing,
    minimality,
)
from path_patching.paths import Node, PathSet, union
from tests.helpers.planted import END, YEARS, YY
from utils import greater_than

NAN = float("nan")
METRIC = greater_than(YEARS)
LOGITS = PathSet.at(Node.logits(END))
M1, M2, M3 = (Node.mlp(layer, END) for layer in (1, 2, 3))


def estimate(low: float, high: float) -> Estimate:
    return Estimate((low + high) / 2, low, high, 4)


@pytest.mark.parametrize(
    ("low", "high", "nothing"),
    [(-0.1, 0.2, True), (0.0, 0.2, True), (0.1, 0.2, False), (-0.2, -0.1, False), (2e-7, 3e-7, True), (NAN, NAN, True)],
)
def test_nothing_is_an_interval_with_zero_or_next_to_it(low, high, nothing):
    assert is_nothing(estimate(low, high)) == nothing


def test_losses_are_those_of_paths_left_out_by_hand():
    engine = engine_of("MLP chains")
    scale, paths = Scale.of(engine, METRIC), full_circuit(planted("MLP chains").circuit, YY, END)
    found = minimality(engine, scale, paths, YY, END, "full circuit")

    def f(*chains: tuple[Node, ...]) -> float:
        """F of the paths from the head at END up through these chains of MLPs, given from the logits down."""
        tops = [LOGITS.through(*chain, Node.head(0, 1, END)) for chain in chains]
        kept = union(tops).extend([Node.embeds(YY)], "v") if tops else None
        return scale.of_means(METRIC(engine.evaluate([isolated(kept)])[0])).item()

    whole = f((M1,), (M2, M1), (M3, M1), (M3, M2, M1))
    alone = {"a0.h1@END": whole - f(), "m1@END": whole - f(), "m2@END": whole - f((M1,), (M3, M1))}
    alone["m3@END"] = whole - f((M1,), (M2, M1))
    given_class = {"a0.h1@END": whole, "m1@END": f((M1,)), "m2@END": 0.0, "m3@END": 0.0}
    assert {node.name: node.alone.value for node in found.nodes} == pytest.approx(alone, abs=1e-5)
    assert {node.name: node.given_class.value for node in found.nodes} == pytest.approx(given_class, abs=1e-5)
    assert [node.node_class for node in found.nodes] == ["heads", "MLPs", "MLPs", "MLPs"]
    of_links = {str(each.link): each.alone.value for each in found.links}
    assert len(of_links) == 8
    assert of_links["m1@END → m3@END"] == pytest.approx(whole - f((M1,), (M2, M1), (M3, M2, M1)), abs=1e-5)
    assert of_links["m1@END → m2@END"] == pytest.approx(whole - f((M1,), (M3, M1)), abs=1e-5)
    assert of_links["embeds@YY →v a0.h1@END"] == pytest.approx(whole, abs=1e-5)


def test_intervals_are_of_differences_of_f_sentence_by_sentence():
    engine = engine_of("MLP chains")
    scale, paths = Scale.of(engine, METRIC), full_circuit(planted("MLP chains").circuit, YY, END)
    m2 = minimality(engine, scale, paths, YY, END, "full circuit").nodes[2]
    without = paths.avoiding([M2])
    assert without is not None
    lost = METRIC(engine.isolate(paths)) - METRIC(engine.isolate(without))
    assert m2.alone.value == pytest.approx((lost.mean() / scale.span.mean()).item())
    assert m2.alone.low < m2.alone.value < m2.alone.high


def test_verdicts_name_what_is_not_needed():
    something, nothing, harm = estimate(0.1, 0.2), estimate(-0.1, 0.1), estimate(-0.2, -0.1)
    nodes = (
        NodeLoss("a1.h0@END", "heads", something, something),
        NodeLoss("a1.h1@END", "heads", nothing, something),
        NodeLoss("m1@END", "MLPs", nothing, nothing),
        NodeLoss("m0@YY", "lower nodes", harm, nothing),
    )
    links = (LinkLoss(Link("m1@END", "in", "a1.h0@END"), nothing), LinkLoss(Link("a1.h0@END", "v", "m0@YY"), something))
    of_nodes, of_links = Minimality("full circuit", nodes, links).verdicts()
    assert (of_nodes.measured, of_nodes.passed) == (0.5, False)
    assert of_nodes.remark == (
        "not needed: m1@END; needed only without their class: a1.h1@END; F is higher without: m0@YY"
    )
    assert (of_links.measured, of_links.remark) == (0.5, "not needed: a1.h0@END → m1@END")
    assert [verdict.remark for verdict in Minimality("", nodes[:1], links[1:]).verdicts()] == ["", ""]


def test_a_circuit_s_own_sentences_decide():
    """A useless head is not needed on any; each of three heads on all."""
    engine = engine_of("heads alone")
    scale, paths = Scale.of(engine, METRIC), full_circuit(planted("heads alone").too_many, YY, END)
    needed = {node.name: node.needed for node in minimality(engine, scale, paths, YY, END, "full circuit").nodes}
    assert needed == {"a1.h1@END": True, "a1.h2@END": False, "a1.h4@END": True, "a2.h0@END": True}
    assert torch.all(scale.span > 0)
