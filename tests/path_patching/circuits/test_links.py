from __future__ import annotations

import pytest
import torch

from path_patching.circuits.circuit import LOGITS, Circuit, Link
from path_patching.circuits.links import link_effects
from path_patching.circuits.papers_shape import in_papers_shape
from path_patching.engine import Request
from path_patching.paths import Node, PathSet
from path_patching.sweeps import effects_on, remembered_effects
from tests.helpers.engines import each_engine, make_engine
from tests.helpers.planted import END, YEARS, YY, planted_model, planted_sentences
from utils import greater_than, prob_diff

PLANTED = in_papers_shape("planted", ("m2",), ("a1.h1",), ("m2",), ("m0",), (), followed=("v",), whole=())
LARGER = in_papers_shape(
    name="larger",
    mlps=("m1", "m2"),
    heads=("a0.h1", "a1.h1"),
    heads_feed=(LOGITS, "m1", "m2"),
    first_below=("embeds", "m0"),
    further_below=("a0.h0",),
    followed=("v",),
    whole=("q",),
)
INTO_LOGITS = ("a0.h1", "a1.h1", "m1", "m2")


@pytest.fixture
def engine(engine_name):
    return make_engine(engine_name, planted_model(), planted_sentences())


@each_engine
def test_in_a_planted_chain_every_link_is_all_that_matters(engine):
    clean, corrupted = (prob_diff(probs, YEARS).mean() for probs in (engine.clean(), engine.corrupted()))
    effects = link_effects(engine, PLANTED, greater_than(YEARS), YY, END)
    assert set(effects) == {
        Link("logits@END", "in", "m2@END"),
        Link("m2@END", "in", "a1.h1@END"),
        Link("a1.h1@END", "v", "m0@YY"),
        Link("m0@YY", "in", "embeds@YY"),
    }
    for effect in effects.values():
        assert effect == pytest.approx((corrupted - clean).item(), abs=1e-4)


@each_engine
def test_a_links_effect_is_that_of_its_sender_through_every_path_to_its_reader(engine):
    effects = link_effects(engine, LARGER, greater_than(YEARS), YY, END)
    logits, m1, m2 = PathSet.at(Node.logits(END)), Node.mlp(1, END), Node.mlp(2, END)
    into_m1 = logits.through_chains([m2]).extend([m1])
    head = logits.through_chains([m1, m2]).extend([Node.head(1, 1, END)])
    expected = {
        Link("m1@END", "in", "a1.h1@END"): into_m1.extend([Node.head(1, 1, END)]),
        Link("logits@END", "in", "a0.h1@END"): logits.extend([Node.head(0, 1, END)]),
        Link("a1.h1@END", "v", "embeds@YY"): head.extend([Node.embeds(YY)], "v"),
        Link("a1.h1@END", "v", "m0@YY"): head.extend([Node.mlp(0, YY)], "v"),
        Link("a1.h1@END", "q", "everything"): head.extend([Node.residual(END)], "q"),
    }
    clean = engine.clean()
    for link, paths in expected.items():
        patched = prob_diff(engine.patch(paths), YEARS) - prob_diff(clean, YEARS)
        assert effects[link] == pytest.approx(patched.mean().item(), abs=1e-6)
    assert Link("m0@YY", "in", "a0.h0@YY") in effects
    assert Link("a0.h1@END", "v", "m0@YY") not in effects  # not upstream


def test_a_link_without_places_is_patched_at_all_positions_together():
    """The planted chain, wherever its nodes are."""
    engine = make_engine("torch", planted_model(), planted_sentences())
    links = tuple(map(Link.parse, ("m2 → logits", "a1.h1 → m2", "m0 →v a1.h1", "embeds → m0")))
    effects = link_effects(engine, Circuit("without places", links), greater_than(YEARS), YY, END)
    clean, corrupted = (prob_diff(probs, YEARS).mean() for probs in (engine.clean(), engine.corrupted()))
    assert {*effects} == {*links}
    for effect in effects.values():
        assert effect == pytest.approx((corrupted - clean).item(), abs=1e-4)


def test_a_sweep_is_made_once(monkeypatch):
    engine = make_engine("torch", planted_model(), planted_sentences())
    calls = []
    sweep = engine.sweep
    monkeypatch.setattr(engine, "sweep", lambda *asked: calls.append(asked) or sweep(*asked))
    effects = remembered_effects(engine, greater_than(YEARS))
    first = effects(PathSet.at(Node.logits(END)), END)
    assert torch.equal(effects(PathSet.at(Node.logits(END)), END), first)
    assert effects(PathSet.at(Node.logits(END)).extend([Node.mlp(2, END)]), END) is not first
    assert len(calls) == 2
    assert (first == effects_on(engine, PathSet.at(Node.logits(END)), greater_than(YEARS), END)).all()


@each_engine
def test_links_that_a_sweep_has_patched_are_not_patched_again(engine, monkeypatch):
    expected = link_effects(engine, LARGER, greater_than(YEARS), YY, END)
    effects, asked = remembered_effects(engine, greater_than(YEARS)), []
    effects(PathSet.at(Node.logits(END)), END)
    evaluate = engine.evaluate
    monkeypatch.setattr(engine, "evaluate", lambda requests: asked.extend(requests) or evaluate(requests))
    found = link_effects(engine, LARGER, greater_than(YEARS), YY, END, effects)
    assert found == pytest.approx(expected, abs=1e-6)
    direct = {Request.patch(PathSet.at(Node.logits(END)).extend([Node.named(name, END)])) for name in INTO_LOGITS}
    assert len(asked) == len({*asked}) > len(expected) / 2
    assert direct.isdisjoint(asked)
