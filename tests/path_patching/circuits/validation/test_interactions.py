"""Nodes one below the other do not add up, which shows in their interaction; shares of MLPs are effects on paths."""

from __future__ import annotations

import pytest
import torch

from benchmarks.calibration import engine_of, planted
from path_patching.bootstrap import mean
from path_patching.circuits.circuit import late_half
from path_patching.circuits.validation.interactions import Interactions, interactions, mlp_shares
from path_patching.circuits.validation.measuring import Scale
from path_patching.circuits.validation.members import members
from path_patching.errors import UserError
from path_patching.paths import Node, PathSet
from tests.helpers.engines import each_engine, make_engine
from tests.helpers.planted import END, LARGER, MEMBERS, YEARS, YY, planted_model, planted_sentences
from utils import greater_than


@each_engine
def test_a_chain_acts_once_and_useless_nodes_do_not(engine_name):
    engine = make_engine(engine_name, planted_model(), planted_sentences())
    scale, paths = Scale.of(engine, greater_than(YEARS)), late_half(LARGER, END)
    found = interactions(engine, scale, paths, MEMBERS)
    effect = (scale.nothing - scale.whole).mean().item()  # of the chain
    alone = {name: estimate.value for name, estimate in found.alone.items()}
    assert alone == pytest.approx({"a0.h1@END": 0, "a1.h1@END": effect, "m1@END": 0, "m2@END": effect}, abs=1e-3)
    assert len(found.pairs) == 6
    for pair, estimate in found.pairs.items():
        expected = -effect if set(pair) == {"a1.h1@END", "m2@END"} else 0  # eff(ab) is either's
        assert estimate.value == pytest.approx(expected, abs=1e-3)
    assert [verdict.subject for verdict in found.verdicts()] == ["a1.h1@END and m2@END"]
    verdict = found.verdicts()[0]
    assert verdict.passed is None
    assert effect < 0 < verdict.measured.value, "against the sign of the single effects: one needs the other"
    assert verdict.remark.endswith("less together: one needs the other")


def test_two_that_stand_in_for_each_other_interact_with_the_sign_of_both():
    """max(u, u): either head alone takes 0, both all of it: e − 0 − 0 = e < 0."""
    engine = engine_of("backup")
    scale, late = Scale.of(engine, greater_than(YEARS)), late_half(planted("backup").circuit, END)
    heads = {name: node for name, node in members(late, YY, END).items() if node.kind == "head"}
    found = interactions(engine, scale, late, heads)
    both = (scale.nothing - scale.whole).mean().item()
    assert [each.value for each in found.alone.values()] == pytest.approx([0, 0], abs=1e-3)
    assert [each.value for each in found.pairs.values()] == pytest.approx([both], abs=1e-3)
    assert both < -1
    assert found.verdicts()[0].remark.endswith("more together: one can stand in for the other")


def test_the_table_is_symmetric_by_hand():
    one, two, pair = (mean(torch.tensor([value])) for value in (-1.0, -2.0, 0.5))
    table = Interactions({"m1": one, "m2": two}, {("m1", "m2"): pair}).table
    assert table.tolist() == [[0, 0.5], [0.5, 0]]
    assert Interactions({"m1": one}, {}).verdicts() == ()


def test_effects_in_the_remark_have_the_unit_of_the_number():
    one, two, pair = (mean(torch.tensor([value])) for value in (-0.1, -0.25, 0.5))
    (verdict,) = Interactions({"m1": one, "m2": two}, {("m1", "m2"): pair}).verdicts("points")
    assert verdict.number == "50.0 points [50.0, 50.0]"
    assert "each alone, with all its paths in the circuit: −10.0 points and −25.0 points" in verdict.remark


@each_engine
def test_shares_of_mlps_are_what_their_paths_lose(engine_name):
    engine = make_engine(engine_name, planted_model(), planted_sentences())
    scale = Scale.of(engine, greater_than(YEARS))
    shares = mlp_shares(engine, scale, LARGER, END)
    assert [*shares] == ["m1", "m2"]
    assert shares["m2"].indirect is None
    paths = PathSet.parse("m2 → logits", end=END)
    lost = (scale.whole - scale.metric(engine.patch(paths))).mean() / scale.whole.mean()
    assert shares["m2"].direct.value == pytest.approx(lost.item(), abs=1e-6)
    assert shares["m1"].direct.value == pytest.approx(0, abs=1e-5)
    assert shares["m1"].indirect.value == pytest.approx(0, abs=1e-5)


def test_a_node_on_no_path_is_one_line():
    engine = make_engine("torch", planted_model(), planted_sentences())
    scale = Scale.of(engine, greater_than(YEARS))
    with pytest.raises(UserError, match=r"no path passes a2\.h0@END"):
        interactions(engine, scale, late_half(LARGER, END), {"a2.h0@END": Node.head(2, 0, END)})
    with pytest.raises(UserError, match="no node is given"):
        interactions(engine, scale, late_half(LARGER, END), {})
