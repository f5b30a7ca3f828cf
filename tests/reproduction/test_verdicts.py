"""Verdicts are recorded under keys and as one table, which the report shows."""

from __future__ import annotations

import math
import re

import pandas as pd
import pytest

from path_patching.bootstrap import Estimate
from path_patching.circuits.validation.verdicts import BARS, judge
from path_patching.gpt2.model import Architecture, random_model
from reproduction.claims import read_claims
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


def test_a_number_of_the_results_has_the_unit_of_its_verdict_and_names_the_threshold_of_its_search():
    validated = [claim for claim in read_claims() if claim.script == "circuit_validation"]
    judged = [claim for claim in validated if claim.key.rpartition("/")[2] in BARS]
    assert len(judged) > 20
    for claim in judged:
        assert claim.unit == BARS[claim.key.rpartition("/")[2]].unit, claim.key
        for threshold in re.findall(r"search_at_(\S+?)_of_clean", claim.key):
            assert f"at {threshold} % of clean" in claim.words, claim.key


def test_a_run_without_verdicts_has_no_table(tmp_path):
    made = published(tmp_path)
    assert made.number("verdicts/passed") == 0
    assert made.find(kind="verdicts") == {}


def test_each_verdict_is_printed_whole_and_what_failed_or_was_not_judged_again_at_the_end(tmp_path, capsys):
    failed = judge("complement", 0.5, "late half", "what is outside the circuit does some of it, too")
    one = Estimate(1.0, 1.0, 1.0, 1, doubt="1 sentence; give two or more")
    unjudged = [judge("faithfulness", one, part) for part in ("late half", "full circuit")]
    run = start_run("circuit_validation", Settings(out=tmp_path), MODEL, "torch", "cpu")
    noted = Verdicts(run)
    noted.note("faithfulness", [judge("faithfulness", 0.9, "late half"), failed, *unjudged])
    noted.note("interactions", [judge("interactions", 0.3, "m8 and m9")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == str(failed)
    assert "50.0 %; bar: −20 to 20 %; failed (what is outside" in lines[1]
    noted.save()
    assert capsys.readouterr().out.splitlines()[-3:] == [
        f"failed: {failed}",
        "not judged, 1 sentence: late half (faithfulness), full circuit (faithfulness)",
        "not judged, only described: m8 and m9 (interactions)",
    ]


def test_a_number_that_could_not_be_measured_is_a_line_of_the_table_and_ends_no_run(tmp_path, capsys):
    nan = float("nan")
    unmeasured = Estimate(nan, nan, nan, 97, doubt="the span is zero")
    made = published(tmp_path, judge("faithfulness", unmeasured, "late half"))
    assert made.number("faithfulness/late_half/faithfulness") is None
    (line,) = read_verdicts(made).itertuples()
    assert (line.verdict, line.remark) == ("not judged", "the span is zero")
    assert "not judged (the span is zero)" in capsys.readouterr().out


@pytest.mark.parametrize("measured", [float("nan"), float("inf"), Estimate(0.9, float("-inf"), 1.0, 97)])
def test_what_is_not_a_number_is_not_judged(measured):
    verdict = judge("faithfulness", measured, "late half")
    assert (verdict.passed, verdict.remark) == (None, "nothing to judge: it is not a number")


def test_the_wider_interval_is_held_to_the_bar_and_a_fail_by_it_alone_is_said():
    narrow = Estimate(0.85, 0.82, 0.88, 97)
    assert judge("faithfulness", narrow, "").passed
    wide = judge("faithfulness", Estimate(0.85, 0.82, 0.88, 97, plain_low=0.75, plain_high=0.95), "")
    assert (wide.passed, wide.remark.partition(":")[0]) == (False, "the number is within the bar, its interval is not")
    assert judge("faithfulness", Estimate(0.7, 0.6, 0.75, 97), "", "why").remark == "why"


def test_verdicts_are_corrected_for_their_number(tmp_path, capsys):
    """Of p 0.01, 0.04, 0.03 and 0.005 Holm's method makes 0.03, 0.06, 0.06 and 0.02; 0.3 has no p.

    An interval that ends half of the way from the number to the bar has p 2 · (1 − Φ(2 · 1.96)) = 0.000089.
    """
    ps = {"equivalence": 0.01, "independence": 0.04, "random_links": 0.03, "random": 0.005}
    made = published(
        tmp_path,
        *(judge(bar, p, bar) for bar, p in ps.items()),
        judge("minimality", 0.3, "nodes"),
        judge("faithfulness", Estimate(1.0, 0.9, 1.1, 97, plain_low=0.95, plain_high=1.05), "late half"),
    )
    table = read_verdicts(made).set_index("subject")
    assert table["p"].tolist() == pytest.approx([*ps.values(), math.nan, 8.86e-5], rel=1e-2, nan_ok=True)
    expected = [0.03, 0.06, 0.06, 0.02, math.nan, 5 * 8.86e-5]
    assert table["p_corrected"].tolist() == pytest.approx(expected, rel=1e-2, nan_ok=True)
    assert [*table["verdict"]] == ["failed", "failed", "failed", "passed", "failed", "passed"]
    assert [*table["corrected"]] == ["failed", "passed", "passed", "failed", "", "passed"]
    assert (made.number("verdicts/with_p"), made.number("verdicts/with_p/passed")) == (5, 3)
    lines = capsys.readouterr().out.splitlines()
    assert "failed, corrected for 5 verdicts; more sentences or draws would tell: random (random)" in lines
    assert "passed, corrected for 5 verdicts: independence (independence), random_links (random_links)" in lines


@pytest.mark.parametrize(
    ("bar", "interval", "p"),
    [
        ("faithfulness", (1.0, 0.8, 1.1), 0.05),  # it ends at the bar
        ("faithfulness", (1.0, 0.7, 1.1), 0.1913),
        ("faithfulness", (0.7, 0.6, 1.1), 1),
        ("faithfulness", (1.0, 1.0, 1.0), 0),
        ("divergence", (0.2, 0.2, 0.2), 0),
        ("divergence", (0.3, 0.3, 0.3), 1),
        ("divergence", (-0.2, -9, 0.2), 0.05),  # on the side of the bar
    ],
)
def test_the_p_of_an_interval_is_a_twentieth_where_it_ends_at_the_bar(bar, interval, p):
    assert judge(bar, Estimate(*interval, 97), "").p == pytest.approx(p, abs=1e-3)


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
        ("the search at 0.2 % of clean", "the_search_at_0.2_of_clean"),
    ],
)
def test_words_become_parts_of_keys(words, key):
    assert as_key(words) == key


def test_estimates_are_columns_and_read_back_as_value_low_and_high():
    row = columns(lost=Estimate(1.0, 0.5, 2.0, 3), kept=Estimate(0.0, -1.0, 1.0, 3))
    assert [*row] == ["lost", "lost_low", "lost_high", "kept", "kept_low", "kept_high"]
    assert interval_columns(pd.DataFrame([row]), "lost").tolist() == [[1.0, 0.5, 2.0]]
