from __future__ import annotations

import json
import weakref
from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
import torch
from transformers import GPT2LMHeadModel

from dataset import COLLATED_YY, NOUNS_FILE, YearDataset, get_valid_years, year_indices
from path_patching.circuits.circuit import full_circuit, late_half
from path_patching.circuits.circuit_file import read_circuit
from path_patching.engine import Engine, Request, Sentences
from path_patching.gpt2.tensor_cache import load_model
from path_patching.gpt2.tokenizer import load_tokenizer
from path_patching.paths import Node, PathSet
from path_patching.reference import Reference
from reproduction.run import read_artifacts
from tests.helpers.experiments import random_gpt2, run_experiment
from tests.helpers.scripts import output
from utils import cutoff_sharpness, prob_diff

SCRIPT = "big_ds_experiments"
TABLE = "big_ds_experiments_sentences.csv"
MANY = 600  # sentences, among which each YY is drawn
HEATMAPS = ("clean_probs.pt", "patched_probs.pt", "complement_probs.pt", "full_patched_probs.pt")
CIRCUIT = {
    "name": "a circuit of two layers",
    "mlps": ["m1"],
    "heads": ["a0.h1", "a1.h0"],
    "heads_feed": ["logits", "m1"],
    "first_below": ["m0", "a0.h0"],
    "further_below": ["a0.h0"],
}


