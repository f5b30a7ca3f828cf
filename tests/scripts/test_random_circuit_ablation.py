from __future__ import annotations

import json
import random

import pytest

from dataset import NOUNS_FILE, YearDataset, get_valid_years, year_indices
from path_patching.circuits.circuit import in_order, late_half
from path_patching.circuits.circuit_file import read_circuit
from path_patching.circuits.random_circuits import random_circuit
from path_patching.engine import Sentences
from path_patching.gpt2.tensor_cache import load_model
from path_patching.gpt2.tokenizer import load_tokenizer
from path_patching.reference import Reference
from reproduction.run import read_artifacts
from tests.helpers.experiments import made_by, random_gpt2, run_experiment
from tests.helpers.scripts import error_line, output
from utils import prob_diff

SCRIPT = "random_circuit_ablation"
N, CIRCUITS = 8, 12
CIRCUIT = {
    "name": "a circuit of three layers",
    "mlps": ["m1", "m2"],
    "heads": ["a0.h1", "a2.h0"],
    "heads_feed": ["logits", "m1"],
    "first_below": ["m0"],
    "further_below": [],
}


def test_each_share_is_that_of_the_definition(tmp_path, monkeypatch):
    checkpoint = random_gpt2(tmp_path / "model", n_layer=3, seed=2)
    file = tmp_path / "circuit.json"
    file.write_text(json.dumps(CIRCUIT))
    flags = ["--circuit", str(file), "--circuits", str(CIRCUITS), "--seed", "3"]
    assert CIRCUIT["name"] in output(run_experiment(SCRIPT, tmp_path, checkpoint, N, *flags))
    artifacts = read_artifacts(tmp_path / "out", SCRIPT)
    found, number = artifacts.load("random_circuits.pt"), artifacts.number

    monkeypatch.setenv("TENSORS_CACHE_DIR", str(tmp_path / "tensors"))
    tokenizer = load_tokenizer()
    dataset = YearDataset(get_valid_years(tokenizer), N, NOUNS_FILE, tokenizer, seed=3)
    model = load_model(str(checkpoint))
    reference = Reference(model, Sentences(dataset.good_toks, dataset.bad_toks, year_indices()))
    circuit, rng = read_circuit(file), random.Random(3)
    drawn = [random_circuit(circuit, model.architecture, rng) for _ in range(CIRCUITS)]

    def difference(*request) -> float:
        return prob_diff(reference.probabilities(*request), dataset.years_YY).mean().item()

    clean = difference(None, "corrupted")
    expected = [difference(late_half(each, dataset.end), "clean") / clean for each in drawn]
    own = difference(late_half(circuit, dataset.end), "clean") / clean
    assert found.shape == (CIRCUITS,)
    assert found.tolist() == pytest.approx(expected, abs=1e-5)
    assert max(expected) - min(expected) > 0.1, "the circuits can be told apart"
    assert number("late_half/probability_difference/share_of_clean").value == pytest.approx(own, abs=1e-5)
    assert number("random_circuits/recover_less") == sum(share < own for share in expected) / CIRCUITS
    nothing = number("corrupted/probability_difference/share_of_clean")
    assert nothing == pytest.approx(difference(None, "clean") / clean, abs=1e-5)
    shares = number("random_circuits/share_of_clean")
    assert (shares["least"], shares["most"]) == pytest.approx((found.min().item(), found.max().item()))
    best = drawn[expected.index(max(expected))]
    assert number("random_circuits/best/nodes_at_end") == [*in_order((*best.mlps, *best.heads))]
    assert number("circuit/nodes_at_end") == [*in_order((*circuit.mlps, *circuit.heads))]
    sentences = artifacts.load("random_circuit_ablation_sentences.csv")
    means = sentences.groupby("evaluation")["probability_difference"].mean()
    of_random = [means[f"random_{place}"] / means["clean"] for place in range(CIRCUITS)]
    assert found.tolist() == pytest.approx(of_random, abs=1e-12)


def test_two_layers_run_with_the_circuit_found_automatically(tmp_path):
    checkpoint = random_gpt2(tmp_path / "model")
    output(run_experiment(SCRIPT, tmp_path, checkpoint, 97, "--circuits", "3"))
    artifacts = read_artifacts(tmp_path / "out", SCRIPT)
    assert artifacts.load("random_circuits.pt").isfinite().all()
    assert artifacts.record["settings"]["circuits"] == 3


@pytest.mark.slow
def test_the_papers_circuit_beats_random_ones_in_the_stand_in(tmp_path):
    artifacts = made_by(SCRIPT, tmp_path, "standin", 97, "--circuit", "paper", "--circuits", "40", "--engine", "torch")
    assert artifacts.number("circuit/name") == "the paper's circuit"
    assert artifacts.load("random_circuits.pt").shape == (40,)
    assert artifacts.number("random_circuits/recover_less") == 1
    assert artifacts.number("late_half/probability_difference/share_of_clean").low > 0.8


def test_no_circuits_are_one_line(tmp_path):
    failed = run_experiment(SCRIPT, tmp_path, "standin", 97, "--circuits", "0")
    assert error_line(failed) == "error: --circuits 0: give at least one random circuit"
