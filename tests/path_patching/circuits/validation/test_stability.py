"""What searches on draws of the sentences have in common, and that a planted circuit is found on every one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from path_patching.circuits.papers_shape import in_papers_shape, varied
from path_patching.circuits.search import FEW, find_circuit, find_members
from path_patching.circuits.validation.stability import (
    Searches,
    Stability,
    jaccard,
    mean_jaccard,
    members_of,
    stability,
)
from path_patching.errors import UserError
from path_patching.gpt2.model import Architecture, random_model
from path_patching.sweeps import remembered_effects
from tests.helpers.engines import each_engine, make_engine
from tests.helpers.planted import END, YEARS, YY, planted_model, planted_sentences
from utils import greater_than

PLANTED = in_papers_shape("planted", ("m2",), ("a1.h1",), ("m2",), ("m0",), (), followed=("v",), whole=())
WEIGHTS = torch.tensor([[1, 1, 1, 1], [2, 0, 1, 1], [0, 3, 1, 0]])


def test_what_sets_have_in_common_by_hand():
    assert jaccard({"m1", "m2", "m3"}, {"m2", "m3", "m4"}) == 2 / 4
    assert jaccard({"m1"}, set()) == 0
    assert jaccard(set(), set()) == 1
    assert mean_jaccard([{"m1"}, {"m1", "m2"}, {"m3"}]) == pytest.approx((1 / 2 + 0 + 0) / 3)


def test_membership_and_consensus_by_hand():
    found = Searches(0.02, tuple(map(frozenset, [{"m1@END", "m0@YY"}, {"m1@END"}, {"m1@END", "m0@YY"}, {"m2@END"}])))
    assert found.membership == {"m1@END": 0.75, "m0@YY": 0.5, "m2@END": 0.25}
    assert found.consensus() == {"m1@END"}  # over half, which m0 is not
    assert found.within(["YY"]).membership == {"m0@YY": 0.5}
    assert found.within(["YY"]).jaccard() == pytest.approx((0 + 1 + 0 + 0 + 1 + 0) / 6)


@each_engine
def test_the_planted_circuit_is_found_on_every_draw(engine_name):
    engine = make_engine(engine_name, planted_model(), planted_sentences())
    found = stability(remembered_effects(engine, greater_than(YEARS)), WEIGHTS, YY, END, (0.05, 0.001))
    followed, at_end = found.searches
    assert followed.membership == {"m2@END": 1, "a1.h1@END": 1, "m0@YY": 1}
    assert followed.consensus() == members_of(PLANTED)
    assert at_end.membership == {"m2@END": 1, "a1.h1@END": 1}
    assert followed.jaccard() == at_end.jaccard() == 1
    assert all(verdict.passed for verdict in found.verdicts(PLANTED, 0.05) if verdict.passed is not None)


def test_below_a_threshold_searches_end_at_end():
    engine = make_engine("torch", planted_model(), planted_sentences())
    effects = remembered_effects(engine, greater_than(YEARS))
    found = stability(effects, WEIGHTS, YY, END, (0.05, 0.02), followed_from=0.03)
    assert [each.followed for each in found.searches] == [True, False]
    subjects = [verdict.subject for verdict in found.verdicts(PLANTED)]
    assert [subject for subject in subjects if "2 % of clean" in subject and "YY" in subject] == []
    assert found.judged_at(PLANTED) == 0.05


def test_a_metric_that_may_be_none_is_not_searched_for():
    engine = make_engine("torch", planted_model(), planted_sentences())
    signs = torch.tensor([1, -1, 1, 1])
    with pytest.raises(UserError, match=r"may be zero \(-0\.\d+ to 0\.\d+ on 3 draws of the sentences\)"):
        stability(remembered_effects(engine, lambda probs: signs * greater_than(YEARS)(probs)), WEIGHTS, YY, END)


def test_searches_that_keep_too_many_nodes_end_at_end():
    engine = make_engine("torch", random_model(Architecture(4, 10, 20, 2, 40, 16, vocab_size=120)), planted_sentences())
    effects = remembered_effects(engine, greater_than(YEARS))
    large, small = stability(effects, WEIGHTS, YY, END, (1e-6, 1e6), followed_from=1e-7).searches
    assert all(len(kept) > FEW for kept in large.found)
    assert not large.followed
    assert small.followed  # none was kept


def test_a_search_that_looked_at_end_alone_is_judged_only_where_no_other_is_there():
    at_end = frozenset(["m2@END", "a1.h1@END"])
    alike, other = Searches(0.002, (at_end,) * 2, followed=False), Searches(0.02, (frozenset({"m1@END"}),) * 2)
    assert Stability((other, alike)).judged_at(PLANTED) == 0.02
    assert Stability((replace(alike, threshold=0.001, found=(frozenset(),) * 2), alike)).judged_at(PLANTED) == 0.002
    verdict = Stability((alike,)).verdicts(PLANTED)[-1]
    assert (verdict.bar, verdict.measured) == ("consensus", 1)  # what the circuit has at YY is not asked


def test_a_draw_costs_no_sweep_of_its_own(monkeypatch):
    engine = make_engine("torch", planted_model(), planted_sentences())
    effects = remembered_effects(engine, greater_than(YEARS))
    expected = find_members(effects, YY, END, 0.01)
    monkeypatch.setattr(engine, "sweep", None)
    assert [find_members(effects.weighted(each), YY, END, 0.01) for each in WEIGHTS] == [expected] * 3


def test_members_are_those_of_the_whole_search():
    engine = make_engine("torch", planted_model(), planted_sentences())
    found = find_circuit(engine, greater_than(YEARS), YY, END, 0.01)
    effects = remembered_effects(engine, greater_than(YEARS))
    assert find_members(effects, YY, END, 0.01) == replace(found.circuit, studied=())
    assert find_members(effects, YY, END, 1e3) is None
    assert members_of(None) == frozenset()


@pytest.mark.parametrize(
    ("circuit", "index"),
    [
        (PLANTED, 1),
        (varied(PLANTED, further_below=("a0.h0",)), 3 / 4),  # one too many
        (in_papers_shape("few", ("m2",), ("a1.h1",), ("m2",), (), (), (), whole=("v",)), 2 / 3),  # one too few
        (varied(PLANTED, first_below=("m1",), heads=("a2.h0",)), 1 / 5),  # swapped
    ],
)
def test_the_consensus_is_held_against_the_circuit(circuit, index):
    found = Stability((Searches(0.02, (members_of(PLANTED),) * 3), Searches(0.01, (frozenset(),) * 3)))
    verdicts = [each for each in found.verdicts(circuit, 0.02) if each.bar == "consensus" and each.passed is not None]
    assert verdicts[-1].measured == pytest.approx(index)
    assert verdicts[-1].passed == (index >= 0.7)
    shown = [each for each in found.verdicts(circuit, 0.02) if each.remark == "another threshold, for comparison"]
    assert len(shown) == 4
    assert all(each.passed is None for each in shown)


def test_a_circuit_of_no_search_is_judged_where_the_consensus_is_most_like_it():
    found = Stability((Searches(0.02, (frozenset(),) * 2), Searches(0.01, (members_of(PLANTED),) * 2)))
    judged = [verdict.subject for verdict in found.verdicts(PLANTED) if verdict.passed is not None]
    assert judged
    assert all("1 % of clean" in subject for subject in judged)


def test_what_cannot_be_compared_is_one_line():
    effects = remembered_effects(make_engine("torch", planted_model(), planted_sentences()), greater_than(YEARS))
    with pytest.raises(UserError, match="two draws or more"):
        stability(effects, WEIGHTS[0], YY, END)
    with pytest.raises(UserError, match="no threshold is given"):
        stability(effects, WEIGHTS, YY, END, ())
    with pytest.raises(UserError, match=r"no search was made at 0\.3"):
        Stability((Searches(0.02, (frozenset(),) * 2),)).verdicts(PLANTED, 0.3)


def test_searches_that_find_nothing_have_nothing_to_judge():
    """Two empty sets have a Jaccard index of 1, an empty consensus one of 0 with any circuit: neither says a thing."""
    nothing = Stability((Searches(0.02, (frozenset(),) * 3),))
    assert [verdict.passed for verdict in nothing.verdicts(PLANTED, 0.02)] == [None] * 4
    assert all("the searches found no node" in verdict.remark for verdict in nothing.verdicts(PLANTED, 0.02))
    once = Stability((Searches(0.02, (frozenset(), frozenset(), members_of(PLANTED))),))  # (1 + 0 + 0) / 3
    assert [verdict.passed for verdict in once.verdicts(PLANTED, 0.02)] == [False] * 4


def test_searches_on_one_sentence_are_all_the_same_and_not_judged():
    engine = make_engine("torch", planted_model(), planted_sentences().rows(slice(1)))
    effects = remembered_effects(engine, greater_than(YEARS[:1]))
    found = stability(effects, torch.ones(3, 1), YY, END, (0.05,))
    assert found.searches[0].jaccard() == 1
    assert {verdict.passed for verdict in found.verdicts(PLANTED)} == {None}
    four = remembered_effects(make_engine("torch", planted_model(), planted_sentences()), greater_than(YEARS))
    few = stability(four, WEIGHTS, YY, END, (0.05,), doubt="4 YYs; an interval needs 10").verdicts(PLANTED)
    assert {(verdict.passed, verdict.remark.partition(";")[0]) for verdict in few} == {(None, "4 YYs")}
