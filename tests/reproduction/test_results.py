"""The results table: the paper's numbers for GPT-2 small alone, verdicts that can fail, nothing of mixed models."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest

from path_patching.bootstrap import Estimate
from path_patching.circuits.papers_shape import varied
from path_patching.errors import UserError
from path_patching.files import ROOT
from reproduction import run as artifacts
from reproduction.claims import Claim, read_claims
from reproduction.paper import PAPER
from reproduction.results import NOT_MEASURED, markdown, results_table, sections
from reproduction.results import main as results_main
from reproduction.run import read_artifacts, start_run
from reproduction.settings import Settings
from reproduction.steps import read_experiments
from reproduction.subcommands import results as asked
from tests.helpers.made import MODEL, edit_record, publish_experiments
from tests.helpers.scripts import error_line, output, run_script

CLAIMS = read_claims()


def claim(**changed: str) -> Claim:
    """A claim of a test."""
    given = {"key": "a/b", "script": "random_years", "section": "a", "words": "b", "unit": "%", "stated": "50"}
    empty = dict.fromkeys(("paper_section", "figure", "of_circuit"), "")
    return Claim(**(empty | given | {"tolerance": "10", "sure": "stated"} | changed))


@pytest.fixture
def as_gpt2(monkeypatch):
    """Runs of this process are taken for GPT-2 small's."""
    monkeypatch.setattr(artifacts, "is_gpt2_small", lambda model: True)


def results(folder, *flags: str):
    paths = ["--artifacts", str(folder), "--out", str(folder / "plots")]
    return run_script(ROOT / "reproduce.py", "results", *paths, *flags)


def test_the_paper_s_numbers_agree_with_themselves(tmp_path, as_gpt2):
    publish_experiments(tmp_path)
    printed = output(results(tmp_path, "--check"))
    assert "| 81.7 points [80.7, 82.7] | 1,000 | 81.7 points ± 3 | agrees |" in printed
    assert "| −36.6 points [−37.6, −35.6] | 1,000 | −36.6 points ± 5 | agrees |" in printed
    assert "m8, m9, m10, m11, a9.h1 (≥ 4 of 5) | agrees" in printed
    assert "differs" not in printed
    assert (tmp_path / "plots" / "results.md").read_text().strip() in printed
    table = json.loads((tmp_path / "plots" / "results.json").read_text())["table"]
    assert len(table) == len(CLAIMS)
    assert table[0]["value"] == pytest.approx(0.817)
    read = pd.read_csv(tmp_path / "plots" / "results.csv", keep_default_na=False)
    assert read["key"].tolist() == [each.key for each in CLAIMS]
    assert set(read["verdict"]) == {"agrees", ""}


def test_who_has_read_enough_of_the_table_finds_it_published(tmp_path, monkeypatch):
    publish_experiments(tmp_path)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # the command replaces it
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(write=raise_broken_pipe))
    with pytest.raises(BrokenPipeError):
        results_main(asked(["--artifacts", str(tmp_path), "--out", str(tmp_path / "plots")]))
    assert (tmp_path / "plots" / "results.json").is_file()


def raise_broken_pipe(text: str) -> None:
    raise BrokenPipeError


def test_each_section_says_once_what_measured_it(tmp_path):
    publish_experiments(tmp_path)
    printed = output(results(tmp_path))
    headings = [line for line in printed.splitlines() if line.startswith("## ")]
    assert headings == [f"## {section}" for section in dict.fromkeys(each.section for each in CLAIMS)]
    assert printed.count("\nMeasured by `") == len(headings)
    of_tasks = printed.split("## other prompts\n")[1].split("## ")[0]
    assert of_tasks.count("`") == 2


def test_what_differs_fails_the_check_and_is_named(tmp_path, as_gpt2):
    publish_experiments(tmp_path, off_by=-0.2)
    run = results(tmp_path, "--check")
    assert run.returncode == 1
    assert "failed: the model: probability difference (61.7 points [60.7, 62.7], not 81.7 points ± 3)" in run.stderr
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
    assert "81.7 points ±" not in printed
    assert "agrees" not in printed
    assert "nothing to check" in printed
    assert "81.7 points [80.7, 82.7]" in printed, "what was measured stands there"


def test_runs_of_two_models_are_refused_by_their_names(tmp_path):
    publish_experiments(tmp_path)
    publish_experiments(tmp_path / "other", replace(MODEL, name="another", fingerprint="abc+gelu"))
    (tmp_path / "other" / "pca_experiments.json").replace(tmp_path / "pca_experiments.json")
    line = error_line(results(tmp_path))
    assert "of a model (fingerprint" in line
    assert "of another (fingerprint abc" in line


