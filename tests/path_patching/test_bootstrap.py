from __future__ import annotations

import json
import math

import pytest
import torch

from path_patching import bootstrap
from path_patching.bootstrap import estimate, mean, resampled_means, sentence_weights, share
from path_patching.errors import UserError


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


def shares_of(means: torch.Tensor) -> dict[float, float]:
    """How often each value occurs."""
    values, counts = means.unique(return_counts=True)
    return dict(zip(values.tolist(), (counts / len(means)).tolist(), strict=True))


TWO_BY_TWO = [torch.tensor([7, 7, 3, 3]), torch.tensor([20, 40, 20, 40])]


def test_two_nouns_and_two_yys_have_the_distribution_worked_out_by_hand():
    """A noun is drawn twice, or each once, with ¼, ½ and ¼, and so are the YYs: nine products.

    Sentences with 0, 1, 4 and 16: both nouns and both YYs give 21/4, one of each its own sentence, and so on.
    """
    drawn = shares_of(resampled_means(torch.tensor([[0.0, 1, 4, 16]]), clusters=TWO_BY_TWO, resamples=40_000)[:, 0])
    corners, edges = [0.0, 1.0, 4.0, 16.0], [0.5, 10.0, 2.0, 8.5]
    expected = dict.fromkeys(corners, 1 / 16) | dict.fromkeys(edges, 1 / 8) | {5.25: 1 / 4}
    assert drawn == pytest.approx(expected, abs=0.01)


def test_a_draw_without_a_sentence_is_drawn_again():
    """Two sentences that share nothing: one draw in eight has neither, which leaves 5, 4 and 5 of 14."""
    values, clusters = torch.tensor([[0.0, 1.0]]), [torch.tensor([0, 1]), torch.tensor([5, 9])]
    drawn = resampled_means(values, clusters=clusters, resamples=40_000)
    assert drawn.shape == (40_000, 1)
    assert shares_of(drawn[:, 0]) == pytest.approx({0.0: 5 / 14, 0.5: 4 / 14, 1.0: 5 / 14}, abs=0.01)


def test_sentences_of_one_noun_and_yy_count_as_many():
    """Three sentences, one of the noun that has the other two: 2, 1 and 0 times the noun of two sentences."""
    values = torch.tensor([[3.0, 5.0, 10.0]])
    drawn = resampled_means(values, clusters=[torch.tensor([1, 1, 2])], resamples=40_000)
    assert shares_of(drawn[:, 0]) == pytest.approx({4.0: 1 / 4, 6.0: 1 / 2, 10.0: 1 / 4}, abs=0.01)


def crossed(nouns: int, yys: int) -> list[torch.Tensor]:
    """The clusters of every noun with every YY."""
    pairs = torch.cartesian_prod(torch.arange(nouns), torch.arange(yys))
    return [*pairs.T]


