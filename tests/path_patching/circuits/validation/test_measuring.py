"""Requests are evaluated once and in chunks; F has its zero at ∅, its one at the whole model."""

from __future__ import annotations

import pytest
import torch

from path_patching.bootstrap import mean, share
from path_patching.circuits.validation.measuring import Scale, isolated, measured, removed
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
    with pytest.raises(UserError, match="no metric is asked for"):
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
