"""Equivalence and independence, beside chances counted by hand and all orders of a few sentences."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations
from math import comb

import numpy as np
import pytest
import torch

from path_patching.circuits.validation.hypotheses import equivalence_p, hypotheses, independence_p
from path_patching.circuits.validation.measuring import Scale

N = 20
NOTHING = torch.linspace(-0.9, -0.5, N).double()  # ∅ scores by the sentence's own year
SCALE = Scale(lambda probs: probs[:, 0], torch.linspace(0.2, 0.9, N).double(), NOTHING)  # spans of 1.1 to 1.4
TWO_HUNDREDTHS = 0.02 * SCALE.span.mean()


def test_p_of_equivalence_is_the_chance_of_a_split_as_uneven():
    assert equivalence_p(3, 3) == pytest.approx(0.6**3 + 0.4**3)
    assert equivalence_p(1, 3) == pytest.approx(1), "1 to 2 is the most even split of three"
    expected = sum(comb(40, j) * Fraction(3, 5) ** j * Fraction(2, 5) ** (40 - j) for j in range(41) if abs(j - 20) > 7)
    assert equivalence_p(28, 40) == equivalence_p(12, 40) == pytest.approx(float(expected), rel=1e-9)
    assert equivalence_p(5000, 10_000) == 1


def hsic(one: np.ndarray, other: np.ndarray) -> float:
    """tr(K H L H) / (N − 1)², as it is written."""
    n = len(one)
    gaps = [np.abs(np.subtract.outer(each, each)) for each in (one, other)]
    k, l = (np.exp(-((gap / np.median(gap[gap > 0])) ** 2) / 2) for gap in gaps)  # noqa: E741
    h = np.eye(n) - np.full((n, n), 1 / n)
    return float(np.trace(k @ h @ l @ h) / (n - 1) ** 2)


@pytest.mark.parametrize("other", [[0.1, 0.9, 0.2, 0.4, 0.35, 0.5], [0, 0.5, 1, 1, 0.4, 0.1]])
def test_p_of_independence_is_the_share_of_all_orders_that_depend_as_much(other):
    one, other = np.array([0, 0.2, 0.35, 0.6, 0.7, 1.0]), np.array(other)
    of_orders = [hsic(one, other[[*order]]) for order in permutations(range(6))]
    exact = np.mean([each >= of_orders[0] - 1e-12 for each in of_orders])
    assert independence_p(torch.tensor(one), torch.tensor(other)) == pytest.approx(exact, abs=0.04)


@pytest.mark.parametrize(
    ("alone", "equivalent"),
    [
        (SCALE.whole - TWO_HUNDREDTHS / 4, True),  # a two-hundredth less on each is alike
        (SCALE.whole - TWO_HUNDREDTHS, False),
        (SCALE.whole + TWO_HUNDREDTHS * torch.tensor([1, -1]).repeat(N // 2), True),
    ],
)
def test_a_circuit_is_equivalent_if_it_is_as_often_higher_as_lower(alone, equivalent):
    verdict, _ = hypotheses(SCALE, alone, NOTHING, "")
    assert verdict.passed == equivalent


@pytest.mark.parametrize(
    ("left", "independent"),
    [
        (torch.zeros(N), True),  # what ∅ scores depends on the year, as what the model does
        (0.5 * SCALE.span, False),
        (0.2 * (SCALE.span - SCALE.span.mean()).abs(), False),  # with it, but along no line
        (torch.tensor([0.3, -0.3]).repeat(N // 2), True),  # something, which has nothing to do with it
    ],
)
def test_what_is_left_is_held_against_what_the_model_does(left, independent):
    _, verdict = hypotheses(SCALE, SCALE.whole, NOTHING + left, "")
    assert verdict.passed == independent
    some = int((left.abs() > TWO_HUNDREDTHS / 2).sum())
    assert verdict.remark == f"something is left on {some} of {N} sentences; complement measures how much"


def test_few_sentences_judge_nothing():
    few = Scale(SCALE.metric, SCALE.whole[:9], SCALE.nothing[:9])
    for verdict in hypotheses(few, few.nothing, few.whole, ""):
        assert (verdict.passed, verdict.why) == (None, "9 sentences")
