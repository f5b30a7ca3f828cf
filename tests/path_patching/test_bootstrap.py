from __future__ import annotations

import json
import math

import pytest
import torch

from path_patching import bootstrap
from path_patching.bootstrap import mean, resampled_means, share


def normal(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_resampled_means_equal_an_obvious_loop():
    values = torch.stack([normal(7), normal(7, seed=1)])
    drawn = torch.randint(7, (5, 7), generator=torch.Generator().manual_seed(3)).tolist()
    expected = [[sum(float(row[i]) for i in sentences) / 7 for row in values] for sentences in drawn]
    found = resampled_means(values, seed=3, resamples=5)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    values = 3 + 2 * normal(4000)
    estimate = mean(values)
    assert estimate.value == pytest.approx(values.mean().item(), abs=1e-12)
    half = 1.96 * values.std().item() / 4000**0.5
    assert estimate.high - estimate.value == pytest.approx(half, rel=0.1)
    assert estimate.value - estimate.low == pytest.approx(half, rel=0.1)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    truth = 5 + normal(400_000, seed=1000).exp().clamp(max=3).mean().item()
    held = 0
    for seed in range(300):
        estimate = mean(5 + normal(60, seed).exp().clamp(max=3), resamples=400)
        held += estimate.low <= truth <= estimate.high
    assert 0.90 <= held / 300 <= 0.98


def test_a_share_is_taken_of_the_same_sentences():
    whole = 2 + normal(200)
    exact = share(0.9 * whole, whole)
    assert (exact.value, exact.low, exact.high) == pytest.approx((0.9, 0.9, 0.9))
    part = 0.9 * whole + 0.01 * normal(200, seed=1)
    paired = share(part, whole)
    assert paired.value == pytest.approx((part.mean() / whole.mean()).item())
    assert 0 < paired.high - paired.low < 0.01 < mean(part).high - mean(part).low


def test_one_seed_gives_one_interval_and_another_another():
    values = normal(50)
    assert mean(values, seed=1) == mean(values, seed=1)
    assert mean(values, seed=1) != mean(values, seed=2)
    assert mean(values, seed=1).value == mean(values, seed=2).value


def test_many_sentences_are_drawn_in_parts(monkeypatch):
    values = normal(40)[None]
    monkeypatch.setattr(bootstrap, "DRAWN_AT_ONCE", 70)
    parts = resampled_means(values, resamples=501)
    assert parts.shape == (501, 1)
    assert parts.std().item() == pytest.approx(values.std().item() / 40**0.5, rel=0.15)
    assert len(parts.unique()) > 495


def test_one_sentence_has_an_interval_of_no_width():
    estimate = mean(torch.tensor([0.25]))
    assert (estimate.value, estimate.low, estimate.high) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0.5, 0.25, 0.75), "0.5000 [0.2500, 0.7500]"),
        ((-0.00123, -0.002, 0.00001), "-0.0012 [-0.0020, 0.0000]"),
        ((-0.00001, -0.03, 0.03), "0.0000 [-0.0300, 0.0300]"),
        ((-3.21e-7, -4.1e-7, -2.3e-7), "-3.2e-07 [-4.1e-07, -2.3e-07]"),
        ((9.4e-4, -0.0, 9.9e-4), "9.4e-04 [0.0e+00, 9.9e-04]"),
        ((-0.0, -0.0, 0.0), "0.0000 [0.0000, 0.0000]"),
        ((math.nan, math.nan, math.nan), "nan [nan, nan]"),
    ],
)
def test_an_estimate_shows_small_numbers_and_no_minus_zero(numbers, text):
    assert str(bootstrap.Estimate(*numbers, 97)) == text


def test_an_estimate_is_json():
    estimate = bootstrap.Estimate(0.5, 0.25, 0.75, 97)
    assert json.loads(json.dumps(estimate.as_json())) == {"value": 0.5, "low": 0.25, "high": 0.75, "n": 97}


@pytest.mark.parametrize("shape", [(3,), (2, 0), (0, 2), (2, 2, 2)])
def test_values_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"\(quantities, N\)"):
        resampled_means(torch.zeros(shape))
