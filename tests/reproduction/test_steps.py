"""A step is done only as long as nothing that it depends on has changed."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from path_patching.circuits.circuit_file import as_json, read_circuit
from path_patching.circuits.papers_shape import varied
from path_patching.files import ROOT
from path_patching.gpt2.model import Architecture, random_model
from reproduction import steps
from reproduction.experiments import EXPERIMENTS, PLOTS, STEPS
from reproduction.paper import PAPER
from reproduction.publication import record_path
from reproduction.run import start_run
from reproduction.settings import Settings
from reproduction.steps import Step, is_done, steps_of
from tests.helpers import made

MODEL = random_model(Architecture(1, 1, 4, 4, 8, 16, 10))


def test_every_script_of_the_repository_that_publishes_is_a_step():
    opens = re.compile(r"(?:open_run|start_plots)\(\"(\w+)\"")
    modules = [*ROOT.glob("*.py"), *ROOT.glob("reproduction/*.py")]
    publishing = {name for path in modules for name in opens.findall(path.read_text())}
    assert publishing == {*STEPS}


def test_experiments_come_first_and_the_report_last(tmp_path):
    listed = steps_of("standin", ["--seed", "0"], tmp_path / "a", tmp_path / "p", None)
    assert [step.script for step in listed] == [*EXPERIMENTS, *PLOTS, "results", "report"]
    assert listed[0].arguments == ("--model", "standin", "--seed", "0")
    assert listed[-1].arguments == ("--model", "standin")
    elsewhere = steps_of("standin", [], tmp_path / "a", tmp_path / "p", tmp_path)
    assert elsewhere[0].arguments[-2:] == ("--out", str(tmp_path / "a"))
    assert elsewhere[-1].arguments[-4:] == ("--artifacts", str(tmp_path / "a"), "--out", str(tmp_path / "p"))


@pytest.fixture
def done(tmp_path, monkeypatch):
    """A step that is done, and read circuit.json."""
    (tmp_path / "circuit.json").write_text("{}")
    step = Step("big_ds_experiments", ("--n", "3"), tmp_path, tmp_path)
    monkeypatch.setattr("sys.argv", ["big_ds_experiments.py", "--n", "3"])
    run = start_run(step.script, Settings(out=tmp_path), MODEL, "torch", "cpu")
    run.note_read("circuit.json", steps.sha256(tmp_path / "circuit.json"))
    run.save_json("found.json", {}, kind="test")
    run.publish()
    assert is_done(step, MODEL.fingerprint)
    return step


def edit_record(step: Step, **changed: object) -> None:
    made.edit_record(record_path(step.published, step.script), **changed)


def test_another_model_s_step_is_not_done(done):
    assert not is_done(done, "another")


def test_a_step_with_other_arguments_is_not_done(done):
    assert not is_done(Step(done.script, ("--n", "4"), done.published, done.read), MODEL.fingerprint)


@pytest.mark.parametrize("name", ["code_sha256", "versions", "command"])
def test_a_step_of_other_code_is_not_done(done, name):
    edit_record(done, **{name: "another"})
    assert not is_done(done, MODEL.fingerprint)


@pytest.mark.parametrize("file", ["found.json", "circuit.json"])
@pytest.mark.parametrize("spoil", ["changed", "missing"])
def test_a_step_whose_files_are_others_is_not_done(done, file, spoil):
    path = done.published / file
    path.write_text("other") if spoil == "changed" else path.unlink()
    assert not is_done(done, MODEL.fingerprint)


def test_a_step_whose_circuit_s_file_was_edited_is_not_done(tmp_path, monkeypatch):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(as_json(replace(PAPER, name="mine"))))
    step = Step("big_ds_experiments", ("--circuit", str(path)), tmp_path, tmp_path)
    monkeypatch.setattr("sys.argv", ["big_ds_experiments.py", *step.arguments])
    run = start_run(step.script, Settings(out=tmp_path), MODEL, "torch", "cpu")
    run.note_circuit(read_circuit(path))
    run.publish()
    assert is_done(step, MODEL.fingerprint)
    path.write_text(json.dumps(as_json(varied(PAPER, name="mine", heads=PAPER.heads[1:]))))
    assert not is_done(step, MODEL.fingerprint)


def test_a_step_that_could_now_read_more_is_not_done(done):
    edit_record(done, read={"random_circuit_ablation.json": None})
    assert is_done(done, MODEL.fingerprint)
    (done.read / "random_circuit_ablation.json").write_text("{}")
    assert not is_done(done, MODEL.fingerprint)


@pytest.mark.parametrize("spoil", ["changed", "missing"])
def test_figures_without_what_draws_them_are_not_done(done, spoil):
    script = done.published / "plotly.min.js"
    script.write_text("draws")
    edit_record(done, beside={script.name: steps.sha256(script)})
    assert is_done(done, MODEL.fingerprint)
    script.write_text("other") if spoil == "changed" else script.unlink()
    assert not is_done(done, MODEL.fingerprint)