@pytest.mark.parametrize("spoil", ["a number", "an artifact", "no artifact"])
def test_what_was_changed_by_hand_is_no_result(tmp_path, spoil):
    publish_experiments(tmp_path)
    record, artifact = tmp_path / "big_ds_experiments.json", tmp_path / "big_ds_experiments.pt"
    assert "big_ds_experiments" in read_experiments(tmp_path)
    if spoil == "a number":
        edited = json.loads(record.read_text())
        edited["numbers"]["clean/probability_difference"]["value"] += 0.1
        record.write_text(json.dumps(edited))
    else:
        artifact.write_bytes(b"another") if spoil == "an artifact" else artifact.unlink()
    with pytest.raises(UserError, match=rf"{record if spoil == 'a number' else artifact} .*; run python big_ds"):
        read_experiments(tmp_path)


def test_a_table_s_lines_are_whole_whatever_folders_are_called(tmp_path):
    made = "python random_years.py --model 'a\nb'"
    table = results_table([claim()], {}).assign(command=made)
    assert r"Measured by `python random_years.py --model 'a\nb'`." in markdown(table, "title").splitlines()


def test_runs_of_two_circuits_make_no_table(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # the script sets it
    publish_experiments(tmp_path)
    run = start_run("pca_experiments", Settings(model=MODEL.name, out=tmp_path), MODEL, "torch", "cpu")
    run.note_circuit(varied(PAPER, heads_feed=("m8", "m9")))
    run.publish()
    with pytest.raises(UserError, match=r"but pca_experiments\.json with another circuit"):
        results_main(asked(["--artifacts", str(tmp_path), "--out", str(tmp_path / "plots")]))


def test_no_runs_are_one_line(tmp_path):
    assert "run python reproduce.py" in error_line(results(tmp_path))


def test_a_verdict_is_of_the_paper_s_circuit_alone(tmp_path, as_gpt2):
    publish_experiments(tmp_path, circuit=varied(PAPER, heads_feed=("m8", "m9")))  # under the paper's name
    made = read_experiments(tmp_path)
    table = results_table(CLAIMS, made)
    of_circuit = [each.of_circuit for each in CLAIMS]
    assert set(table.assign(of_circuit=of_circuit)[table["verdict"] != ""]["of_circuit"]) == {""}
    assert (table["measured"] != NOT_MEASURED).all()


def test_every_row_is_told_from_the_others():
    rows = [(each.section, each.words) for each in CLAIMS]
    assert len(set(rows)) == len(rows)


def test_nodes_agree_if_enough_of_them_are_among_the_strongest(tmp_path):
    of_sweep = claim(
        key="sweeps/logits/strongest",
        script="circuit_discovery",
        unit="nodes",
        stated="m8 a9.h1 m3 m4 m5",
        tolerance="2",
    )
    publish_experiments(tmp_path)
    artifacts = read_artifacts(tmp_path, "circuit_discovery")
    measured = of_sweep.measure(artifacts)
    assert {*measured} == {"m8", "m9", "m10", "m11", "a9.h1"}
    assert "a9.h1\N{NO-BREAK SPACE}−30.0" in of_sweep.shown(measured)
    assert of_sweep.expected == "m8, a9.h1, m3, m4, m5 (≥ 2 of 5)"
    assert of_sweep.verdict(measured) == "agrees"
    assert replace(of_sweep, tolerance="3").verdict(measured) == "differs"
    unstated = replace(of_sweep, stated="", tolerance="", sure="")
    assert unstated.verdict(measured) is None
    assert len(unstated.measure(artifacts)) == 5
    of_two = replace(of_sweep, stated="m8 m9", tolerance="1")
    assert [*of_two.measure(artifacts)] == [*measured][:2]


def test_rows_without_a_measurement_say_so():
    table = results_table([claim()], {})
    assert table.loc[0, "measured"] == NOT_MEASURED
    assert table.loc[0, "paper"] == table.loc[0, "verdict"] == ""
    assert table.loc[0, "value"] is None
    assert "| b | not measured |  |  |  |" in markdown(table, "title")
    assert "Measured by `python random_years.py`." in markdown(table, "title")
    assert markdown(table, "of <b>R&D").startswith("# of &lt;b&gt;R&amp;D\n")
    assert r"| \|b\| | not" in markdown(table.assign(words="|b|"), "title")
    assert [section for section, _ in sections(table)] == ["a"]


@pytest.mark.parametrize(
    ("changed", "value", "expected", "verdict"),
    [
        ({}, 0.45, "50.0 % ± 10", "agrees"),
        ({}, 0.39, "50.0 % ± 10", "differs"),
        ({"sure": "about"}, 0.45, "about 50.0 % ± 10", "agrees"),
        ({"sure": "secondary source, medium confidence"}, 0.1,
         "50.0 % ± 10 (secondary source, medium confidence)", "differs (soft target)"),
        ({"stated": "> 50", "tolerance": ""}, 0.51, "> 50.0 %", "agrees"),
        ({"stated": "< 0", "tolerance": "", "unit": ""}, 0.51, "< 0.00", "differs"),
        ({"stated": "-17", "unit": "points"}, -0.2, "−17.0 points ± 10", "agrees"),
        ({"stated": "", "tolerance": "", "sure": ""}, 0.5, "", None),
    ],
)  # fmt: skip
def test_what_is_stated_is_shown_and_judged(changed, value, expected, verdict):
    assert claim(**changed).expected == expected
    assert claim(**changed).verdict(value) == verdict
    assert claim(**changed).verdict(Estimate(value, value, value, 3)) == verdict


def test_a_soft_target_that_is_missed_fails_no_check(tmp_path, as_gpt2, monkeypatch):
    publish_experiments(tmp_path)
    path = tmp_path / "big_ds_experiments.json"
    numbers = json.loads(path.read_text())["numbers"]
    numbers["mlps/m10/direct/share_of_clean"]["value"] = 0.1
    edit_record(path, numbers=numbers)
    assert "| differs (soft target) |" in output(results(tmp_path, "--check"))


HEAD = "key,script,section,paper_section,figure,words,unit,stated,tolerance,sure,of_circuit"
LINE = "a/b,random_years,a,,,b,%,50,10,stated,"


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([LINE.replace("%", "miles")], "the unit 'miles' is unknown"),
        ([LINE.replace("random_years", "")], "there is no such script"),
        ([LINE.replace("random_years", "randomness")], "there is no such script"),
        ([LINE, LINE.replace(",b,", ",c,")], "random_years a/b is there twice"),
        ([LINE.replace("a/b", "A b")], "no key"),
        ([LINE.replace("10", "")], "stated and tolerance are no numbers"),
        ([LINE.replace("50", "much")], "stated and tolerance are no numbers"),
        ([LINE.replace("50", "> 50")], "a bound has no tolerance"),
        ([LINE.replace("50", "")], "sure is 'stated'"),
        ([LINE.replace("50", "").replace("stated", "")], "nothing is stated"),
        ([LINE.replace("stated", "perhaps")], "sure is 'perhaps'"),
        ([LINE.replace("%", "nodes")], "'50' is not a node"),
        ([LINE.replace("%,50,10", "heads,m8,1")], "'m8' are no heads"),
        ([LINE.replace("%,50,10", "nodes,m8 m9,3")], "how many of 2 nodes"),
        ([LINE.replace("%,50,10", "nodes,m8 m8 m9,3")], "a node is twice"),
        ([], "no line but the header"),
        ([LINE.replace("%", "text")], "text cannot be judged"),
        ([LINE + "perhaps"], "of_circuit is 'perhaps'"),
        ([LINE.replace(",b,", ",,")], "no words"),
        ([LINE + ",more,and more"], "has not the columns|no claims can be read"),
    ],
)
def test_what_is_no_claim_is_one_line(tmp_path, lines, complaint):
    path = tmp_path / "claims.csv"
    path.write_text("\n".join([HEAD, *lines]) + "\n")
    with pytest.raises(UserError, match=complaint) as raised:
        read_claims(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("unit", "stated"), [("nodes", "m8"), ("text", "")])
