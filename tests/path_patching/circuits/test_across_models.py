"""Models into which circuits were planted, side by side: every column can be worked out by hand."""

from __future__ import annotations

import csv
from dataclasses import replace
from functools import partial

import pytest
import torch

from path_patching.bootstrap import Estimate, mean
from path_patching.circuits.across_models import WIDTH, Asked, OfModel, as_csv, as_rows, of_model, table
from path_patching.errors import UserError
from path_patching.gpt2.model import Model
from path_patching.torch_engine.engine import TorchEngine
from tests.helpers.planted import (
    ANSWER,
    AT_END,
    END,
    MANY_HEADS,
    MOVED,
    PREPARED,
    SHARPNESS,
    SHIFT,
    SIZES,
    SMALL_SHIFT,
    YEAR,
    YEARS,
    YY,
    blank,
    constant_head,
    copying_mlp,
    moving_head,
    planted_heads,
    planted_model,
    planted_sentences,
    scaled,
)
from utils import cutoff_sharpness, greater_than

DIFFERENCE, SHARPNESS_NAME = "probability difference", "cutoff sharpness"
METRICS = {DIFFERENCE: greater_than(YEARS), SHARPNESS_NAME: partial(cutoff_sharpness, start_yy=YEARS)}
ROUNDING = 1e-4  # LayerNorm divides by a few millionths too much or too little


def asked(model: Model) -> Asked:
    return Asked(TorchEngine(model, planted_sentences()), METRICS, YY, END)


def late_chain() -> Model:
    """m1 at YY, a2.h1 and m2 at END: a chain like that of `planted_model`, a layer later."""
    tensors = blank(SIZES)
    copying_mlp(tensors, "m1", YEAR, PREPARED)
    moving_head(tensors, "a2", 1, PREPARED, MOVED, to=AT_END)
    copying_mlp(tensors, "m2", MOVED, ANSWER)
    constant_head(tensors, "a0", 0, SHIFT, MOVED)
    return Model("late", SIZES, tensors, "late")


def by_all_heads() -> Model:
    """44 of 50 nodes each add a part of u to ANSWER: the search keeps too many to be a circuit."""
    tensors = blank(MANY_HEADS)
    for layer in range(MANY_HEADS.n_layers):
        for head in range(MANY_HEADS.n_heads):
            moving_head(tensors, f"a{layer}", head, YEAR, ANSWER, to=AT_END, size=1 / 44)
    tensors["a0.w.q_arr"][0], tensors["a0.w.v_arr"][0] = 0, 0
    constant_head(tensors, "a0", 0, SMALL_SHIFT, ANSWER)
    return Model("by all heads", MANY_HEADS, tensors, "all heads")


def bell(shift: float) -> torch.Tensor:
    """Probabilities (N, 100) of the years, around YY and `shift`: SHARPNESS · (u_y A − u_y² / 2), A = u_YY + shift."""
    answer = scaled(YEARS.double())[:, None] + shift
    u = scaled(torch.arange(100).double())
    return (SHARPNESS * (u * answer - u.square() / 2)).softmax(-1)


def about(estimate: Estimate) -> object:
    """A number and the ends of its interval, up to rounding."""
    return pytest.approx((estimate.value, estimate.low, estimate.high), abs=ROUNDING)


@pytest.fixture(scope="module")
def found() -> list[OfModel]:
    models = [
        planted_model(),
        late_chain(),
        planted_heads().model,
        by_all_heads(),
        Model("blank", SIZES, blank(SIZES), ""),
    ]
    return [of_model(asked(model), circuits=50) for model in models]


def test_every_column_of_a_planted_model_is_what_was_planted(found):
    """Other chains of 3 layers of 2 heads: a1 or a2 with an MLP before it at YY and one not before it at END.

    m0@YY a1 m1, m0@YY a1 m2, m0@YY a2 m2, m1@YY a2 m2, with either head, are 8; one is the model's own, and what any
    of the 7 others does alone is nothing. With the first model's (bins: m0@YY 0, a1 3, m2 5) they share 2, 3, 2 and 1
    thirds.
    """
    first, late = as_rows(found)[:2]
    metrics = {name: mean(metric(bell(SHIFT))) for name, metric in METRICS.items()}
    for row in (first, late):
        for name, expected in metrics.items():
            assert (row[name], row[f"{name}, low"], row[f"{name}, high"]) == about(expected)
        assert (row["F"], row["F, low"], row["F, high"]) == pytest.approx((1, 1, 1), abs=ROUNDING)
        assert (row["nodes at END"], row["nodes at YY"]) == (2, 1)
        assert (row["p"], row["random circuits"]) == (1 / 8, 7)
        assert row["remark"] is None
    assert (first["circuit"], late["circuit"]) == ("m0@YY a1.h1@END m2@END", "m1@YY a2.h1@END m2@END")
    assert (first["mean depth of heads at END"], first["mean depth of MLPs at END"]) == (1 / 2, 1)
    assert (late["mean depth of heads at END"], late["mean depth of MLPs at END"]) == (1, 1)
    assert first["shared with the first"] == pytest.approx(1)
    assert late["shared with the first"] == pytest.approx(1 / 3)
    assert first["shared by random circuits"] == pytest.approx((2 * 2 + 1 * 3 + 2 * 2 + 2 * 1) / 3 / 7)
    assert late["shared by random circuits"] == pytest.approx((2 * 2 + 2 * 3 + 2 * 2 + 1 * 1) / 3 / 7)


