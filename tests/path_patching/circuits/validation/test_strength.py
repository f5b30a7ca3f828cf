"""Curves by hand; in a planted chain the patched year moves with α, and useless nodes have no effect to judge."""

from __future__ import annotations

import pytest
import torch

from path_patching.bootstrap import Estimate, mean
from path_patching.circuits.circuit import late_half
from path_patching.circuits.validation.measuring import Scale
from path_patching.circuits.validation.strength import ALPHAS, Strengths, strengths
from path_patching.engine import Request
from path_patching.errors import UserError
from path_patching.paths import Node
from tests.helpers.engines import each_engine, make_engine
from tests.helpers.planted import END, LARGER, MEMBERS, YEARS, planted_model, planted_sentences
from utils import greater_than


def curve(alphas: list[float], values: list[float]) -> Strengths:
    means = tuple(mean(torch.tensor([value])) for value in values)
    effect = values[alphas.index(1)] - values[0]
    return Strengths("by hand", tuple(alphas), means, Estimate(effect, effect, effect, 1))


def test_half_of_the_effect_and_the_way_there_by_hand():
    falling = curve([0, 0.5, 1, 1.5], [0.5, 0.3, -0.5, -0.6])
    assert falling.half_at() == pytest.approx(0.5 + 0.5 * 0.3 / 0.8)
    assert falling.monotone() == 1
    back = curve([0, 0.25, 0.5, 0.75, 1, 1.5], [0.0, 0.2, 0.1, 0.1, 0.4, 0.0])  # one step back, one that stays
    assert back.monotone() == pytest.approx(3 / 4)
    assert back.half_at() == pytest.approx(0.25) == curve([0, 0.25, 1], [0, 0.2, 0.4]).half_at()
    assert [verdict.passed for verdict in (*falling.verdicts(), *back.verdicts())] == [True, False]
    assert curve([0, 1], [0.5, 0.5]).half_at() is None


def test_strengths_are_those_of_the_specification():
    assert (ALPHAS[0], ALPHAS[1], ALPHAS[-1], len(ALPHAS)) == (0, 0.125, 1.5, 13)


@each_engine
def test_the_planted_chain_does_more_the_stronger_the_patch(engine_name):
    engine = make_engine(engine_name, planted_model(), planted_sentences())
    scale, paths = Scale.of(engine, greater_than(YEARS)), late_half(LARGER, END)
    curves = {each.subject: each for each in strengths(engine, scale, paths, MEMBERS, "late half")}
    whole = curves["late half"]
    assert whole.means[0].value == pytest.approx(scale.whole.mean().item(), abs=1e-6)
    assert whole.means[8].value == pytest.approx(scale.nothing.mean().item(), abs=1e-3)
    over = scale.metric(engine.evaluate([Request.patch(paths, strength=1.25)])[0])
    assert whole.means[10].value == pytest.approx(over.mean().item(), abs=1e-6)
    assert whole.effect.value == pytest.approx(-1, abs=1e-3)
    assert 0 < whole.half_at() < 1
    for name in ("late half", "m2@END", "a1.h1@END"):
        assert curves[name].monotone() == 1
        assert [verdict.passed for verdict in curves[name].verdicts()] == [True]
        assert curves[name].half_at() == pytest.approx(whole.half_at(), abs=1e-3)
    for name in ("m1@END", "a0.h1@END"):
        assert curves[name].too_weak
        assert [verdict.passed for verdict in curves[name].verdicts()] == [None]


def test_a_node_on_no_path_and_strengths_without_an_end_are_one_line():
    engine = make_engine("torch", planted_model(), planted_sentences())
    scale, paths = Scale.of(engine, greater_than(YEARS)), late_half(LARGER, END)
    with pytest.raises(UserError, match=r"no path passes a2\.h0@END"):
        strengths(engine, scale, paths, {"a2.h0@END": Node.head(2, 0, END)}, "late half")
    for alphas in [(0, 0.5), (0.5, 1), (1, 0), (-1, 0, 1)]:
        with pytest.raises(UserError, match="strengths have to rise from 0 and include 1"):
            strengths(engine, scale, paths, {}, "late half", alphas)