def test_a_unit_that_does_not_go_with_what_was_measured_is_one_line(tmp_path, unit, stated):
    publish_experiments(tmp_path)
    made = read_artifacts(tmp_path, "big_ds_experiments")
    claim = next(each for each in read_claims() if each.key == "clean/probability_difference")
    other = replace(claim, unit=unit, stated=stated, tolerance="1" if stated else "", sure="stated" if stated else "")
    with pytest.raises(UserError, match=f"clean/probability_difference is a number, which has no unit '{unit}'"):
        other.measure(made)


def test_a_file_that_holds_no_claims_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no claims can be read from"):
        read_claims(tmp_path / "none.csv")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(UserError, match="no claims can be read from"):
        read_claims(tmp_path / "empty.csv")
    (tmp_path / "others.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="has not the columns"):
        read_claims(tmp_path / "others.csv")


@pytest.mark.parametrize(
    ("measured", "unit", "text"),
    [
        ("m1, m2", "%", "m1, m2"),
        (0.5, "%", "50.0 %"),
        (-0.366, "points", "−36.6 points"),
        (-2.346, "", "−2.35"),
        (-0.0004, "%", "0.0 %"),
        (Estimate(0.1, -0.02, 0.3, 97), "%", "10.0 % [−2.0, 30.0]"),
        (Estimate(0.1, -0.02, 0.3, 97, 0.05, 0.2), "%", "10.0 % [−2.0, 30.0], plain [5.0, 20.0]"),
    ],
)
def test_numbers_are_shown_with_their_unit(measured, unit, text):
    assert claim(unit=unit).shown(measured) == text
