"""Effects over draws of the sentences are those of the sentences drawn, without another evaluation."""

from __future__ import annotations

import pytest
import torch

from path_patching.errors import UserError
from path_patching.paths import Node, PathSet
from path_patching.sweeps import by_size, effects_on, remembered_effects, strongest
from tests.helpers.engines import each_engine, make_engine
from tests.helpers.planted import CHAIN, END, YEARS, planted_model, planted_sentences
from tests.helpers.setups import SETUPS
from utils import greater_than

LOGITS = PathSet.at(Node.logits(END))
ROWS = torch.tensor([0, 0, 2, 3, 3, 3])  # a draw of the four sentences
COUNTS = ROWS.bincount(minlength=4)


@each_engine
def test_a_draw_has_the_effects_of_the_sentences_drawn(engine_name):
    engine = make_engine(engine_name, planted_model(), planted_sentences())
    drawn = engine.like(engine.sentences.rows(ROWS))
    weighted = remembered_effects(engine, greater_than(YEARS)).weighted(COUNTS)
    expected = remembered_effects(drawn, greater_than(YEARS[ROWS]))
    paths = LOGITS.through(*CHAIN[:2])
    assert weighted.clean == pytest.approx(expected.clean, abs=1e-6)
    assert weighted.of(paths) == pytest.approx(expected.of(paths), abs=1e-6)
    assert weighted.alone(paths) == pytest.approx(expected.alone(paths), abs=1e-6)
    table = effects_on(drawn, LOGITS, greater_than(YEARS[ROWS]), END)
    torch.testing.assert_close(weighted(LOGITS, END), table, atol=1e-6, rtol=0)


def test_draws_share_what_was_evaluated(monkeypatch):
    engine = make_engine("torch", planted_model(), planted_sentences())
    effects, paths = remembered_effects(engine, greater_than(YEARS)), LOGITS.through(CHAIN[0])
    effects(LOGITS, END), effects.of(paths), effects.alone(paths)
    for name in ("sweep", "evaluate"):
        monkeypatch.setattr(engine, name, None)
    drawn = effects.weighted(COUNTS)
    assert drawn.of(paths) != effects.of(paths)
    assert drawn.alone(paths) != effects.alone(paths)
    assert not torch.equal(drawn(LOGITS, END), effects(LOGITS, END))


def test_the_sweeps_of_a_heads_inputs_are_remembered_one_by_one():
    setup = SETUPS["with eos"]()
    engine = make_engine("torch", setup.model, setup.sentences)
    receivers = PathSet.parse("a2.h0 → logits", end=setup.end)

    def metric(probabilities: torch.Tensor) -> torch.Tensor:
        return probabilities[:, 0]

    effects = remembered_effects(engine, metric)
    asked = [("q", setup.end), ("k", setup.end - 1), ("v", setup.end - 1), ("k", setup.end)]
    tables = [effects(receivers, position, via) for via, position in asked]
    assert all(table.any() for table in tables)
    for table, (via, position) in zip(tables, asked, strict=True):
        torch.testing.assert_close(table, effects_on(engine, receivers, metric, position, via))


@pytest.mark.parametrize("weights", [[1, 1, 1], [1, 1, 1, -1], [0, 0, 0, 0], [1, 1, 1, float("nan")]], ids=str)
def test_weights_that_are_no_draw_are_one_line(weights):
    effects = remembered_effects(make_engine("torch", planted_model(), planted_sentences()), greater_than(YEARS))
    with pytest.raises(UserError, match="a draw of 4 sentences has one weight for each"):
        effects.weighted(torch.tensor(weights))


def test_effects_that_differ_by_rounding_are_in_the_order_of_layers():
    """0.3 leads, then 3e-7. −2e-8, 5e-8 and 9e-8 are one tie: each differs from the next by less than 1e-7."""
    assert by_size([-2e-8, 0.3, 5e-8, 3e-7, 9e-8]) == [1, 3, 0, 2, 4]
    assert by_size([0.1, -0.2, 0.1 + 5e-8, 0.1 - 2e-7]) == [1, 0, 2, 3]
    table = torch.tensor([[0.0, 5e-8, 0.2], [-0.3, 0.0, 9e-8]]).double()  # (L, H + 1)
    assert [*strongest(table, 6)] == ["a1.h0", "m0", "a0.h0", "a0.h1", "a1.h1", "m1"]


@pytest.mark.parametrize(
    ("effects", "count", "complaint"),
    [
        (torch.ones(5), 2, r"a table \(L, H \+ 1\) of finite numbers, not \(5,\)"),
        (torch.full((2, 3), torch.nan), 2, "of finite numbers"),
        (torch.ones(2, 3), -1, "-1 nodes: give a whole number"),
        (torch.ones(2, 3), True, "True nodes"),
        (torch.ones(2, 3), "2", "'2' nodes"),
    ],
)
def test_the_strongest_of_no_table_are_one_line(effects, count, complaint):
    """All but the last were given for −1, and NaN stood first."""
    with pytest.raises(UserError, match=complaint):
        strongest(effects, count)
