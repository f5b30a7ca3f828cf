"""Two abilities planted in one model, each with a head of its own: each is lost with its own circuit alone."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import cycle

import pytest
import torch

from path_patching.bootstrap import Estimate
from path_patching.circuits.circuit import Circuit, Link
from path_patching.circuits.papers_shape import in_papers_shape, varied
from path_patching.circuits.validation.dissociation import (
    Ability,
    Dissociation,
    _others,
    dissociation,
    disturbance,
    impeded,
    loss,
)
from path_patching.circuits.validation.faithfulness import divergence_scale
from path_patching.circuits.validation.measuring import Scale
from path_patching.engine import Engine, Sentences
from path_patching.errors import UserError
from path_patching.paths import Node, PathSet
from tests.helpers.engines import each_engine, make_engine
from tests.helpers.planted import (
    AT_LAST,
    BEFORE,
    BEFORE_END,
    BOTH,
    END,
    SIZES,
    YEARS,
    cut,
    planted_model,
    planted_sentences,
    two_abilities,
)
from utils import greater_than


def abilities(engine_name: str, circuits: tuple[Circuit, Circuit] = (AT_LAST, BEFORE)) -> list[Ability]:
    whole, found = planted_sentences(), []
    for name, sentences, circuit in zip(("long", "short"), (whole, cut(whole)), circuits, strict=True):
        engine = make_engine(engine_name, two_abilities(), sentences)
        scale = Scale.of(engine, greater_than(YEARS))
        assert scale.span.mean() > 1
        found.append(Ability(name, engine, scale, circuit, sentences.end))
    return found


@each_engine
def test_each_ability_is_lost_with_its_own_circuit_alone(engine_name):
    table = dissociation(abilities(engine_name), random.Random(0))
    losses = {pair: estimate.value for pair, estimate in table.losses.items()}
    expected = {("long", "long"): 1, ("long", "short"): 0, ("short", "long"): 0, ("short", "short"): 1}
    assert losses == pytest.approx(expected, abs=1e-3)
    verdicts = table.verdicts()
    assert [verdict.passed for verdict in verdicts] == [True, None] * 4
    assert [verdict.bar for verdict in verdicts[::2]] == ["own_loss", "other_loss", "other_loss", "own_loss"]


@pytest.mark.parametrize("circuits", [(BEFORE, AT_LAST), (BOTH, BEFORE), (AT_LAST, AT_LAST)])
def test_circuits_that_are_swapped_or_shared_do_not_dissociate(circuits):
    table = dissociation(abilities("torch", circuits), random.Random(0), draws=1)
    assert [verdict.passed for verdict in table.verdicts()].count(False) > 0


def alike(name: str, circuit: Circuit) -> Ability:
    """The long ability with another circuit for its own."""
    return replace(abilities("torch")[0], name=name, circuit=circuit)


def test_own_loss_is_what_is_lost_beyond_chance():
    """The circuit takes all, 1; the other heads at END write nothing of the year, so random circuits take 0: 1 − 0."""
    (own, chance) = dissociation([alike("mine", AT_LAST)], random.Random(0)).verdicts()
    assert own.measured.value == pytest.approx(1, abs=1e-3)
    assert own.remark == "its circuit takes 100.0 %, random circuits 0.0 %"
    assert (own.passed, chance.passed) == (True, None)


def test_random_circuits_have_other_nodes_at_end_than_the_circuit(monkeypatch):
    """Every second draw is the circuit itself, with another node below its head: neither may stand for chance."""
    below = varied(AT_LAST, first_below=("m0",), heads=("a1.h1",))
    own = varied(below, first_below=("embeds",))
    draws = cycle([own, BEFORE, below])
    monkeypatch.setattr("path_patching.circuits.validation.dissociation.random_circuit", lambda *_: next(draws))
    ability = alike("mine", own)
    assert _others(ability, random.Random(0), 3) == [BEFORE] * 3
    monkeypatch.setattr("path_patching.circuits.validation.dissociation.random_circuit", lambda *_: below)
    table = dissociation([ability], random.Random(0))
    assert table.by_chance == {}
    (verdict,) = table.verdicts()
    assert (verdict.passed, verdict.remark) == (None, "no random circuit of its shape to compare with")


@pytest.mark.parametrize(
    ("lost", "chance", "passed"),
    [
        (1.0, 0.0, True),
        (1.0, 0.45, True),  # 0.55
        (0.6, 0.2, False),  # 0.4
        (1.0, 0.99997, None),  # even all of the span is not half of it more than that
        (0.1, 0.99997, False),  # a circuit that takes less than chance is none
        (1.5, 0.1, False),  # 1.4: more than there is
    ],
)
def test_what_random_circuits_take_is_taken_off(lost, chance, passed):
    own, by_chance, beyond = (Estimate(each, each, each, 97) for each in (lost, chance, lost - chance))
    table = Dissociation({("a", "a"): own}, {("a", "a"): by_chance}, {"a": beyond})
    assert table.verdicts()[0].passed is passed


def test_a_share_of_a_span_of_zero_says_so_and_nothing_of_chance():
    ability = abilities("torch")[0]
    flat = replace(ability.scale, nothing=ability.scale.whole)
    verdicts = dissociation([replace(ability, scale=flat)], random.Random(0)).verdicts()
    assert [each.passed for each in verdicts] == [None, None]
    assert all(each.remark.startswith("nothing to judge: the span is zero") for each in verdicts)


@pytest.mark.parametrize(("lost", "passed"), [(0.05, True), (-0.05, True), (0.3, False), (-0.3, False)])
def test_an_other_ability_is_left_alone_if_it_neither_loses_nor_gains(lost, passed):
    own, other = Estimate(1.0, 1.0, 1.0, 97), Estimate(lost, lost, lost, 97)
    table = Dissociation({("a", "a"): own, ("a", "b"): other}, {}, {})
    assert table.verdicts()[1].passed is passed


def test_the_control_is_the_mean_over_the_circuits_drawn():
    long, _ = abilities("torch")
    assert loss(long, [AT_LAST, BEFORE]).value == pytest.approx(1 / 2, abs=1e-3)
    tables = [dissociation([long], random.Random(seed), draws=1) for seed in (0, 0)]
    assert tables[0].by_chance == tables[1].by_chance


def test_what_is_impeded_is_every_node_along_the_circuits_links():
    circuit = in_papers_shape("chain", ("m1", "m2"), ("a1.h1",), ("m1",), (), (), followed=(), whole=("v",))
    mlps, heads = "m2 → logits; m1 → logits; m1 → m2 → logits", "a1.h1 → m1 → logits; a1.h1 → m1 → m2 → logits"
    assert impeded(circuit, END) == PathSet.parse(f"{mlps}; {heads}", end=END)
    assert impeded(AT_LAST, END) == PathSet.parse("a0.h1 → logits", end=END)


def test_what_mlps_read_of_the_embeddings_is_not_impeded_beside_them():
    links = ("m0@END → logits@END", "embeds@END → m0@END", "a0.h1@END → m0@END", "embeds@YY →v a0.h1@END")
    circuit = Circuit("reads embeddings", tuple(map(Link.parse, (*links, "embeds@END → logits@END"))))
    assert impeded(circuit, END) == PathSet.parse("m0 → logits; a0.h1 → m0 → logits", end=END)


def test_a_circuit_whose_nodes_cannot_be_others_has_no_control():
    long, _ = abilities("torch")
    every = Circuit("all MLPs", tuple(map(Link.parse, ("embeds → m0", "m0 → m1", "m1 → m2", "m2 → logits"))))
    table = dissociation([long, replace(long, name="again", circuit=every)], random.Random(0), draws=1)
    assert [*table.losses] == [(task, circuit) for task in ("long", "again") for circuit in ("long", "again")]
    assert [*table.by_chance] == [("long", "long"), ("again", "long")]
    assert len(table.verdicts()) == 6


@each_engine
def test_plain_sentences_are_disturbed_by_nodes_that_act_on_them(engine_name):
    sentences = planted_sentences()
    plain = Sentences(sentences.clean, sentences.clean, torch.arange(SIZES.vocab_size))
    engine: Engine = make_engine(engine_name, planted_model(), plain)
    own = in_papers_shape("own", ("m2",), ("a1.h1",), ("m2",), (), (), followed=(), whole=("v",))
    idle = varied(own, name="idle", mlps=("m1",), heads=("a0.h1",), heads_feed=("m1",))
    found = disturbance(engine, divergence_scale(engine), {"own": own, "idle": idle}, END)
    assert found["own"].value > 0.1
    assert found["idle"].value == pytest.approx(0, abs=1e-5)
    ablated = engine.patch(PathSet.at(Node.logits(END)).extend([Node.mlp(2, END)]), inside="mean")
    clean = engine.clean()
    expected = (clean * (clean.clamp(min=1e-12) / ablated.clamp(min=1e-12)).log()).sum(1).mean()
    assert found["own"].value == pytest.approx(expected.item(), rel=1e-3)


def test_two_abilities_of_one_name_are_one_line():
    long, short = abilities("torch")
    assert short.end == BEFORE_END
    with pytest.raises(UserError, match="two abilities have one name"):
        dissociation([long, replace(short, name="long")], random.Random(0))
