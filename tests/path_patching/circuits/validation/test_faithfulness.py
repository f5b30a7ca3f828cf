"""Faithfulness and divergence beside small cases worked out by hand."""

from __future__ import annotations

import math
from typing import ClassVar, cast

import pytest
import torch

from benchmarks.calibration import engine_of, planted
from path_patching.bootstrap import share
from path_patching.circuits.circuit import full_circuit
from path_patching.circuits.validation.faithfulness import (
    divergence,
    divergence_from,
    divergence_scale,
    faithfulness,
    likeliest_of,
    spread,
)
from path_patching.circuits.validation.measuring import Scale
from path_patching.circuits.validation.verdicts import judge
from path_patching.engine import Engine, Request, Sentences
from path_patching.paths import Node, PathSet
from tests.helpers.engines import each_engine, make_engine
from tests.helpers.planted import END, SHARPNESS, SMALL_SHIFT, YEARS, YY, planted_sentences, scaled
from utils import greater_than, log_odds

METRIC = greater_than(YEARS)
ANY = PathSet.at(Node.logits(1)).through(Node.mlp(0, 1))
CLOSE = 1e-4  # of a probability difference: the planted LayerNorm is off by a few millionths


def bell(answer: torch.Tensor) -> torch.Tensor:
    """The metric (N,) of the bell around u = answer (N,); words have no probability to speak of."""
    u = scaled(torch.arange(100)).double()
    return METRIC((SHARPNESS * (u * answer.double()[:, None] - u.square() / 2)).softmax(1))


@each_engine
def test_a_circuit_of_two_of_three_heads(engine_name):
    """Alone it carries two thirds of u and one of 01's; its complement the other way round."""
    engine = make_engine(engine_name, planted("heads alone").model, planted_sentences())
    paths = full_circuit(planted("heads alone").too_few, YY, END)
    found = faithfulness(engine, Scale.of(engine, METRIC), paths, "two heads")
    u, u01 = scaled(YEARS), scaled(torch.ones(4))
    whole, nothing = bell(u + SMALL_SHIFT), bell(u01 + SMALL_SHIFT)
    alone, without = bell(u * 2 / 3 + u01 / 3 + SMALL_SHIFT), bell(u / 3 + u01 * 2 / 3 + SMALL_SHIFT)
    span = (whole - nothing).mean()
    expected = {
        "normalized": (alone - nothing).mean() / span,
        "complement": (without - nothing).mean() / span,
        "ratio": alone.mean() / whole.mean(),
    }
    assert {name: getattr(found, name).value for name in expected} == pytest.approx(
        {name: value.item() for name, value in expected.items()}, abs=CLOSE
    )
    assert torch.allclose(found.each, (alone - nothing) / (whole - nothing), atol=CLOSE)
    bars = ["faithfulness", "by_sentence", "likeliest", "complement", "equivalence", "independence"]
    assert [verdict.bar for verdict in found.verdicts()] == bars
    assert [verdict.passed for verdict in found.verdicts()] == [*[False] * 4, None, None]
    within = [(0.8 <= each <= 1.2) for each in found.each.tolist()]
    assert found.in_bar.value == pytest.approx(sum(within) / 4)
    years = (50 + 50 * (u * 2 / 3 + u01 / 3 + SMALL_SHIFT)).round(), (50 + 50 * (u + SMALL_SHIFT)).round()
    assert found.likeliest.value == pytest.approx((years[0] == years[1]).double().mean().item())


def test_intervals_are_of_shares_of_the_span():
    engine, paths = engine_of("heads alone"), full_circuit(planted("heads alone").too_few, YY, END)
    scale = Scale.of(engine, METRIC)
    found, alone = faithfulness(engine, scale, paths, "two heads"), METRIC(engine.isolate(paths))
    assert found.normalized == share(alone - scale.nothing, scale.whole - scale.nothing)


def test_divergence_by_hand():
    """½ ln(½ / ¼) + ¼ ln(¼ / ¼) + ¼ ln(¼ / ½), the last of anything else."""
    reference, probs = torch.tensor([[0.5, 0.25]] * 2).double(), torch.tensor([[0.25, 0.25], [0.5, 0.25]]).double()
    assert divergence_from(reference)(probs).tolist() == pytest.approx([math.log(2) / 4, 0])


@pytest.mark.parametrize(
    ("reference", "probs", "expected"),
    [
        ([1.0, 0.0], [0.5, 0.5], math.log(2)),
        ([1.0, 0.0], [0.0, 1.0], 12 * math.log(10)),
        ([0.5, 0.5], [0.0, 0.0], 12 * math.log(10) + math.log(0.5)),  # all on anything else
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([0.5, 0.5 + 1e-9], [0.5, 0.5 + 1e-9], 0.0),  # more than one in all, by rounding
    ],
)
def test_divergence_stays_finite_where_a_probability_is_zero(reference, probs, expected):
    found = divergence_from(torch.tensor([reference]).double())(torch.tensor([probs]).double())
    assert found.item() == pytest.approx(expected, abs=1e-9)


def test_divergence_of_a_circuit_as_a_share_of_nothing_s():
    engine, paths = engine_of("heads alone"), full_circuit(planted("heads alone").too_few, YY, END)
    found, distance = divergence(engine, divergence_scale(engine), paths, "two heads"), divergence_from(engine.clean())
    alone, nothing = distance(engine.isolate(paths)).mean(), distance(engine.corrupted()).mean()
    assert found.alone.value == pytest.approx(alone.item())
    assert found.nothing.value == pytest.approx(nothing.item())
    assert found.left.value == pytest.approx((alone / nothing).item())
    assert found.left.value == pytest.approx(1 / 9, abs=0.01)  # a bell a third as far away, and KL goes by its square


