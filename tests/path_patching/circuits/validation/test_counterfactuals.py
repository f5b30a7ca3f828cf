"""Rank correlations by hand; a planted circuit holds for every counterfactual of the year and for no control."""

from __future__ import annotations

import math

import pytest
import torch

from path_patching.circuits.circuit import late_half
from path_patching.circuits.papers_shape import in_papers_shape, varied
from path_patching.circuits.validation.counterfactuals import Scheme, compare, ranks, spearman
from path_patching.circuits.validation.measuring import Scale
from path_patching.engine import Engine, Sentences
from path_patching.errors import UserError
from tests.helpers.engines import each_engine, make_engine
from tests.helpers.planted import END, NOUN, THE, YEARS, YY, planted_model, planted_sentences
from utils import greater_than

PLANTED = in_papers_shape("planted", ("m2",), ("a1.h1",), ("m2",), ("m0",), (), followed=("v",), whole=())
SWAPPED = varied(PLANTED, heads=("a0.h1",), first_below=("embeds",))


def test_ranks_by_hand():
    assert ranks(torch.tensor([20.0, 10.0, 30.0, 20.0])).tolist() == [2.5, 1, 4, 2.5]
    assert ranks(torch.tensor([7.0, 7.0, 7.0])).tolist() == [2, 2, 2]


def test_rank_correlation_by_hand():
    rising, other = torch.tensor([1.0, 2, 3, 4, 5]), torch.tensor([5.0, 6, 7, 8, 7])
    # Ranks less their mean: −2 −1 0 1 2, and −2 −1 ½ 2 ½. Their product is 4 + 1 + 0 + 2 + 1, their squares 10 and 9½.
    assert spearman(rising, other) == pytest.approx(8 / math.sqrt(95))
    assert spearman(rising, rising.square()) == pytest.approx(1)
    assert spearman(rising, -rising) == pytest.approx(-1)
    assert spearman(rising, torch.zeros(5)) is None


def twins(engine: Engine, position: int, tokens: torch.Tensor | int) -> Engine:
    """The engine with other tokens at one position of the twins."""
    clean = engine.sentences.clean
    corrupted = clean.clone()
    corrupted[:, position] = tokens
    return engine.like(Sentences(clean, corrupted, engine.sentences.answers))


def schemes(engine: Engine) -> list[Scheme]:
    return [
        Scheme("01", engine),
        Scheme("another year", twins(engine, YY, torch.tensor([5, 10, 2, 7]))),
        Scheme("the next year", twins(engine, YY, YEARS + 1)),
        Scheme("another noun", twins(engine, 2, THE), control=True),
        Scheme("another year as if a control", twins(engine, YY, 2), control=True),
        Scheme("mean ablation", engine, "mean"),
        Scheme("zero ablation", engine, "zero"),
    ]


@each_engine
def test_the_planted_circuit_holds_for_other_years_and_no_control_moves_it(engine_name):
    engine = make_engine(engine_name, planted_model(), planted_sentences())
    assert (engine.sentences.clean[:, 2] == NOUN).all()
    scale, parts = Scale.of(engine, greater_than(YEARS)), {"late half": late_half(PLANTED, END)}
    found = {each.name: each for each in compare(schemes(engine), scale, PLANTED, parts, END)}
    assert len(found) == 7
    for name in ("01", "another year", "mean ablation"):
        each = found[name]
        assert each.faithfulness["late half"].value == pytest.approx(1, abs=1e-3)
        assert (each.leading, each.of) == (("m2",), 1)
        assert each.rank_correlation == pytest.approx(1)
        assert each.too_weak == (name == "mean ablation")  # the mean year is later than the sentences' own, too
        assert [verdict.passed for verdict in each.verdicts()] == [None if each.too_weak else True]
    assert found["01"].of_first.value == pytest.approx(1)
    assert found["01"].span.value == pytest.approx(scale.span.mean().item())
    assert found["zero ablation"].sweep[-1, -1] < -0.1  # m2 writes nothing
    [shown] = found["zero ablation"].verdicts()
    assert (shown.passed, "the same in all data" in shown.remark) == (None, True)

    weak = found["the next year"]
    assert weak.too_weak
    assert [(verdict.passed, "too small to judge" in verdict.remark) for verdict in weak.verdicts()] == [(None, True)]
    assert [verdict.passed for verdict in found["another noun"].verdicts()] == [True]
    assert found["another noun"].rank_correlation is None  # nothing acts
    assert [verdict.passed for verdict in found["another year as if a control"].verdicts()] == [False]


def test_a_swapped_circuit_fails_with_every_counterfactual_that_is_strong_enough():
    engine = make_engine("torch", planted_model(), planted_sentences())
    parts = {"late half": late_half(SWAPPED, END)}
    some = [each for each in schemes(engine) if not each.control]
    for each in compare(some, Scale.of(engine, greater_than(YEARS)), SWAPPED, parts, END):
        assert each.faithfulness["late half"].value == pytest.approx(0, abs=1e-3)
        only_shown = each.too_weak or not each.of_what_differs
        assert [verdict.passed for verdict in each.verdicts()] == [None if only_shown else False]


def test_other_sentences_are_one_line():
    engine = make_engine("torch", planted_model(), planted_sentences())
    fewer = Scheme("fewer", engine.like(engine.sentences.rows(slice(2))))
    scale = Scale.of(engine, greater_than(YEARS))
    with pytest.raises(UserError, match="fewer has other clean sentences than 01"):
        compare([Scheme("01", engine), fewer], scale, PLANTED, {}, END)
    with pytest.raises(UserError, match="no scheme"):
        compare([], scale, PLANTED, {}, END)


def test_of_a_metric_that_is_constant_nothing_is_judged():
    """Its span is 0, and so are all effects: equal ones have no rank correlation, and 0 / 0 is no share."""
    engine = make_engine("torch", planted_model(), planted_sentences())
    scale, parts = (
        Scale.of(engine, lambda probs: probs.new_full((len(probs),), 0.5)),
        {"late half": late_half(PLANTED, END)},
    )
    for each in compare(schemes(engine), scale, PLANTED, parts, END):
        assert each.rank_correlation is None
        assert {verdict.passed for verdict in each.verdicts()} == {None}
        assert all("the span is zero" in verdict.remark for verdict in each.verdicts())
