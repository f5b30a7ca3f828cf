"""The pictures of the page on validation are those that their command makes, and show what is worked out by hand.

A model's answer is a bell around ANSWER, so all numbers follow from that. Where a share of u comes from the clean
sentence and the rest from its twin, ANSWER = share · u + (1 − share) · u' + 0.3.
"""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image

import planted_pictures
from path_patching.bootstrap import sentence_weights
from path_patching.files import ROOT
from tests.helpers.planted import SHARPNESS, SHIFT, SMALL_SHIFT

YEARS = np.arange(25, 61)
U, TWIN = (YEARS - 50) / 50, (1 - 50) / 50  # of 01


@cache
def figures() -> dict[str, go.Figure]:
    return planted_pictures.figures()


def metric(answer: np.ndarray | float) -> np.ndarray:
    """P(a year after YY) − P(another year) for each YY, of a bell around an answer: (36,)."""
    years = np.arange(100)
    bells = np.exp(-SHARPNESS / 2 * ((years - 50) / 50 - np.broadcast_to(answer, U.shape)[:, None]) ** 2)
    return (bells * np.where(years > YEARS[:, None], 1, -1)).sum(1) / bells.sum(1)


def moved(share: float, twin: np.ndarray | float = TWIN, shift: float = SMALL_SHIFT) -> np.ndarray:
    """The metric if a share of u is that of the clean sentence."""
    return metric(share * U + (1 - share) * twin + shift)


def normalized(share: float, twin: np.ndarray | float = TWIN) -> float:
    """F of such a share."""
    return (moved(share, twin) - moved(0, twin)).mean() / (moved(1) - moved(0, twin)).mean()


HALF, TWO_THIRDS = normalized(1 / 2), normalized(2 / 3)


def near(expected: object) -> object:
    return pytest.approx(np.array(expected), abs=1e-3)


def test_the_page_shows_every_picture_in_order_and_all_are_small():
    page = (ROOT / "docs" / "validation.md").read_text()
    assert re.findall(r"images/planted-([\w-]+)\.webp", page) == [*figures()]
    files = sorted((ROOT / "docs" / "images").glob("planted-*.webp"))
    assert {file.stem.removeprefix("planted-") for file in files} == {*figures()}
    assert {Image.open(file).width for file in files} == {planted_pictures.WIDTH}
    assert sum(file.stat().st_size for file in files) < 300_000


@pytest.mark.parametrize(
    ("name", "rows", "groups"),
    [
        # MLP chains: ¼ + ¼ + ½ of u; without m2, ¼ and the half of m3's that came past it
        ("faithfulness", 4, [[1, HALF, 1, 0], [0, HALF, 0, 1]]),
        # m0, two heads with the one too many between them, m3, m4: the heads stand in for each other, m4 adds half
        ("minimality", 6, [[1, 0, 0, 0, 1, 1 - HALF], [1, 1, 0, 1, HALF, 0]]),
        ("random-links", 8, [[1 - TWO_THIRDS, 0, 1 - TWO_THIRDS, 1 - TWO_THIRDS] * 2, [0] * 8]),
        # without nothing, the head, m0, m3, m4: the model has the other head, the circuit does not
        ("completeness", 5, [[0] * 5, [0, 1, 1, 1, 1 - HALF]]),
    ],
)
def test_estimates_are_those_by_hand(name, rows, groups):
    figure = figures()[name]
    assert [list(trace.x) for trace in figure.data] == [near(group) for group in groups]
    assert [list(trace.y) for trace in figure.data] == [[*range(rows)]] * 2


def test_bars_are_those_of_verdicts_and_within_the_plot():
    bars = {name: sorted({line.x0 for line in each.layout.shapes}) for name, each in figures().items()}
    bars = {name: lines for name, lines in bars.items() if lines}
    assert bars == {
        "faithfulness": [-0.2, 0.2, 0.8, 1.2],
        "minimality": [-0.01, 0.01],
        "completeness": [-0.3, 0.3],
        "counterfactuals": [0.7, 1.3],
    }
    for name, (least, *_, most) in bars.items():
        low, high = figures()[name].layout.xaxis.range
        assert low < least < most < high


def test_scores_by_year_are_those_by_hand():
    right, wrong = (trace.y for trace in figures()["equivalence"].data)
    assert (right, wrong) == (near(0 * U), near(moved(2 / 3) - moved(1)))
    model, right, wrong = (trace.y for trace in figures()["independence"].data)
    assert (model, right, wrong) == (near(moved(1) - moved(0)), near(0 * U), near(moved(1 / 3) - moved(0)))
    assert all(list(trace.x) == [*YEARS] for name in ("equivalence", "independence") for trace in figures()[name].data)