def test_the_spread_leaves_out_sentences_without_a_span():
    each = torch.tensor([0.0, 1.0, float("inf"), 2.0, float("nan"), 3.0, 4.0]).double()
    assert spread(each) == pytest.approx({0.05: 0.2, 0.25: 1, 0.5: 2, 0.75: 3, 0.95: 3.8})
    assert all(math.isnan(value) for value in spread(each[2:3]).values())


def test_the_divergence_of_the_next_token_worked_out_by_hand():
    """½ ln(½ / ¼) + ½ ln(½ / ¾) = ½ ln(4 / 3); what is certain and half as likely now costs ln 2; 0 · ln 0 is 0."""
    clean = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.3, 0.7]], dtype=torch.float64)
    patched = torch.tensor([[0.25, 0.75], [0.5, 0.5], [0.3, 0.7]], dtype=torch.float64)
    metric = divergence_from(clean)
    assert metric(patched).tolist() == pytest.approx([math.log(4 / 3) / 2, math.log(2), 0.0])
    assert metric(clean).tolist() == [0.0, 0.0, 0.0]
    assert metric(patched.flip(1))[1].item() == pytest.approx(math.log(2))
    assert metric(torch.tensor([[1.0, 0.0]] * 3, dtype=torch.float64)).isfinite().all()


class TwoKinds:
    """An engine of four sentences and two answers: alone the circuit does 1.6 of two sentences and 0 of the others."""

    memory_gb = 1.0
    sentences = Sentences(torch.tensor([[0, 1]] * 4), torch.tensor([[0, 2]] * 4), torch.arange(2))
    of_request: ClassVar = {"clean": [0.5] * 4, "isolate": [0.8, 0.8, 0.0, 0.0]}

    def clean(self) -> torch.Tensor:
        return self.evaluate([Request.clean()])[0]

    def evaluate(self, requests: list[Request]) -> list[torch.Tensor]:
        return [self._of(request) for request in requests]

    def _of(self, request: Request) -> torch.Tensor:
        known = {Request.clean(): "clean", Request.isolate(ANY): "isolate"}
        value = torch.tensor(self.of_request.get(known.get(request, ""), [0.0] * 4)).double()
        return torch.stack([value, torch.full((4,), 0.3).double()], 1)


def test_a_mean_of_sentences_that_do_too_much_and_of_others_that_do_nothing_is_seen():
    """F is 0.8 / 0.5 = 1.6, 1.6, 0 and 0: their mean, 0.8, is within the bar; of the sentences none is.

    The first of two answers is the model's likeliest, 0.5 against 0.3; alone with 0.8, not with 0: half of the four.
    """
    engine = cast("Engine", TwoKinds())
    scale = Scale.of(engine, lambda probs: probs[:, 0], most=1)
    found = faithfulness(engine, scale, ANY, "two kinds")
    assert found.normalized.value == pytest.approx(0.8)
    assert found.each.tolist() == pytest.approx([1.6, 1.6, 0, 0])
    assert (found.in_bar.value, found.likeliest.value) == (0, 0.5)
    mean_of, by_sentence, likeliest, complement, *_ = found.verdicts()
    assert (by_sentence.passed, likeliest.passed, complement.passed) == (False, False, True)
    assert by_sentence.remark == "F is below the bar on 2, above it on 2 of 4 sentences"
    assert "F cannot be over 200.0 %" in mean_of.remark  # (1 − 0) / (0.5 − 0)


def test_sentences_without_a_span_are_no_share_of_those_in_the_bar():
    each = torch.tensor([1.0, float("nan"), float("inf"), 0.5]).double()
    assert spread(each)[0.5] == 0.75
    second_is, first_is = [0.4, 0.6], [0.9, 0.1]
    agrees = likeliest_of(torch.tensor([second_is, first_is]))(torch.tensor([second_is, second_is]))
    assert agrees.tolist() == [1, 0]


@pytest.mark.parametrize(("complement", "passed"), [(0.1, True), (-0.1, True), (0.3, False), (-0.3, False)])
def test_a_complement_has_both_ends(complement, passed):
    assert judge("complement", complement, "").passed == passed


def test_a_head_that_works_against_the_metric_is_missed_by_probabilities_and_seen_by_log_odds():
    """Without −u/3 the answer is 4/3 u − u01/3, up to 0.4 above u, which is 20 years later.

    The probability difference, nearly 1 as it is, can hardly rise: F stays under the largest that it can be, which is
    less than 1.2. Log odds have no such ceiling.
    """
    engine, paths = engine_of("against"), full_circuit(planted("against").too_few, YY, END)
    by_probability = faithfulness(engine, Scale.of(engine, METRIC, most=1), paths, "without it")
    by_odds = faithfulness(engine, Scale.of(engine, lambda probs: log_odds(probs, YEARS)), paths, "without it")
    assert 1 < by_probability.normalized.value < by_probability.scale.largest < 1.2
    assert by_odds.normalized.value > 1.2
    assert (by_probability.verdict().passed, by_odds.verdict().passed) == (True, False)
    assert by_odds.verdict().remark == "it lacks something that works against it"
