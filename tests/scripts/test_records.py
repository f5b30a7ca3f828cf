"""What every experiment leaves: numbers under keys, an index of its artifacts, a table of its sentences."""

from __future__ import annotations

import runpy
import sys
from collections import Counter
from pathlib import Path

import pytest

from path_patching.bootstrap import Estimate
from path_patching.circuits.circuit_file import as_json
from path_patching.files import ROOT
from reproduction.claims import read_claims
from reproduction.run import KEY, Artifacts, Run, read_artifacts
from reproduction.steps import EXPERIMENTS
from tests.helpers.experiments import random_gpt2

MORE_FLAGS = {"random_circuit_ablation": ("--circuits", "3")}
WITHOUT_CIRCUIT = ("neuron_investigations", "random_years", "topk_years")
SHARES = ("share_of_clean", "share_lost", "share_of_sum")  # of one mean in another


def run_script(script: str, folder: Path, model: str, n: int, *more: str) -> Counter[str]:
    """Run a script in this process, into a folder. Returns how often it noted each key."""
    noted: Counter[str] = Counter()
    note = Run.note

    def counted(run: Run, key: str, *others: object, **named: object) -> None:
        noted[key] += 1
        note(run, key, *others, **named)

    flags = ["--model", model, "--engine", "torch", "--n", str(n), "--out", str(folder)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Run, "note", counted)
        patched.setattr(sys, "excepthook", sys.excepthook)  # scripts set it
        patched.setenv("TENSORS_CACHE_DIR", str(folder / "tensors"))
        patched.setattr(sys, "argv", [f"{script}.py", *flags, *MORE_FLAGS.get(script, ()), *more])
        runpy.run_path(str(ROOT / f"{script}.py"))
    return noted


@pytest.fixture(scope="module", params=EXPERIMENTS)
def noted_and_made(request, tmp_path_factory) -> tuple[Counter[str], Artifacts]:
    """A run of a script on a random model of two layers: how often each key was noted, and what it left."""
    folder = tmp_path_factory.mktemp(request.param)
    model = random_gpt2(folder / "mine", n_positions=32)
    noted = run_script(request.param, folder / "out", str(model), 97)
    return noted, read_artifacts(folder / "out", request.param)


def test_keys_are_well_formed_and_noted_once(noted_and_made):
    noted, made = noted_and_made
    assert [*noted] == [*made.record["numbers"]]
    assert set(noted.values()) == {1}
    assert all(KEY.fullmatch(key) for key in noted)
    words = [number["words"] for number in made.record["numbers"].values()]
    assert len(set(words)) == len(words)


def test_a_run_that_evaluates_a_circuit_keeps_it_whole(noted_and_made):
    _, made = noted_and_made
    if made.script in WITHOUT_CIRCUIT:
        assert made.circuit is None
    else:
        assert made.record["circuit"] == as_json(made.circuit)
        assert made.circuit.name == made.number("circuit/name")


def test_the_index_says_of_each_artifact_what_it_is(noted_and_made):
    _, made = noted_and_made
    index = made.record["index"]
    assert set(index) == set(made.record["artifacts"])
    assert all(entry["kind"] for entry in index.values())
    told_apart = [tuple(sorted(entry.items())) for entry in index.values()]
    assert len(set(told_apart)) == len(told_apart)


def test_every_mean_is_that_of_a_column_of_the_sentences(noted_and_made):
    _, made = noted_and_made
    (name,) = made.find(kind="sentences_evaluated")
    assert name == f"{made.script}_sentences.csv"
    table = made.load(name)
    evaluations, checked = dict([*table.groupby("evaluation")]), 0
    for key in made.record["numbers"]:
        number = made.number(key)
        evaluation, _, column = key.rpartition("/")
        if isinstance(number, Estimate) and column not in SHARES:
            rows = evaluations[evaluation]
            assert number.value == pytest.approx(rows[column].mean(), abs=1e-12)
            assert number.n == len(rows)
            checked += 1
    assert checked or made.script == "random_circuit_ablation", "it records shares and no mean with an interval"


def test_every_share_of_clean_is_that_of_two_columns(noted_and_made):
    _, made = noted_and_made
    table = made.load(f"{made.script}_sentences.csv")
    for key in made.record["numbers"]:
        number = made.number(key)
        evaluation, _, column = key.removesuffix("/share_of_clean").rpartition("/")
        if key.endswith("/share_of_clean") and column in table and isinstance(number, Estimate):
            means = table.groupby("evaluation")[column].mean()
            clean = means[evaluation.partition("/")[0] if evaluation.startswith("task") else "clean"]
            assert number.value == pytest.approx(means[evaluation] / clean, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("script", EXPERIMENTS)
def test_every_claim_s_key_is_recorded_by_its_script(tmp_path, script):
    """The stand-in has all of the paper's nodes, so that the paper's circuit runs in it."""
    circuit = () if script in WITHOUT_CIRCUIT else ("--circuit", "paper")
    run_script(script, tmp_path / "out", "standin", 97, *circuit)
    made = read_artifacts(tmp_path / "out", script)
    claims = [claim for claim in read_claims() if claim.script == script]
    assert claims
    assert [claim.key for claim in claims if claim.measure(made) is None] == []
