"""The results table: the paper's numbers for GPT-2 small alone, verdicts that can fail, nothing of mixed models."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from path_patching.bootstrap import Estimate
from path_patching.files import ROOT
from reproduction import run as artifacts
from reproduction.paper import CLAIMS, Claim, LeadingNodes, Stated
from reproduction.results import NOT_MEASURED, markdown, row_of
from reproduction.run import read_artifacts
from reproduction.steps import EXPERIMENTS
from tests.helpers.made import MODEL, publish_experiments
from tests.helpers.scripts import error_line, output, run_python


@pytest.fixture
def as_gpt2(monkeypatch):
    """Runs of this process are taken for GPT-2 small's."""
    monkeypatch.setattr(artifacts, "is_gpt2_small", lambda model: True)


def results(folder, *flags: str):
    paths = ["--artifacts", str(folder), "--out", str(folder / "plots")]
    return run_python(str(ROOT / "reproduce.py"), "results", *paths, *flags)


def test_the_paper_s_numbers_agree_with_themselves(tmp_path, as_gpt2):
    publish_experiments(tmp_path)
    printed = output(results(tmp_path, "--check"))
    assert "| 81.7 % [80.7 … 82.7] | 1,000 | 81.7 % ± 3 | agrees |" in printed
    assert "| −36.6 % [−37.6 … −35.6] | 1,000 | −36.6 % ± 5 | agrees |" in printed
    assert "m8, m9, m10, m11, a9.h1 (≥ 4 of 5) | agrees" in printed
    assert "differs" not in printed
    assert (tmp_path / "plots" / "results.md").read_text().strip() in printed
    table = json.loads((tmp_path / "plots" / "results.json").read_text())["table"]
    assert len(table) == len(CLAIMS)
    assert table[0]["value"] == 0.817


def test_what_differs_fails_the_check_and_is_named(tmp_path, as_gpt2):
    publish_experiments(tmp_path, off_by=-0.2)
    run = results(tmp_path, "--check")
    assert run.returncode == 1
    assert "failed: the model: probability difference (61.7 % [60.7 … 62.7], not 81.7 % ± 3)" in run.stderr
    assert (tmp_path / "plots" / "results.md").is_file()
    assert results(tmp_path).returncode == 0, "without --check a difference is no failure"


def test_what_was_not_measured_fails_the_check(tmp_path, as_gpt2):
    publish_experiments(tmp_path)
    (tmp_path / "pca_experiments.json").unlink()
    run = results(tmp_path, "--check")
    assert run.returncode == 1
    assert "(not measured)" in run.stderr


def test_of_another_model_the_paper_says_nothing(tmp_path):
    publish_experiments(tmp_path)
    printed = output(results(tmp_path, "--check"))
    assert "81.7 % ±" not in printed
    assert "agrees" not in printed
    assert "nothing to check" in printed
    assert "81.7 % [80.7 … 82.7]" in printed, "what was measured stands there"


def test_runs_of_two_models_are_refused_by_their_names(tmp_path):
    publish_experiments(tmp_path)
    publish_experiments(tmp_path / "other", replace(MODEL, name="another", fingerprint="abc+gelu"))
    (tmp_path / "other" / "pca_experiments.json").replace(tmp_path / "pca_experiments.json")
    line = error_line(results(tmp_path))
    assert "of a model (fingerprint" in line
    assert "of another (fingerprint abc" in line


def test_no_runs_are_one_line(tmp_path):
    assert "run python reproduce.py" in error_line(results(tmp_path))


def test_a_verdict_is_of_the_paper_s_circuit_alone(tmp_path, as_gpt2):
    publish_experiments(tmp_path, circuit="a circuit found automatically")
    made = {script: read_artifacts(tmp_path, script) for script in EXPERIMENTS}
    rows = [row_of(claim, made) for claim in CLAIMS]
    assert {claim.of_circuit for claim, row in zip(CLAIMS, rows, strict=True) if row.verdict} == {False}
    assert all(row.measured != NOT_MEASURED for row in rows)


def test_every_row_is_told_from_the_others():
    rows = [(claim.section, claim.what) for claim in CLAIMS]
    assert len(set(rows)) == len(rows)


def test_nodes_are_ranked_by_the_size_of_their_effect(tmp_path):
    claim = LeadingNodes("", "", "ipp_logits.pt", ("m8", "a9.h1", "m3", "m4", "m5"), 2)
    publish_experiments(tmp_path)
    artifacts = read_artifacts(tmp_path, "circuit_discovery")
    measured = claim.measure(artifacts)
    assert {*measured.names} == {"m8", "m9", "m10", "m11", "a9.h1"}
    assert "a9.h1\N{NO-BREAK SPACE}−30.0" in claim.shown(measured)
    assert claim.verdict(measured) == "agrees"
    assert replace(claim, enough=3).verdict(measured) == "differs"
    assert replace(claim, nodes=()).verdict(measured) is None
    heads = replace(claim, heads_only=True).measure(artifacts)
    assert heads.names[0] == "a9.h1"
    assert {name[0] for name in heads.names} == {"a"}


def test_rows_without_a_measurement_say_so():
    row = row_of(Claim("a", "b", "random_years", "c", Stated("d", 0.4, 0.6)), {})
    assert row.cells() == ("a", "b", "not measured", "", "", "", "python random_years.py")
    assert "| a | b | not measured |" in markdown([row], "title")
    assert r"| a | \|b\| |" in markdown([replace(row, what="|b|")], "title")


@pytest.mark.parametrize(
    ("measured", "unit", "text"),
    [
        ("m1, m2", "%", "m1, m2"),
        (0.5, "%", "50.0 %"),
        (-0.366, "points", "−36.6 points"),
        (-2.346, "", "−2.35"),
        (-0.0004, "%", "0.0 %"),
        (Estimate(0.1, -0.02, 0.3, 97), "%", "10.0 % [−2.0 … 30.0]"),
    ],
)
def test_numbers_are_shown_with_their_unit(measured, unit, text):
    assert Claim("", "", "", "", unit=unit).shown(measured) == text