@pytest.mark.parametrize("at_once", [700, 20])  # few draws at a time, and fewer than a table of all cells holds
@pytest.mark.parametrize("ways", [1, 2, 3])
def test_resampled_means_are_those_of_the_sentences_by_their_weights(monkeypatch, ways, at_once):
    values = torch.stack([normal(60), normal(60, seed=1)])
    clusters = [torch.arange(60) % 7, torch.arange(60) // 9, torch.arange(60) % 4][:ways]
    monkeypatch.setattr(bootstrap, "DRAWN_AT_ONCE", at_once)
    weights = sentence_weights(60, 3, clusters, 101)
    assert weights.shape == (101, 60)
    expected = weights @ values.T / weights.sum(1, keepdim=True)
    torch.testing.assert_close(resampled_means(values, 3, clusters, 101), expected, rtol=0, atol=1e-12)
    assert torch.equal(weights, weights.round())
    assert (sentence_weights(60, 3, (), 101).sum(1) == 60).all()


def test_the_variance_is_that_of_the_nouns_where_they_decide():
    """The mean of 12 nouns of variance 1 moves by 1/12, whatever the number of sentences that each is in."""
    clusters, found, truth = crossed(12, 30), [], []
    for seed in range(200):
        values = normal(12, seed)[clusters[0]] + 0.1 * normal(360, seed + 1000)
        truth.append(values.mean().item())
        found.append(resampled_means(values[None], seed, clusters, 200).var().item())
    assert torch.tensor(truth).var().item() == pytest.approx(1 / 12, rel=0.25)
    assert sum(found) / 200 == pytest.approx(11 / 12 / 12, rel=0.1)  # of a sample of 12, as any bootstrap


def test_intervals_hold_the_truth_where_nouns_and_yys_decide_and_the_plain_do_not():
    clusters, held, held_plain = crossed(20, 30), 0, 0
    for seed in range(200):
        of_noun, of_yy = normal(20, seed)[clusters[0]], normal(30, seed + 1000)[clusters[1]]
        found = mean(of_noun + of_yy + normal(600, seed + 2000), 0, clusters, resamples=300)
        held += found.low <= 0 <= found.high
        held_plain += found.plain_low <= 0 <= found.plain_high
    assert 0.88 <= held / 200 <= 0.99
    assert held_plain / 200 < 0.6


def test_what_is_a_sentences_own_alone_counts_three_times():
    values, clusters = normal(1200), crossed(30, 40)
    plain = resampled_means(values[None]).var()
    assert (resampled_means(values[None], 0, clusters).var() / plain).item() == pytest.approx(3, rel=0.25)


def test_the_plain_interval_stands_beside_where_the_widths_differ_by_more_than_a_tenth():
    clusters = crossed(20, 30)
    of_noun = mean(normal(20)[clusters[0]], 0, clusters)
    plain = mean(normal(20)[clusters[0]])
    assert (of_noun.plain_low, of_noun.plain_high) == (plain.low, plain.high)
    assert of_noun.high - of_noun.low > 3 * (plain.high - plain.low)
    own = mean(normal(600), 0, [torch.arange(600).flip(0)])  # each sentence by itself, whatever its number
    assert (own.plain_low, own.plain_high) == (None, None)
    assert own.low == pytest.approx(mean(normal(600)).low, abs=0.01)
    assert own.without_plain() == own


def test_a_constant_has_an_interval_of_no_width_with_clusters_too():
    found = mean(torch.full((4,), 0.25), 0, TWO_BY_TWO)
    assert found == bootstrap.Estimate(0.25, 0.25, 0.25, 4)
    values = normal(600)
    exact = share(0.7 * values, values, 0, crossed(20, 30))
    assert (exact.low, exact.high, exact.plain_low) == (pytest.approx(0.7), pytest.approx(0.7), None)


def test_a_number_made_of_means_is_that_of_the_same_draws():
    values, clusters = torch.stack([normal(600), 3 + normal(600, seed=1)]), crossed(20, 30)
    found = estimate(lambda means: (means[..., 0] - means[..., 1]).abs(), values, 2, clusters)
    opposite = mean(values[1] - values[0], 2, clusters)
    assert (found.value, found.low, found.high) == pytest.approx((opposite.value, opposite.low, opposite.high))


def test_the_time_of_a_draw_is_that_of_the_cells_and_not_of_the_sentences():
    """A million sentences of 6 cells: by sentences, these draws would need 100 GB."""
    n = 1_000_000
    clusters = [torch.arange(n) % 2, torch.arange(n) % 3]
    found = resampled_means(torch.arange(n)[None] % 6, 0, clusters, 12_500)
    assert found.min() >= 0
    assert found.max() <= 5
    assert found.mean().item() == pytest.approx(2.5, abs=0.05)


@pytest.mark.parametrize("shape", [(3,), (5,), (4, 1), ()])
def test_clusters_of_another_number_of_sentences_are_refused(shape):
    with pytest.raises(ValueError, match=r"a number for each of 4 sentences, \(4,\), got"):
        mean(normal(4), 0, [torch.zeros(4), torch.zeros(shape)])


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


def test_an_estimate_shows_the_plain_interval_beside_its_own():
    shown = str(bootstrap.Estimate(0.817, 0.8021, 0.8313, 97, 0.81, 0.824))
    assert shown == "0.8170 [0.8021, 0.8313], plain [0.8100, 0.8240]"
    assert str(bootstrap.Estimate(0.0, -2e-4, 1e-4, 97, -1e-5, -0.0)) == (
        "0.0e+00 [-2.0e-04, 1.0e-04], plain [-1.0e-05, 0.0e+00]"
    )


def test_an_estimate_is_json():
    estimate = bootstrap.Estimate(0.5, 0.25, 0.75, 97)
    numbers = {"value": 0.5, "low": 0.25, "high": 0.75, "n": 97}
    assert json.loads(json.dumps(estimate.as_json())) == numbers
    both = bootstrap.Estimate(**numbers, plain_low=0.3, plain_high=0.7)
    assert json.loads(json.dumps(both.as_json())) == numbers | {"plain_low": 0.3, "plain_high": 0.7}
    assert both.without_plain() == estimate


@pytest.mark.parametrize("shape", [(3,), (2, 0), (0, 2), (2, 2, 2)])
def test_values_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"\(quantities, N\)"):
        resampled_means(torch.zeros(shape))


@pytest.mark.parametrize(
    ("ask", "complaint"),
    [
        (lambda: mean(torch.ones(3), resamples=0), "0 draws: give a whole number"),
        (lambda: mean(torch.ones(3), resamples=2.5), "2.5 draws"),
        (lambda: mean(torch.ones(3), resamples=True), "True draws"),
        (lambda: mean(torch.ones(3), resamples="9"), "'9' draws"),
        (lambda: mean(torch.ones(3), seed="1"), "a seed of '1': give a whole number"),
        (lambda: mean(torch.ones(3), seed=0.5), "a seed of 0.5"),
        (lambda: mean(torch.ones(3), seed=2**70), "a seed of 1180591620717411303424"),
        (lambda: mean(torch.ones(3), clusters=torch.arange(3)), "give a list of them, each with a number"),
        (lambda: mean(torch.ones(3), clusters=[["war", "war", "plot"]]), "give a list of them, each with a number"),
        (lambda: share(torch.ones(3), torch.ones(4)), r"parts \(Q, N\) need a whole \(N,\), got \(1, 3\) and \(4,\)"),
        (lambda: share(torch.ones(3, 1), torch.ones(3, 1)), r"need a whole \(N,\)"),
        (lambda: mean(torch.ones(3), clusters=[[0, 1]]), r"clusters need a number for each of 3 sentences"),
        (lambda: mean(torch.ones(0)), "at least one sentence"),
    ],
)
def test_what_nothing_can_be_drawn_from_is_one_line(ask, complaint):
    with pytest.raises(UserError, match=complaint) as error:
        ask()
    assert isinstance(error.value, ValueError)


def test_clusters_may_be_lists():
    values, numbers = torch.arange(6.0), [0, 0, 1, 1, 2, 2]
    assert mean(values, clusters=[numbers]) == mean(values, clusters=[torch.tensor(numbers)])
