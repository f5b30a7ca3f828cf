"""p-values by hand; random circuits are others than the circuit and than each other."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from benchmarks.calibration import engine_of, planted
from path_patching.circuits.circuit import Circuit, Link, full_circuit, late_half
from path_patching.circuits.validation.matched import TIE, Matched, least_to_pass, matched, p_value, random_parts
from path_patching.circuits.validation.measuring import Scale
from path_patching.errors import UserError
from tests.helpers.planted import END, SIZES, YEARS, YY
from utils import greater_than

FULL, LATE = (lambda circuit: full_circuit(circuit, YY, END)), partial(late_half, end=END)
CHAIN = planted("chain").circuit


@pytest.mark.parametrize("count", [99, 198, 199, 200])
def test_what_is_above_the_least_to_pass_passes_and_what_is_at_it_does_not(count):
    drawn = torch.randperm(count, generator=torch.Generator().manual_seed(count)).double()
    least = least_to_pass(drawn)
    assert p_value(drawn, least) > 0.01 >= p_value(drawn, least + 0.5)
    assert least_to_pass(drawn[:98]) is None


def test_p_counts_the_circuit_among_those_that_do_as_much():
    drawn = torch.tensor([0.1, 0.5, 0.9, -0.2]).double()
    assert p_value(drawn, 1.0) == 1 / 5
    assert p_value(drawn, 0.5) == 3 / 5
    assert p_value(drawn, 0.5 + TIE / 2) == 3 / 5, "rounding does not decide for the circuit"
    assert p_value(drawn, -1.0) == 1
    assert p_value(drawn, float("nan")) == p_value(drawn * float("nan"), 0.5) == 1


def test_a_complement_is_stronger_with_less_left():
    alone, without = torch.tensor([0.2, 0.9, 0.1]).double(), torch.tensor([0.7, 0.05, 0.9]).double()
    found = Matched("full circuit", "any layers", own_alone=0.8, own_without=0.1, alone=alone, without=without)
    assert (found.p_alone, found.p_without) == (2 / 4, 2 / 4)
    assert replace(found, own_without=0.0).p_without == 1 / 4
    assert replace(found, own_without=0.8).p_without == 3 / 4


def test_too_few_circuits_are_not_judged_by():
    of = partial(Matched, "full circuit", "same layers", 1.0, 0.0)
    few = of(alone=torch.zeros(98), without=torch.ones(98)).verdicts()
    enough = of(alone=torch.zeros(99), without=torch.ones(99)).verdicts()
    worse = of(alone=torch.ones(99), without=torch.zeros(99)).verdicts()
    assert [[verdict.passed for verdict in verdicts] for verdicts in (few, enough, worse)] == [
        [None, None],
        [True, True],
        [False, False],
    ]
    assert [verdict.remark for verdict in enough] == ["0 of 99 drawn do as much", "0 of 99 drawn take as much"]
    assert few[0].remark.startswith("too few random circuits")
    doubtful = of(alone=torch.zeros(99), without=torch.ones(99), doubt="1 sentence; give two or more").verdicts()
    assert [verdict.passed for verdict in doubtful] == [None, None]
    assert enough[0].subject == "full circuit alone, same layers", "a number of each kind has a key of its own"


def test_f_of_each_random_circuit_is_that_of_its_paths():
    engine, metric = engine_of("chain"), greater_than(YEARS)
    found = matched(engine, Scale.of(engine, metric), CHAIN, FULL, "any layers", "chain", count=3, seed=1)
    parts = random_parts(CHAIN, FULL, "any layers", SIZES, 3, seed=1)
    whole, nothing = metric(engine.clean()).mean(), metric(engine.corrupted()).mean()
    for own, probabilities in ((found.alone, engine.isolate), (found.without, engine.patch)):
        expected = [((metric(probabilities(part)).mean() - nothing) / (whole - nothing)).item() for part in parts]
        assert own.tolist() == pytest.approx(expected)
    assert (found.own_alone, found.own_without) == (pytest.approx(1, abs=1e-4), pytest.approx(0, abs=1e-4))


@pytest.mark.parametrize(("kind", "all_there_are"), [("any layers", 7), ("same layers", 1)])
def test_random_circuits_are_others_than_the_circuit_and_than_each_other(kind, all_there_are):
    found = random_parts(CHAIN, FULL, kind, SIZES, 50)
    assert len(found) == len(set(found)) == all_there_are
    assert FULL(CHAIN) not in found
    assert random_parts(CHAIN, FULL, kind, SIZES, 50) == found, "they repeat with their seed"


def test_another_seed_draws_other_circuits():
    assert len({tuple(random_parts(CHAIN, FULL, "any layers", SIZES, 2, seed)) for seed in range(8)}) > 1


def test_circuits_that_differ_below_their_heads_have_one_late_half():
    full, late = (random_parts(CHAIN, part, "any layers", SIZES, 50) for part in (FULL, LATE))
    assert len(late) < len(full)
    assert LATE(CHAIN) not in late


def test_where_there_is_no_other_circuit_a_line_says_so():
    both = planted("chain").too_many  # all heads of its layer
    with pytest.raises(UserError, match=r"layers of 2 heads have no other circuit .* the planted chain; draw from any"):
        random_parts(both, FULL, "same layers", SIZES, 5)
    alone = Circuit("alone", tuple(map(Link.parse, ("a0.h0 → logits", "embeds →q a0.h0"))))
    for kind, way_out in {"any layers": "a larger model", "same layers": "any layers"}.items():
        with pytest.raises(UserError, match=f"draw from {way_out}$"):
            random_parts(alone, FULL, kind, replace(SIZES, n_layers=1, n_heads=1), 5)
    lower = planted("lower MLPs").circuit  # its lower nodes are MLPs, which stay
    one_head = replace(SIZES, n_layers=5, n_heads=2)
    assert len(random_parts(lower, LATE, "same layers", one_head, 5)) == 1
    with pytest.raises(UserError, match="0 random circuits are too few"):
        random_parts(CHAIN, FULL, "any layers", SIZES, 0)
