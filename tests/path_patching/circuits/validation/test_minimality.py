"""What F loses with a node is what it loses with its paths left out by hand; what is not needed is named."""

from __future__ import annotations

from dataclasses import replace

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
    minimality,
)
from path_patching.paths import Node, PathSet, union
from tests.helpers.planted import END, YEARS, YY
from utils import greater_than, log_odds

METRIC = greater_than(YEARS)
LOGITS = PathSet.at(Node.logits(END))
M1_LINK = Link("m1@END", "in", "a1.h0@END")
M1, M2, M3 = (Node.mlp(layer, END) for layer in (1, 2, 3))


def estimate(low: float, high: float) -> Estimate:
    return Estimate((low + high) / 2, low, high, 4)


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
    something, little, wide = estimate(0.1, 0.2), estimate(-0.001, 0.009), estimate(-0.1, 0.1)
    nodes = (
        NodeLoss("a1.h0@END", "heads", something, something),
        NodeLoss("a1.h1@END", "heads", little, something),  # others stand in for it
        NodeLoss("m1@END", "MLPs", little, little),
        NodeLoss("m2@END", "MLPs", little, wide),
        NodeLoss("m0@YY", "lower nodes", estimate(-0.2, -0.1), little),
    )
    links = (
        LinkLoss(Link("m1@END", "in", "a1.h0@END"), little, little),
        LinkLoss(Link("a1.h0@END", "v", "m0@YY"), something),
        LinkLoss(Link("a1.h1@END", "v", "m0@YY"), little, something),
    )
    of_nodes, of_links = Minimality("full circuit", nodes, links, estimate(0.02, 0.04)).verdicts()
    assert (of_nodes.measured, of_nodes.passed) == (3 / 5, False)
    assert of_nodes.remark == (
        "not needed (cut one at a time): m1@END; unclear, more sentences would tell: m2@END; "
        "redundant with others of their class: a1.h1@END; F is higher without: m0@YY"
    )
    assert (of_links.measured, of_links.passed) == (2 / 3, False)
    assert of_links.remark == (
        "not needed (cut one at a time): a1.h0@END → m1@END; F loses 3.0 % [2.0, 4.0] without all of these; "
        "redundant with others of their class: m0@YY →v a1.h1@END"
    )
    assert [verdict.remark for verdict in Minimality("", nodes[:1], links[1:2]).verdicts()] == ["", ""]


def test_an_effect_below_a_hundredth_is_not_needed_however_sure():
    sure = estimate(5e-5, 7e-5)
    found = Minimality("", (NodeLoss("m1@END", "MLPs", sure, sure),), (LinkLoss(M1_LINK, sure, sure),))
    assert [(verdict.measured, verdict.passed) for verdict in found.verdicts()] == [(0, False)] * 2


def test_a_node_without_an_interval_to_judge_by_leaves_nothing_judged():
    one = replace(estimate(0.1, 0.2), doubt="1 sentence; give two or more")
    found = Minimality("", (NodeLoss("m1@END", "MLPs", one, one),), (LinkLoss(M1_LINK, one),)).verdicts()
    assert [verdict.passed for verdict in found] == [None, None]
    assert all(verdict.remark.startswith("1 sentence") for verdict in found)


def test_a_backup_is_needed_given_its_class():
    """m3 takes max(u, u). F loses 1 − 1 = 0 with either head; given the other's removal 1 − 0.

    Without m3 nothing is left; without m4, which has half of u, what ½ u + ½ u01 is worth. So both heads are redundant,
    and all nodes and links are needed.
    """
    engine = engine_of("backup")
    scale = Scale.of(engine, METRIC)
    for variant, needed in (("planted", True), ("too many", False)):
        paths = full_circuit(planted("backup").variants[variant], YY, END)
        found = minimality(engine, scale, paths, YY, END, "full circuit")
        nodes = {node.name: node for node in found.nodes}
        for head in ("a1.h1@END", "a2.h4@END"):
            assert nodes[head].alone.value == pytest.approx(0, abs=1e-3)
            assert nodes[head].given_class.value == pytest.approx(1, abs=1e-3)
            assert nodes[head].redundant
            assert nodes[head].needed
        assert nodes["m3@END"].alone.value == pytest.approx(1, abs=1e-3)
        assert nodes["m4@END"].alone.value > 0.01
        assert all(node.needed for node in found.nodes) == needed
        links = {each.name: each for each in found.links}
        assert links["a1.h1@END → m3@END"].redundant
        assert links["m0@YY →v a2.h4@END"].redundant
        assert not links["m3@END → m4@END"].redundant
        assert all(each.needed for each in found.links) == needed
        assert [verdict.passed for verdict in found.verdicts()] == [needed, needed]
        if not needed:
            assert not nodes["a2.h3@END"].needed
            assert found.idle_links.value == pytest.approx(0, abs=1e-3)  # of the useless head's links alone


def test_a_head_that_works_against_the_metric_is_needed():
    """Without −u/3 the answer is 4/3 u − u01/3, later than u: log odds of later years rise, and F with them."""
    engine = engine_of("against")
    scale = Scale.of(engine, lambda probs: log_odds(probs, YEARS))
    found = minimality(engine, scale, full_circuit(planted("against").circuit, YY, END), YY, END, "full circuit")
    against = {node.name: node for node in found.nodes}["a3.h7@END"]
    assert against.alone.value < -0.01
    assert against.needed
    assert "F is higher without: a3.h7@END" in found.verdicts()[0].remark


def test_a_circuit_s_own_sentences_decide():
    """A useless head is not needed on any; each of three heads on all."""
    engine = engine_of("heads alone")
    scale, paths = Scale.of(engine, METRIC), full_circuit(planted("heads alone").too_many, YY, END)
    needed = {node.name: node.needed for node in minimality(engine, scale, paths, YY, END, "full circuit").nodes}
    assert needed == {"a1.h1@END": True, "a1.h2@END": False, "a1.h4@END": True, "a2.h0@END": True}
    assert torch.all(scale.span > 0)