def test_no_random_circuit_does_what_the_planted_one_does():
    drawn, *marks = figures()["random"].data
    assert (sum(drawn.y), drawn.y[list(drawn.x).index(0)]) == (100, 99)
    assert [trace.x[0] / 100 for trace in marks] == near([1, 0, HALF])  # one has a0.h1, m1, and m2 or m3
    assert [trace.name for trace in marks] == ["as planted, 100 %", "one swapped, 0 %", "the bar, p at most 0.01, 28 %"]


def test_counterfactuals_are_those_by_hand():
    """Means put the mean of u in the place of a twin's; zeros also take away what all sentences share, 0.3."""
    twins = TWIN, U - 0.4, U.mean()
    right, wrong = (list(trace.x) for trace in figures()["counterfactuals"].data)
    assert right[:3] == near([1, 1, 1])
    assert wrong[:3] == near([normalized(2 / 3, twin) for twin in twins])
    nothing = metric(0.0)
    zeros = [(metric(share * U) - nothing).mean() / (moved(1) - nothing).mean() for share in (1, 2 / 3)]
    assert [right[3], wrong[3]] == near(zeros)
    assert max(zeros) < 0


def test_two_nodes_of_a_chain_do_all_or_nothing():
    strongest, random, bar, right, wrong = figures()["sizes"].data
    assert (strongest.y, bar.y) == (near([0, 0, *[1] * 8]), near([-0.1, -0.1, *[0.9] * 8]))
    assert list(strongest.x) == [*range(10)]
    assert (random.y[0], random.y[-1]) == near((0, 1))
    assert [(*each.x, *each.y) for each in (right, wrong)] == [near((2, 1)), near((2, 0))]
    assert right.marker.symbol != wrong.marker.symbol


def test_searches_find_the_heads_whose_effects_are_over_the_threshold():
    """Three heads of a third, one of a half, one against it. The effect of a third is about 93 % of the metric."""
    drawn = sentence_weights(len(YEARS), resamples=20).numpy()
    often = (drawn @ (moved(1) - moved(2 / 3)) > 0.93 * drawn @ moved(1)).mean()
    assert 0.5 < often < 1
    figure = figures()["stability"]
    (heatmap,) = figure.data
    assert list(figure.layout.xaxis.ticktext) == ["a1.h1@END", "a1.h4@END", "a2.h0@END", "a2.h5@END", "a3.h7@END"]
    assert heatmap.z.tolist() == [near(row) for row in ([1] * 5, [*[often] * 3, 1, 0], [1] * 5, [1, 1, 1, 0, 0])]
    pairs, found = 20 * 19 / 2, round(20 * often)
    unlike = found * (20 - found) / pairs  # of two searches, one has four heads, the other a2.h5 alone
    alike = f"searches at 93 %: {1 - unlike * 3 / 4:.2f}"
    assert list(figure.layout.yaxis.ticktext) == [
        "searches at 2 %: 1.00", alike, "as planted: 1.00", "two nodes too few: 0.60"
    ]  # fmt: skip


def test_a_stronger_patch_moves_u_to_that_of_01():
    straight, turning = figures()["strength"].data
    strengths = np.linspace(0, 1.5, 13)
    assert list(straight.x) == list(turning.x) == [*strengths]
    assert straight.y == near([moved(1 - strength).mean() for strength in strengths])
    inputs = [(1 - strength) * U + strength * TWIN for strength in strengths]
    turned = np.array([metric(np.maximum(2 * u + 0.5, -2 * u - 1.5)).mean() for u in inputs])
    assert turning.y == pytest.approx(turned, abs=5e-3)  # |z| is gelu(z) + gelu(−z), but where z is small
    down = (np.diff(turned[:9]) > 0).mean()  # its effect is up
    assert [straight.name, turning.name] == ["heads alone: 1.00", f"a turn: {down:.2f}"]


def test_each_ability_is_lost_with_the_circuits_that_have_its_head():
    apart, shared = (trace.z for trace in figures()["specificity"].data)
    assert apart == pytest.approx(np.array([[100, 0], [0, 100]]), abs=0.1)
    assert shared == pytest.approx(np.array([[100, 0], [100, 100]]), abs=0.1)


def test_effects_of_a_chain_are_less_together_those_of_a_backup_more():
    chain, backup = ((moved(0, shift=shift) - moved(1, shift=shift)).mean() for shift in (SHIFT, SMALL_SHIFT))
    third, two_thirds = ((moved(1 - share) - moved(1)).mean() for share in (1 / 3, 2 / 3))
    alone, together = (trace.x for trace in figures()["interactions"].data)
    assert alone == near([2 * chain, 0, 2 * third])
    assert together == near([chain, backup, two_thirds])
