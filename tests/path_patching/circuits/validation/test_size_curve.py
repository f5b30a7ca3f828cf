"""Areas by hand; on a planted circuit the curve reaches the whole with the circuit's own nodes and stays there."""

from __future__ import annotations

import pytest
import torch

from path_patching.circuits.papers_shape import in_papers_shape, varied
from path_patching.circuits.validation.measuring import Scale
from path_patching.circuits.validation.size_curve import (
    Curve,
    circuit_of,
    halves,
    names_at_end,
    on_curve,
    random_curve,
    ranked_nodes,
    size_curve,
    size_grid,
)
from path_patching.errors import UserError
from tests.helpers.engines import each_engine, make_engine
from tests.helpers.planted import END, YEARS, planted_model, planted_sentences
from utils import greater_than

PLANTED = in_papers_shape("planted", ("m2",), ("a1.h1",), ("m2",), ("m0",), (), followed=("v",), whole=())


def test_areas_by_hand():
    curve = Curve((0, 2, 4), (0.0, 1.2, 1.0))
    assert curve.shares == (0, 0.5, 1)
    assert curve.cpr == pytest.approx(0.5 * 0.6 + 0.5 * 1.1)
    assert curve.cmd == pytest.approx(0.5 * (1 + 0.2) / 2 + 0.5 * (0.2 + 0) / 2)
    at_once = Curve((0, 1, 2), (1.0, 1.0, 1.0))
    assert (at_once.cpr, at_once.cmd) == (1, 0)


def test_sizes_and_halves_by_hand():
    assert size_grid(9) == (*range(10),)
    assert size_grid(40) == (*range(31), 36, 40)
    first, second = halves(7, seed=1)
    assert (len(first), len(second)) == (3, 4)
    assert sorted([*first.tolist(), *second.tolist()]) == [*range(7)]
    assert torch.equal(halves(7, seed=1)[0], first)


@each_engine
def test_the_planted_nodes_lead_the_curve_to_the_whole(engine_name):
    engine, (first, second) = make_engine(engine_name, planted_model(), planted_sentences()), halves(4)
    order = ranked_nodes(engine.like(engine.sentences.rows(first)), greater_than(YEARS[first]), END)
    assert set(order[:2]) == {"m2", "a1.h1"}
    evaluated = engine.like(engine.sentences.rows(second))
    scale = Scale.of(evaluated, greater_than(YEARS[second]))
    curve = size_curve(evaluated, scale, order, END)
    assert curve.faithfulness == pytest.approx([0, 0, *[1] * 8], abs=1e-3)
    assert curve.cpr == pytest.approx(7.5 / 9, abs=1e-3)
    assert curve.cmd == pytest.approx(1.5 / 9, abs=1e-3)
    by_chance = random_curve(evaluated, scale, END, orders=3)
    assert by_chance.faithfulness[-1] == pytest.approx(1, abs=1e-3)
    assert by_chance.cpr < curve.cpr
    assert by_chance.cmd > curve.cmd


def test_the_circuit_of_all_nodes_is_the_model_and_that_of_mlps_alone_is_nothing():
    engine = make_engine("torch", planted_model(), planted_sentences())
    everything = circuit_of(names_at_end(engine), END)
    assert (engine.isolate(everything) - engine.clean()).abs().max() < 1e-6
    assert circuit_of(["m0", "m2"], END) is None


@pytest.mark.parametrize(
    ("circuit", "passed"),
    [
        (PLANTED, True),
        (varied(PLANTED, heads=("a0.h1",), first_below=("embeds",)), False),  # swapped
        (varied(PLANTED, mlps=("m1",), heads_feed=("m1",), heads=("a1.h1",)), False),
    ],
)
def test_the_circuit_is_held_against_the_first_nodes_of_its_size(circuit, passed):
    engine = make_engine("torch", planted_model(), planted_sentences())
    metric = greater_than(YEARS)
    found = on_curve(engine, Scale.of(engine, metric), ranked_nodes(engine, metric, END), circuit, END)
    assert found.size == 2
    assert found.best.value == pytest.approx(1, abs=1e-3)
    assert found.behind.value == pytest.approx(found.best.value - found.own.value)
    assert [verdict.passed for verdict in found.verdicts()] == [passed]


def test_an_order_that_does_not_fit_is_one_line():
    engine = make_engine("torch", planted_model(), planted_sentences())
    scale, every = Scale.of(engine, greater_than(YEARS)), names_at_end(engine)
    with pytest.raises(UserError, match="each of the 9 heads and MLPs once"):
        size_curve(engine, scale, every[1:], END)
