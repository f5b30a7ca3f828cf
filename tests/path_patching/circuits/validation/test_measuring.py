"""Requests are evaluated once and in chunks; F has its zero at ∅, its one at the whole model."""

from __future__ import annotations

import math

import pytest
import torch

from path_patching.bootstrap import Estimate, mean, share
from path_patching.circuits.validation.measuring import (
    Scale,
    is_change,
    is_no_change,
    is_nothing,
    isolated,
    magnitude,
    measured,
    removed,
    too_few,
)
from path_patching.engine import Request, Sentences
from path_patching.errors import UserError
from path_patching.paths import Node, PathSet, PathSetError
from tests.helpers.engines import each_engine, make_engine
from tests.helpers.planted import CHAIN, END, YEARS, planted_model, planted_sentences
from utils import cutoff_sharpness, greater_than

LATE = PathSet.at(Node.logits(END)).through(*CHAIN[:2])
METRICS = (greater_than(YEARS), lambda probs: cutoff_sharpness(probs, YEARS))


@each_engine
def test_every_metric_of_every_request(engine_name):
    engine = make_engine(engine_name, planted_model(), planted_sentences())
    requests = [Request.clean(), Request.isolate(LATE), Request.clean(), Request.patch(LATE)]
    found = measured(engine, requests, METRICS)
    assert found.shape == (2, 4, 4)
    assert found.dtype == torch.float64
    assert torch.equal(found[:, 0], found[:, 2])
    for place, request in enumerate(requests):
        probabilities = engine.evaluate([request])[0]
        assert torch.equal(found[:, place], torch.stack([metric(probabilities) for metric in METRICS]))


def test_requests_are_evaluated_once_and_as_many_as_fit_in_memory(monkeypatch):
    one = 8 * 4 * 100  # bytes of the probabilities of a request
    engine = make_engine("torch", planted_model(), planted_sentences(), memory_gb=2 * 8 * one / 1e9)
    asked: list[int] = []
    evaluate = engine.evaluate
    monkeypatch.setattr(engine, "evaluate", lambda requests: asked.append(len(requests)) or evaluate(requests))
    requests = [Request.clean(), Request.corrupted(), Request.patch(LATE), Request.clean(), Request.isolate(LATE)]
    requests += [Request.patch(LATE.extend([Node.embeds(3)], "v"))]
    found = measured(engine, requests, METRICS)
    assert asked == [2, 2, 1]
    roomy = make_engine("torch", planted_model(), planted_sentences())
    assert torch.allclose(found, measured(roomy, requests, METRICS), atol=1e-6)


def test_what_cannot_be_measured_is_said():
    engine = make_engine("torch", planted_model(), planted_sentences())
    with pytest.raises(UserError, match="no metric is given"):
        measured(engine, [Request.clean()], [])
    with pytest.raises(PathSetError, match="no probabilities are asked for"):
        measured(engine, [], METRICS)


def test_a_scale_by_hand():
    scale = Scale(METRICS[0], whole=torch.tensor([0.9, 0.7]).double(), nothing=torch.tensor([0.1, -0.1]).double())
    half, more = torch.tensor([0.5, 0.3]).double(), torch.tensor([0.5, 0.7]).double()
    assert scale.normalized(half).value == pytest.approx(0.5)
    assert scale.normalized(half).low == pytest.approx(0.5)
    assert scale.normalized(more).value == pytest.approx((0.4 + 0.8) / 2 / 0.8)
    assert scale.each(more).tolist() == pytest.approx([0.5, 1.0])
    assert scale.of_means(torch.stack([half, more])).tolist() == pytest.approx([0.5, 0.75])
    assert scale.of_span(more - half).value == pytest.approx(0.25)
    assert scale.mean(more).value == pytest.approx(0.6)


def test_a_scale_has_the_corrupted_sentences_scored_by_the_clean_ones_years():
    engine = make_engine("torch", planted_model(), planted_sentences())
    scale = Scale.of(engine, METRICS[0])
    assert torch.equal(scale.whole, METRICS[0](engine.clean()))
    assert torch.equal(scale.nothing, METRICS[0](engine.corrupted()))
    assert scale.span.mean() > 0.5


def test_intervals_are_of_the_clusters_that_sentences_were_made_of():
    whole, nothing = torch.tensor([0.9, 0.7, 0.8, 0.4]).double(), torch.tensor([0.1, -0.1, 0.0, 0.3]).double()
    scores, clusters = torch.tensor([0.5, 0.3, 0.6, 0.1]).double(), [torch.tensor([0, 0, 1, 1])]
    scale = Scale(METRICS[0], whole, nothing, clusters)
    assert scale.normalized(scores) == share(scores - nothing, whole - nothing, clusters=clusters)
    assert scale.mean(scores) == mean(scores, clusters=clusters)
    assert scale.mean(scores) != mean(scores)