def drawn(n: int) -> YearDataset:
    tokenizer = load_tokenizer()
    return YearDataset(get_valid_years(tokenizer), n, NOUNS_FILE, tokenizer, balanced=False, seed=0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A random model of two layers of two heads, with a circuit of it beside."""
    folder = random_gpt2(tmp_path_factory.mktemp("two layers"), different_tokens=50257)
    (folder / "circuit.json").write_text(json.dumps(CIRCUIT))
    return folder


def test_every_evaluation_is_that_of_the_definition(checkpoint, tmp_path, monkeypatch):
    n = 12
    printed = output(run_experiment(SCRIPT, tmp_path, checkpoint, n, "--circuit", str(checkpoint / "circuit.json")))
    assert f"left out: results by YY; of {n} sentences none has YY = " in printed
    artifacts = read_artifacts(tmp_path / "out", SCRIPT)
    assert set(artifacts.record["artifacts"]) == {TABLE}
    assert artifacts.number("circuit/name") == CIRCUIT["name"]

    monkeypatch.setenv("TENSORS_CACHE_DIR", str(checkpoint.parent / "tensors"))
    dataset = drawn(n)
    end, start_yy = dataset.end, dataset.years_YY
    reference = Reference(load_model(str(checkpoint)), Sentences(dataset.good_toks, dataset.bad_toks, year_indices()))
    circuit = read_circuit(checkpoint / "circuit.json")
    late = late_half(circuit, end)
    values = late.extend([Node.residual(position) for position in range(end + 1)], via="v")
    expected = {
        "clean": reference.probabilities(inside="corrupted"),
        "corrupted": reference.probabilities(inside="clean"),
        "late_half": reference.probabilities(late, "clean"),
        "late_half/without": reference.probabilities(late, "corrupted"),
        "full_circuit": reference.probabilities(full_circuit(circuit, dataset.yy_position, end), "clean"),
        "late_half/values_alone": reference.probabilities(values, "clean"),
    }
    differences = {name: prob_diff(probs, start_yy) for name, probs in expected.items()}
    clean = differences["clean"].mean().item()
    for name, difference in differences.items():
        found = artifacts.number(f"{name}/probability_difference")
        assert found.value == pytest.approx(difference.mean().item(), abs=1e-6)
        spread = artifacts.number(f"{name}/probability_difference/standard_deviation")
        assert spread == pytest.approx(difference.std(correction=0).item(), abs=1e-6)
        assert found.low < found.value < found.high
        sharpness = cutoff_sharpness(expected[name], start_yy).mean().item()
        assert artifacts.number(f"{name}/cutoff_sharpness").value == pytest.approx(sharpness, abs=1e-6)
        if name != "clean":
            share = artifacts.number(f"{name}/probability_difference/share_of_clean")
            assert share.value == pytest.approx(difference.mean().item() / clean, abs=1e-5)
    means = sorted(difference.mean().item() for difference in differences.values())
    assert min(b - a for a, b in pairwise(means)) > 1e-4, "the evaluations can be told apart"
    of_values = differences["late_half/values_alone"].mean().item()
    lost = artifacts.number("late_half/queries_and_keys/share_lost").value
    assert lost == pytest.approx(1 - of_values / differences["late_half"].mean().item(), abs=1e-5)


def test_of_any_links_the_heads_queries_and_keys_alone_are_taken_away(checkpoint, tmp_path, monkeypatch):
    """m0 reads the embeddings beside the heads, which is no query or key of theirs."""
    n, file = 12, tmp_path / "theirs.txt"
    links = ["m1 → logits", "a1.h0 → m1", "m0 → m1", "embeds → m0", "m0 →k a1.h0", "a0.h1 →q a1.h0", "embeds →v a0.h1"]
    file.write_text("\n".join(links))
    output(run_experiment(SCRIPT, tmp_path, checkpoint, n, "--circuit", str(file)))
    artifacts = read_artifacts(tmp_path / "out", SCRIPT)

    monkeypatch.setenv("TENSORS_CACHE_DIR", str(checkpoint.parent / "tensors"))
    dataset = drawn(n)
    reference = Reference(load_model(str(checkpoint)), Sentences(dataset.good_toks, dataset.bad_toks, year_indices()))
    head, other = "a1.h0 → m1 → logits", "embeds → m0 → m1 → logits"
    values = "; ".join(f"residual@{at} →v {head}" for at in range(dataset.end + 1))
    parts = {
        "late_half": PathSet.parse(f"{other}; {head}", end=dataset.end),
        "late_half/values_alone": PathSet.parse(f"{other}; {values}", end=dataset.end),
        "full_circuit": full_circuit(read_circuit(file), dataset.yy_position, dataset.end),
    }
    for key, paths in parts.items():
        expected = prob_diff(reference.probabilities(paths, "clean"), dataset.years_YY).mean().item()
        assert artifacts.number(f"{key}/probability_difference").value == pytest.approx(expected, abs=1e-6)


def test_without_heads_there_is_no_query_to_take_away(checkpoint, tmp_path):
    file = tmp_path / "mlps.txt"
    file.write_text("input->m0\nm0->m1\nm1->logits")
    printed = output(run_experiment(SCRIPT, tmp_path, checkpoint, 12, "--circuit", str(file)))
    assert "left out: what queries and keys cost; the late half of mlps has no heads" in printed
    numbers = read_artifacts(tmp_path / "out", SCRIPT).record["numbers"]
    assert "full_circuit/probability_difference" in numbers
    assert not any("queries_and_keys" in key or "values_alone" in key for key in numbers)


def test_an_mlp_s_direct_and_indirect_effects_are_those_of_the_definition(tmp_path, monkeypatch):
    """Three layers, so that a chain of two later MLPs is among the paths; they are written out one by one here."""
    checkpoint, n = random_gpt2(tmp_path / "three layers", n_layer=3, seed=2, different_tokens=50257), 12
    described = CIRCUIT | {"mlps": ["m0", "m1", "m2"], "heads_feed": ["logits", "m0", "m1", "m2"]}
    (tmp_path / "circuit.json").write_text(json.dumps(described))
    output(run_experiment(SCRIPT, tmp_path, checkpoint, n, "--circuit", str(tmp_path / "circuit.json")))
    artifacts = read_artifacts(tmp_path / "out", SCRIPT)

    monkeypatch.setenv("TENSORS_CACHE_DIR", str(checkpoint.parent / "tensors"))
    dataset = drawn(n)
    reference = Reference(load_model(str(checkpoint)), Sentences(dataset.good_toks, dataset.bad_toks, year_indices()))
    clean = prob_diff(reference.probabilities(), dataset.years_YY).mean().item()
    paths = {
        "m0/direct": "m0 → logits",
        "m0/indirect": "m0 → m1 → logits; m0 → m2 → logits; m0 → m1 → m2 → logits",
        "m1/direct": "m1 → logits",
        "m1/indirect": "m1 → m2 → logits",
        "m2/direct": "m2 → logits",
    }
    shares = {}
    for key, text in paths.items():
        patched = reference.probabilities(PathSet.parse(text, end=dataset.end), "corrupted")
        shares[key] = 1 - prob_diff(patched, dataset.years_YY).mean().item() / clean
    found = {key: artifacts.number(f"mlps/{key}/share_of_clean") for key in paths}
    assert {key: each.value for key, each in found.items()} == pytest.approx(shares, abs=1e-5)
    assert all(each.low < each.value < each.high for each in found.values())
    assert min(b - a for a, b in pairwise(sorted(shares.values()))) > 1e-4, "the effects can be told apart"
    assert artifacts.number("mlps/m2/indirect/share_of_clean") is None, "nothing lies between the last and the logits"


@pytest.fixture(scope="module")
def with_heatmaps(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("heatmaps")
    assert "left out" not in output(run_experiment(SCRIPT, folder, checkpoint, MANY, "--engine", "torch"))
    return read_artifacts(folder / "out", SCRIPT)


def test_rows_of_the_heatmaps_average_to_the_means(with_heatmaps):
    assert set(with_heatmaps.record["artifacts"]) == {*HEATMAPS, TABLE}
    start_yy = drawn(MANY).years_YY
    weights = torch.tensor([(start_yy == yy).sum() for yy in COLLATED_YY], dtype=torch.float64) / MANY
    names = ("clean", "late_half", "late_half/without", "full_circuit")
    for artifact, name in zip(HEATMAPS, names, strict=True):
        rows = with_heatmaps.load(artifact)
        assert rows.shape == (97, 100)
        for metric, measure in (
            ("probability_difference", prob_diff),
            ("cutoff_sharpness", cutoff_sharpness),
        ):
            mean = (measure(rows, torch.tensor(COLLATED_YY)) * weights).sum().item()
            assert with_heatmaps.number(f"{name}/{metric}").value == pytest.approx(mean, abs=1e-9)


def test_the_clean_heatmap_is_that_of_transformers(with_heatmaps, checkpoint):
    dataset = drawn(MANY)
    model = GPT2LMHeadModel.from_pretrained(checkpoint).eval()
    for yy in (2, 57, 98):
        sentences = dataset.good_toks[yy == dataset.years_YY]
        with torch.no_grad():
            logits = model(sentences).logits[:, -1].double()
        expected = logits.softmax(-1)[:, year_indices()].mean(0)
        torch.testing.assert_close(with_heatmaps.load("clean_probs.pt")[yy - 2], expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_the_stand_in_runs_with_the_paper_s_names(standin_made):
    artifacts = standin_made(SCRIPT)
    assert artifacts.number("clean/probability_difference").value > 0.8
    assert artifacts.number("circuit/name") == "the paper's circuit"


def test_the_paper_s_circuit_in_a_smaller_model_is_one_line(checkpoint, tmp_path):
    failed = run_experiment(SCRIPT, tmp_path, checkpoint, 12, "--circuit", "paper", "--engine", "torch")
    assert failed.returncode == 1
    assert len(failed.stderr.splitlines()) == 1
    assert "2 layers of 2 heads" in failed.stderr


def test_memory_does_not_grow_with_the_sentences(checkpoint, tmp_path, monkeypatch):
    """Of all requests, the probabilities of two parts at most are there at a time; those of all sentences never."""
    alive: list[weakref.ref[torch.Tensor]] = []
    most, whole = [], []
    evaluate, in_parts = Engine.evaluate, Engine.evaluate_in_parts

    def evaluated(engine: Engine, requests: Sequence[Request]) -> torch.Tensor:
        whole.append(len(requests) if len(engine.sentences) == 97 else 0)
        return evaluate(engine, requests)

    def watched(engine: Engine, requests: Sequence[Request]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for rows, probs in in_parts(engine, requests):
            alive.append(weakref.ref(probs))
            most.append(sum(each() is not None for each in alive))
            yield rows, probs

    monkeypatch.setattr(Engine, "evaluate", evaluated)
    monkeypatch.setattr(Engine, "evaluate_in_parts", watched)
    flags = ("--engine", "torch", "--circuit", str(checkpoint / "circuit.json"), "--memory-gb", "0.0004")
    output(run_experiment(SCRIPT, tmp_path, checkpoint, 97, *flags))
    assert len(most) > 9
    assert max(most) <= 2, "one is looked at, and the next is there"
    assert max(whole) <= 1
