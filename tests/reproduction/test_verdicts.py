"""Verdicts are recorded under keys and as one table, which the report shows."""

from __future__ import annotations

import pandas as pd
import pytest

from path_patching.bootstrap import Estimate
from path_patching.circuits.validation.verdicts import judge
from path_patching.gpt2.model import Architecture, random_model
from reproduction.run import read_artifacts, start_run
from reproduction.settings import Settings
from reproduction.verdicts import Verdicts, as_key, columns, interval_columns, read_left_out, read_verdicts

MODEL = random_model(Architecture(1, 1, 4, 4, 4, 4, 4))


def published(folder, *verdicts):
    run = start_run("circuit_validation", Settings(out=folder), MODEL, "torch", "cpu")
    noted = Verdicts(run)
    noted.note("faithfulness", [judge("faithfulness", 0.1, "to be replaced")])
    noted.note("faithfulness", verdicts)
    noted.save()
    run.publish()
    return read_artifacts(folder, "circuit_validation")


def test_each_verdict_is_a_number_and_a_line(tmp_path):
    estimate = Estimate(0.9, 0.85, 0.95, 97)
    made = published(
        tmp_path,
        judge("faithfulness", estimate, "late half"),
        judge("complement", 0.5, "late half, mean ablation", "as it is"),
        judge("interactions", 0.3, "m8 and m9"),
    )
    assert made.number("faithfulness/late_half/faithfulness") == estimate
    assert made.number("faithfulness/late_half_mean_ablation/complement") == 0.5
    table = read_verdicts(made)
    assert list(table["verdict"]) == ["passed", "failed", "not judged"]
    assert list(table["remark"]) == ["", "as it is", ""]
    assert list(table["n"]) == [97, 0, 0]
    assert list(table["value"]) == [0.9, 0.5, 0.3]
    assert table["low"].tolist()[0] == 0.85
    assert table["low"].isna().tolist() == [False, True, True]
    assert [made.number(f"verdicts/{outcome}") for outcome in ("passed", "failed", "not_judged")] == [1, 1, 1]


def test_a_run_without_verdicts_has_no_table(tmp_path):
    made = published(tmp_path)
    assert made.number("verdicts/passed") == 0
    assert made.find(kind="verdicts") == {}


def test_what_is_left_out_is_printed_and_read_back(tmp_path, capsys):
    run = start_run("circuit_validation", Settings(out=tmp_path), MODEL, "torch", "cpu")
    noted, verdict = Verdicts(run), judge("faithfulness", 0.1, "late half")
    noted.note("random", [], {"late half, any layers": "there is no other circuit"})
    noted.note("stability", [], {"searches": "asked after all, when the cell was run again"})
    noted.note("stability", [verdict])
    noted.note("specificity", [verdict])
    noted.note("specificity", [], {"other abilities": "there is none"})
    noted.save()
    run.publish()
    assert "left out: there is no other circuit\n" in capsys.readouterr().out
    made = read_artifacts(tmp_path, "circuit_validation")
    assert read_left_out(made).to_numpy().tolist() == [
        ["random", "late half, any layers", "there is no other circuit"],
        ["specificity", "other abilities", "there is none"],
    ]
    assert list(read_verdicts(made)["test"]) == ["stability"]


def test_a_run_in_which_all_was_asked_leaves_nothing_out(tmp_path):
    assert read_left_out(published(tmp_path, judge("faithfulness", 0.1, "late half"))).empty


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ("late half", "late_half"),
        ("a9.h1@END", "a9.h1_end"),
        ("the search at 0.2% of clean", "the_search_at_0.2_of_clean"),
    ],
)
def test_words_become_parts_of_keys(words, key):
    assert as_key(words) == key


def test_estimates_are_columns_and_read_back_as_value_low_and_high():
    row = columns(lost=Estimate(1.0, 0.5, 2.0, 3), kept=Estimate(0.0, -1.0, 1.0, 3))
    assert [*row] == ["lost", "lost_low", "lost_high", "kept", "kept_low", "kept_high"]
    assert interval_columns(pd.DataFrame([row]), "lost").tolist() == [[1.0, 0.5, 2.0]]