def test_without_a_span_there_is_no_number():
    clean = planted_sentences().clean
    engine = make_engine("torch", planted_model(), Sentences(clean, clean, torch.arange(100)))
    scale = Scale.of(engine, METRICS[0])
    assert scale.normalized(scale.whole).value != scale.normalized(scale.whole).value


def test_no_paths_are_all_or_nothing():
    assert (isolated(None), removed(None)) == (Request.corrupted(), Request.clean())
    assert (isolated(LATE), removed(LATE)) == (Request.isolate(LATE), Request.patch(LATE))


NAN = float("nan")


@pytest.mark.parametrize(
    ("low", "high", "nothing", "change", "no_change"),
    [
        (-0.1, 0.2, True, False, False),
        (0.0, 0.2, True, False, False),
        (0.1, 0.2, False, True, False),
        (-0.2, -0.1, False, True, False),
        (0.01, 0.02, False, True, False),
        (0.005, 0.02, False, False, False),  # more than nothing; whether it is a change is not clear
        (5e-5, 7e-5, False, False, True),
        (2e-7, 3e-7, True, False, True),
        (NAN, NAN, True, False, False),
    ],
)
def test_what_f_loses_is_nothing_a_change_or_too_little_to_be_one(low, high, nothing, change, no_change):
    lost = Estimate((low + high) / 2, low, high, 97)
    assert (is_nothing(lost), is_change(lost), is_no_change(lost)) == (nothing, change, no_change)


def test_the_wider_of_two_intervals_decides():
    lost = Estimate(0.05, 0.02, 0.08, 97, plain_low=0.005, plain_high=0.09)
    assert lost.ends == (0.005, 0.09)
    assert not is_change(lost)
    assert is_change(lost.without_plain())
    assert Estimate(0.05, 0.005, 0.09, 97, plain_low=0.02, plain_high=0.08).ends == (0.005, 0.09)


@pytest.mark.parametrize(
    ("n", "counts", "why"),
    [
        (1, (), "1 sentence; give two or more"),
        (1, (1, 1), "1 sentence; give two or more"),
        (2, (), ""),
        (100, (10, 10), ""),
        (100, (9, 10), "9 nouns; an interval needs 10, so give more sentences"),
        (97, (2, 3), "2 nouns and 3 YYs; an interval needs 10, so give more sentences"),
    ],
)
def test_few_sentences_or_few_of_what_they_are_made_of_are_no_interval_to_judge_by(n, counts, why):
    clusters = [torch.arange(n) % count for count in counts]
    assert too_few(n, clusters, ("nouns", "YYs")) == why
    scale = Scale(METRICS[0], torch.full((n,), 0.9).double(), torch.zeros(n).double(), clusters, ("nouns", "YYs"))
    for found in (scale.mean(scale.whole), scale.normalized(scale.whole), scale.share(scale.whole, scale.whole)):
        assert found.doubt == why
        assert magnitude(found).doubt == why


def test_kinds_without_a_name_are_clusters():
    assert too_few(20, [torch.arange(20) % 3]).startswith("3 clusters; ")


@pytest.mark.parametrize("nothing", [torch.tensor([0.5, 0.7]), torch.tensor([0.7, 0.5])], ids=["each", "the mean"])
def test_of_a_span_of_zero_nothing_is_a_number_and_nothing_is_judged(nothing):
    scale = Scale(METRICS[0], torch.tensor([0.5, 0.7]).double(), nothing.double())
    for found in (*scale.of_spans(torch.ones(2, 2)), scale.normalized(torch.zeros(2))):
        assert math.isnan(found.value)
        assert found.doubt == "nothing to judge: the span is zero"
    assert scale.of_means(torch.ones(3, 2)).isnan().all()
    assert scale.largest is None
    assert math.isnan(scale.share(scale.whole, torch.zeros(2)).value)


def test_a_span_that_may_be_zero_is_shown_and_not_judged():
    """Spans of 1, −1, 1 and −0.6: their mean is 0.1, and of three of four draws one or the other sign."""
    scale = Scale(METRICS[0], torch.tensor([1.0, -1.0, 1.0, -0.6]).double(), torch.zeros(4).double())
    found = scale.normalized(torch.full((4,), 0.05).double())
    assert found.value == pytest.approx(0.5)
    assert "the span may be zero" in found.doubt


def test_the_largest_that_f_can_be():
    """m(M) = 0.8 and m(∅) = 0.3 of a metric of at most 1: (1 − 0.3) / (0.8 − 0.3)."""
    ends = torch.full((2,), 0.8).double(), torch.full((2,), 0.3).double()
    assert Scale(METRICS[0], *ends, most=1).largest == pytest.approx(1.4)
    assert Scale(METRICS[0], *ends).largest is None
