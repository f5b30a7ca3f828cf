from __future__ import annotations

import math

import pytest
import torch

from dataset import COLLATED_YY
from path_patching.errors import UserError
from path_patching.unembedding import answer_probabilities
from utils import Collated, collate, cutoff_sharpness, has_every_yy, log_odds, prob_diff


def random_probs(n: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(torch.randn(n, 100, generator=generator, dtype=torch.float64), 1)


def slow_difference(probs: list[float], yy: int, less: bool) -> float:
    total = 0.0
    for year, probability in enumerate(probs):
        valid = year < yy if less else year > yy
        total += probability if valid else -probability
    return total


@pytest.mark.parametrize("valid", ["greater", "less"])
def test_probability_difference_equals_an_obvious_loop(valid):
    probs, start_yy = random_probs(98), torch.arange(1, 99)
    expected = [slow_difference(probs[i].tolist(), int(start_yy[i]), valid == "less") for i in range(98)]
    torch.testing.assert_close(
        prob_diff(probs, start_yy, valid), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12
    )


def test_hand_computed_numbers():
    probs = torch.zeros(2, 100, dtype=torch.float64)
    probs[:, 31], probs[:, 32], probs[:, 33], probs[:, 99] = 0.1, 0.2, 0.3, 0.25  # the other 0.15 is not on years
    start_yy = torch.tensor([32, 50])
    greater = [0.3 + 0.25 - 0.1 - 0.2, 0.25 - 0.6]
    less = [0.1 - 0.2 - 0.3 - 0.25, 0.6 - 0.25]
    assert prob_diff(probs, start_yy).tolist() == pytest.approx(greater)
    assert prob_diff(probs, start_yy, "less").tolist() == pytest.approx(less)
    assert cutoff_sharpness(probs, start_yy).tolist() == pytest.approx([0.2, 0.0])
    assert cutoff_sharpness(probs, start_yy, "less").tolist() == pytest.approx([-0.2, 0.0])


def test_cutoff_sharpness_equals_an_obvious_loop():
    probs, start_yy = random_probs(98), torch.arange(1, 99)
    expected = [float(probs[i, yy + 1] - probs[i, yy - 1]) for i, yy in enumerate(start_yy.tolist())]
    assert cutoff_sharpness(probs, start_yy).tolist() == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("yy", [0, 99])
def test_cutoff_sharpness_refuses_a_year_without_neighbours(yy):
    with pytest.raises(ValueError, match=r"01 \.\.\. 98"):
        cutoff_sharpness(random_probs(1), torch.tensor([yy]))


@pytest.mark.parametrize("metric", [prob_diff, cutoff_sharpness])
def test_shapes_are_checked(metric):
    with pytest.raises(ValueError, match=r"\(N, 100\)"):
        metric(random_probs(3), torch.tensor([4, 5]))
    with pytest.raises(ValueError, match=r"\(N, 100\)"):
        metric(random_probs(3)[:, :99], torch.tensor([4, 5, 6]))


@pytest.mark.parametrize("metric", [prob_diff, cutoff_sharpness])
@pytest.mark.parametrize("given", [{"start_yy": torch.tensor([1732])}, {"valid": "Less"}, {"valid": None}])
def test_what_would_turn_a_metric_around_is_one_line(metric, given):
    """With whole years for YYs no end year is valid, and any other word than "greater" was taken for "less"."""
    with pytest.raises(UserError, match=r"give years_YY, not 1732|valid years are greater or less, not"):
        metric(random_probs(1), **({"start_yy": torch.tensor([32])} | given))


def test_the_dtype_given_is_the_dtype_returned():
    probs, start_yy = random_probs(97), torch.arange(2, 99)
    for dtype in (torch.float32, torch.float64):
        for metric in (prob_diff, cutoff_sharpness, collate):
            assert metric(probs.to(dtype), start_yy).dtype == dtype


@pytest.mark.parametrize("shape", [(), (100,), (3, 4)])
def test_collate_equals_an_obvious_loop(shape):
    generator = torch.Generator().manual_seed(1)
    start_yy = torch.cat([torch.arange(2, 99), torch.randint(2, 99, (200,), generator=generator)])
    values = torch.randn(297, *shape, generator=generator, dtype=torch.float64)
    collated = collate(values, start_yy)
    assert collated.shape == (97, *shape)
    for row, yy in enumerate(COLLATED_YY):
        members = [values[i] for i in range(297) if start_yy[i] == yy]
        torch.testing.assert_close(collated[row], sum(members) / len(members), rtol=0, atol=1e-12)


def test_collate_leaves_other_years_out():
    start_yy = torch.cat([torch.arange(2, 99), torch.tensor([1, 99])])
    values = torch.cat([torch.arange(2.0, 99.0), torch.tensor([1e6, 1e6])])
    assert collate(values, start_yy).tolist() == list(range(2, 99))


def test_collate_names_the_year_without_a_sentence():
    start_yy = torch.cat([torch.arange(2, 57), torch.arange(58, 99)])
    with pytest.raises(UserError, match="YY = 57"):
        collate(torch.zeros(96), start_yy)
    with pytest.raises(ValueError, match="one YY for each sentence"):
        collate(torch.zeros(96), start_yy[:-1])


def test_what_is_collated_in_parts_is_collated():
    values, start_yy = torch.rand(300, 4, dtype=torch.float64), torch.arange(300) % 97 + 2
    collated = Collated()
    for rows in torch.randperm(300).split(70):
        collated.add(values[rows], start_yy[rows])
    torch.testing.assert_close(collated.means(), collate(values, start_yy))
    with pytest.raises(UserError, match="no sentence has YY = 02"):
        Collated().means()


@pytest.mark.parametrize(("n", "said"), [(97, ""), (96, "of 96 sentences none has YY = 98")])
def test_one_line_says_that_a_yy_has_no_sentence(n, said, capsys):
    assert has_every_yy(torch.arange(n) + 2) == (not said)
    assert said in capsys.readouterr().out


def test_year_probabilities_are_of_the_whole_vocabulary():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(3, 500, generator=generator) * 4
    year_ids = torch.randperm(500, generator=generator)[:100]
    probs = answer_probabilities(logits, year_ids)
    assert probs.dtype == torch.float64
    torch.testing.assert_close(probs, torch.softmax(logits.double(), 1)[:, year_ids], rtol=0, atol=1e-15)
    assert (probs.sum(1) < 1).all()


def test_log_odds_are_of_the_later_years_against_all_else():
    """Of YY = 60 the years 61 … 99 have 39 · 0.02 = 0.78, and 0.22 lies on others: ln(0.78 / 0.22)."""
    probs = torch.zeros(2, 100, dtype=torch.float64)
    probs[:, 61:], probs[:, 10] = 0.02, 0.1  # 0.12 is left for other tokens
    expected = [math.log(0.78 / 0.22), math.log(0.02 / 0.98)]
    assert log_odds(probs, torch.tensor([60, 98])).tolist() == pytest.approx(expected)
    certain = torch.zeros(1, 100, dtype=torch.float64)
    certain[0, 99] = 1
    assert log_odds(certain, torch.tensor([50])).isfinite().all()
