"""The example of a task that is not years: it runs on any model, and a model that learned the task has a circuit."""

from __future__ import annotations

import re

import pytest

from examples import colour_model
from path_patching.files import ROOT
from path_patching.gpt2.tokenizer import load_tokenizer
from tests.helpers.experiments import random_gpt2
from tests.helpers.scripts import output, run_script

SCRIPT = ROOT / "examples" / "own_task.py"


def test_words_are_one_token_so_that_sentences_are_of_one_length():
    tokenizer = load_tokenizer()
    every = [colour_model.sentence(thing, colour) for thing in colour_model.THINGS for colour in colour_model.COLOURS]
    assert len({len(tokenizer(sentence).input_ids) for sentence in every}) == 1


def test_it_runs_on_any_model(tmp_path):
    model = random_gpt2(tmp_path / "mine")
    flags = ["--model", str(model), "--n", "12", "--out", str(tmp_path / "out")]
    printed = output(run_script(SCRIPT, *flags, settings={"TENSORS_CACHE_DIR": str(tmp_path / "tensors")}))
    assert "corrupted: '<|endoftext|> The" in printed
    assert "full circuit alone" in printed
    assert len(re.findall(r"; bar: .*; (?:passed|failed|not judged)", printed)) == 11
    assert "Repeating a colour, mine" in (tmp_path / "out" / "own-task.html").read_text()


@pytest.mark.slow
def test_a_model_that_learned_the_task_has_a_circuit_for_it(tmp_path):
    folder = tmp_path / "out"
    flags = ["--n", "30", "--engine", "torch", "--out", str(folder)]
    printed = output(run_script(SCRIPT, *flags, settings={"TENSORS_CACHE_DIR": str(tmp_path / "tensors")}))
    clean = float(re.search(r"^colour-model: clean ([\d.]+)", printed, re.MULTILINE)[1])
    assert clean > 4, "the model has learned to repeat the colour"
    late = float(re.search(r"^late half alone: .*, ([-−\d.]+) % of clean", printed, re.MULTILINE)[1])
    assert late > 80
    bars = dict(re.findall(r"(\S.*\?).*; bar: .*; (passed|failed|not judged)", printed))
    assert bars["full circuit: does it alone do what the model does?"] == "passed"
    assert bars["late half alone, any layers: do random circuits of its shape do less?"] in (
        "passed",
        "failed",
    )  # enough are drawn
    assert (folder / "colour-model" / "config.json").is_file()
