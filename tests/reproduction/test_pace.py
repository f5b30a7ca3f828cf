"""What is left of a run, and about how long it takes: by the last run, or by one that was measured."""

from __future__ import annotations

import sys
import time

import pytest

from path_patching.gpt2.model import Architecture, random_model
from reproduction import steps
from reproduction.experiments import STEPS
from reproduction.pace import MEASURED, STANDIN, UNMEASURED, in_words, time_left, usual_seconds
from reproduction.run import start_run
from reproduction.settings import Settings
from reproduction.steps import Step, to_be_run

MODEL = random_model(Architecture(1, 1, 4, 4, 8, 16, 10))


def test_every_step_was_measured_and_the_stand_in_s_are_in_proportion(tmp_path):
    assert set(MEASURED) <= set(STEPS)
    every = [Step(script, (), tmp_path, tmp_path) for script in MEASURED]
    assert usual_seconds(every, "gpt2") == MEASURED
    assert sum(usual_seconds(every, "standin").values()) == pytest.approx(STANDIN)
    new = Step("a_new_experiment", (), tmp_path, tmp_path)
    assert usual_seconds([*every, new], "gpt2") == MEASURED | {"a_new_experiment": UNMEASURED}


def test_the_last_run_with_the_same_command_counts_before_what_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["topk_years.py", "--n", "7"])
    monkeypatch.setattr("reproduction.terminal.STARTED", time.monotonic() - 1e6)
    start_run("topk_years", Settings(n=7, out=tmp_path), MODEL, "torch", "cpu").publish()
    same, other = (Step("topk_years", ("--n", n), tmp_path, tmp_path) for n in "79")
    assert usual_seconds([same], "gpt2")["topk_years"] == pytest.approx(1e6, rel=0.1)
    assert usual_seconds([other], "gpt2") == {"topk_years": MEASURED["topk_years"]}


def test_what_is_left_takes_as_much_longer_as_what_has_ended():
    usual = {"topk_years": 20.0, "random_years": 10.0, "results": 5.0}
    assert time_left(["random_years", "results"], usual, {}) == 15
    assert time_left(["random_years", "results"], usual, {"topk_years": 60.0}) == 45


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(8, "less than a minute"), (70, "about a minute"), (620, "about 10 min"), (7000, "about 1.9 h")],
)
def test_a_time_is_said_roughly(seconds, words):
    assert in_words(seconds) == words


def test_a_step_that_reads_what_is_made_anew_is_left_too(tmp_path, monkeypatch):
    for script, read in {"topk_years": {}, "random_years": {}, "pca_plots": {"topk_years.json": None}}.items():
        run = start_run(script, Settings(n=7, out=tmp_path), MODEL, "torch", "cpu")
        run.read.update(read)
        run.publish()
    every = [Step(script, (), tmp_path, tmp_path) for script in ("topk_years", "random_years", "pca_plots")]
    monkeypatch.setattr(steps, "is_done", lambda step, fingerprint: step.script != "topk_years")
    assert [each.script for each in to_be_run(every, "")] == ["topk_years", "pca_plots"]