def test_a_model_of_other_sizes_shares_what_lies_as_deep(found):
    """a1.h1, a1.h4 and a2.h0 of 5 layers: two in bin 1, one in bin 3, where the first model's third of nodes is a1."""
    row = as_rows(found)[2]
    assert row["circuit"] == "a1.h1@END a1.h4@END a2.h0@END"
    assert (row["nodes at END"], row["nodes at YY"]) == (3, 0)
    assert row["mean depth of heads at END"] == pytest.approx((1 / 4 + 1 / 4 + 1 / 2) / 3)
    assert row["mean depth of MLPs at END"] is None
    assert row["shared with the first"] == pytest.approx(1 / 3)
    assert (row["p"], row["random circuits"]) == (1 / 51, 50)


def test_what_cannot_be_measured_is_said_in_a_row_of_its_own(found):
    *_, by_all, blank_model = as_rows(found)
    for row in (by_all, blank_model):
        assert [row[name] for name in ("circuit", "F", "p", "nodes at END", "shared with the first")] == [None] * 5
    assert by_all[DIFFERENCE] == pytest.approx(mean(METRICS[DIFFERENCE](bell(SMALL_SHIFT))).value, abs=ROUNDING)
    assert by_all["remark"].startswith("no circuit is found: 44 of the 50 nodes of by all heads at END change")
    never = mean(METRICS[DIFFERENCE](bell(0.0)[2:3].expand(len(YEARS), -1)))  # around 50, whatever YY is
    assert blank_model[DIFFERENCE] == pytest.approx(never.value, abs=ROUNDING)
    assert blank_model["remark"] == f"it does not do the task: its mean {DIFFERENCE} is not clearly above 0"


def test_a_metric_that_is_high_on_corrupted_sentences_too_is_no_ability():
    constant = {"a constant": lambda probabilities: torch.ones(len(probabilities), dtype=torch.float64)}
    of = of_model(Asked(TorchEngine(planted_model(), planted_sentences()), constant, YY, END))
    assert "its mean a constant is not clearly above that on corrupted sentences" in of.remark


def test_the_only_circuit_of_its_shape_is_compared_with_none():
    sizes = replace(SIZES, n_layers=1, n_heads=1)
    tensors = blank(sizes)
    moving_head(tensors, "a0", 0, YEAR, ANSWER, to=AT_END)
    of_yy = {"probability of YY": lambda probabilities: probabilities.gather(1, YEARS[:, None]).squeeze(1)}
    engine = TorchEngine(Model("one head", sizes, tensors, "one head"), planted_sentences())
    (row,) = as_rows([of_model(Asked(engine, of_yy, YY, END), circuits=2)])
    assert (row["circuit"], row["p"], row["random circuits"]) == ("a0.h0@END", None, 0)
    assert (row["F"], row["shared by random circuits"]) == (pytest.approx(1, abs=ROUNDING), None)
    assert str(row["remark"]).startswith("its circuit is compared with no other: 1 layers of 1 heads have no other")


def test_the_table_fits_a_terminal_and_says_the_same(found):
    again = OfModel("somebody/a-model-with-a-long-name@of-a-revision", found[0].means, found[0].found)
    lines = table([*found, again]).splitlines()
    assert max(map(len, lines)) <= WIDTH
    by_name = {line.split("  ")[0].strip(): line for line in lines if line}
    difference = mean(METRICS[DIFFERENCE](bell(SHIFT)))
    columns = [each.strip() for each in by_name["late"].split("  ") if each]
    assert columns[0] == "late"
    assert columns[1] == f"{difference.value:.3f} [{difference.low:.3f}, {difference.high:.3f}]"
    assert columns[3:] == ["2, 1", "1.00, 1.00", "1.000 [1.000, 1.000]", "0.12", "0.33 (0.71)"]
    assert by_name["planted"].endswith("0.12  –")
    assert by_name["by all heads"].split()[-4:] == ["–"] * 4
    assert any(line.startswith("blank: it does not do the task") for line in lines)


def test_a_csv_file_has_every_number(found):
    rows = [*csv.DictReader(as_csv(found).splitlines())]
    assert [row["model"] for row in rows] == ["planted", "late", "planted heads", "by all heads", "blank"]
    assert float(rows[1]["shared with the first"]) == as_rows(found)[1]["shared with the first"]
    assert rows[4]["F"] == ""


def test_two_models_of_one_name_are_told_apart_and_none_is_refused(found):
    assert [row["model"] for row in as_rows([found[0], found[0]])] == ["planted", "planted (2)"]
    with pytest.raises(UserError, match="no model is given"):
        table([])
