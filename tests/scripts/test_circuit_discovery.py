from __future__ import annotations

import json
from pathlib import Path

import pytest

from path_patching.circuits.circuit_file import as_json, read_circuit
from path_patching.circuits.search import NAME
from path_patching.files import ROOT
from reproduction.paper import PAPER
from reproduction.run import read_artifacts
from tests.helpers.experiments import random_gpt2, run_experiment
from tests.helpers.scripts import output, run_script

SCRIPT = "circuit_discovery"
OF_EVERY_CIRCUIT = {
    "dataset.pt", "probs.pt", "ipp_logits.pt", "attn_collated.pt", "attn_patterns_all.pt", "late_half_probs.pt",
    "full_circuit_probs.pt", "circuit.json", "circuit_discovery_sentences.csv",
}  # fmt: skip
OF_THE_PAPERS = OF_EVERY_CIRCUIT | {
    *(f"ipp_mlp{layer}.pt" for layer in range(8, 12)), *(f"logit_lens_mlp{layer}.pt" for layer in range(8, 12)),
    *(f"results_mlp{layer}.pt" for layer in range(4)), "attn_q.pt", "attn_k.pt", "attn_v.pt",
    "attn_patterns_a7.h10.pt", "attn_patterns_a8.h11.pt",
    "logit_lens_a7.h10.pt", "logit_lens_a8.h11.pt", "logit_lens_a9.h1.pt",
}  # fmt: skip
SHAPES = {
    "ipp": (12, 13), "results": (12, 13), "attn_q": (12, 13), "attn_k": (12, 13), "attn_v": (12, 13),
    "logit": (97, 100), "probs": (97, 100), "late": (97, 100), "full": (97, 100),
    "attn_collated": (97, 13, 13), "attn_patterns_a": (13, 13),
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A random model of two layers of two heads."""
    return random_gpt2(tmp_path_factory.mktemp("two layers"))


@pytest.mark.slow
def test_the_papers_circuit_leaves_the_artifacts_of_the_paper(standin_made):
    artifacts = standin_made(SCRIPT)
    assert set(artifacts.record["artifacts"]) == OF_THE_PAPERS
    assert artifacts.number("circuit/name") == PAPER.name
    assert read_circuit(artifacts.folder / "circuit.json") == PAPER
    described = artifacts.load("circuit.json")
    assert "search" not in described
    for name in OF_THE_PAPERS - {
        "circuit.json",
        "circuit_discovery_sentences.csv",
        "dataset.pt",
        "attn_patterns_all.pt",
    }:
        shape = next(shape for beginning, shape in SHAPES.items() if name.startswith(beginning))
        tensor = artifacts.load(name)
        assert tensor.shape == shape, name
        assert tensor.isfinite().all(), name
    assert artifacts.load("attn_patterns_all.pt")["patterns"].shape == (12, 12, 20, 13, 13)
    # The drawing's links and the sweeps measure the same, in two ways.
    effects = {(each["sender"], each["reader"]): each["effect"] for each in described["links"]}
    to_m9 = artifacts.load("ipp_mlp9.pt")
    assert effects["a7.h10@END", "m9@END"] == pytest.approx(to_m9[7, 10].item(), abs=1e-6)
    assert effects["m8@END", "m9@END"] == pytest.approx(to_m9[8, 12].item(), abs=1e-6)


def test_a_small_model_gets_a_circuit_of_its_own(checkpoint, tmp_path):
    printed = output(run_experiment(SCRIPT, tmp_path, checkpoint, 97))
    artifacts = read_artifacts(tmp_path / "out", SCRIPT)
    circuit = read_circuit(tmp_path / "out" / "circuit.json")
    assert artifacts.number("circuit/name") == circuit.name == NAME
    assert set(artifacts.record["artifacts"]) >= OF_EVERY_CIRCUIT
    sweeps = artifacts.find(kind="sweep", of="mlp", position="END")
    assert {*sweeps} == {f"ipp_mlp{mlp[1:]}.pt" for mlp in circuit.mlps}
    assert {entry["receiver"] for entry in sweeps.values()} == {*circuit.mlps}
    assert artifacts.load("ipp_logits.pt").shape == (2, 3)
    assert "threshold" in printed
    steps = artifacts.load("circuit.json")["search"]["steps"]
    assert steps[0]["asked"] == "nodes at END → logits"
    decided = steps[0]["kept"] | steps[0]["left out"]
    table = artifacts.load("ipp_logits.pt")
    assert decided == {
        f"a{layer}.h{column}" if column < 2 else f"m{layer}": table[layer, column].item()
        for layer in range(2)
        for column in range(3)
    }


def test_a_circuit_from_a_file_is_followed(checkpoint, tmp_path):
    described = as_json(PAPER) | {"name": "mine", "mlps": ["m1"], "heads": ["a0.h1"], "heads_feed": ["m1"]}
    described |= {"first_below": ["embeds"], "further_below": [], "studied": []}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(described))
    printed = output(run_experiment(SCRIPT, tmp_path, checkpoint, 97, "--circuit", str(path), "--engine", "torch"))
    artifacts = read_artifacts(tmp_path / "out", SCRIPT)
    made = {"ipp_mlp1.pt", "attn_patterns_a0.h1.pt", "logit_lens_a0.h1.pt", "logit_lens_mlp1.pt"}
    assert set(artifacts.record["artifacts"]) == OF_EVERY_CIRCUIT | made
    assert "left out: attn_q.pt; no head" in printed
    assert artifacts.number("circuit/name") == "mine"


def test_with_few_sentences_what_needs_every_yy_is_left_out_of_the_run_and_of_its_figures(checkpoint, tmp_path):
    printed = output(run_experiment(SCRIPT, tmp_path, checkpoint, 12, "--engine", "torch"))
    assert printed.count("left out: what is made for each YY; of 12 sentences none has YY = 14") == 1
    made = read_artifacts(tmp_path / "out", SCRIPT)
    assert made.find(kind="sweep")
    assert not any(made.find(kind=kind) for kind in ("probabilities", "logit_lens", "attention_by_yy"))
    flags = ["--artifacts", str(tmp_path / "out"), "--out", str(tmp_path / "plots")]
    drawn = output(run_script(ROOT / "circuit_discovery_plotting.py", *flags, images=False))
    assert "left out: the probability heatmap, for which circuit_discovery.py had too few sentences" in drawn
    assert (tmp_path / "plots" / "logits-ipp.html").is_file()
    assert not (tmp_path / "plots" / "probability-heatmap.html").exists()


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--circuit", "paper"], "the paper's circuit has m8"),
        (["--circuit", "none.json", "--threshold", "0.1"], "--threshold is for --circuit auto"),
        (["--threshold", "0"], "give a share between 0 and 1"),
    ],
)
def test_what_cannot_be_is_one_line(flags, complaint, checkpoint, tmp_path):
    run = run_experiment(SCRIPT, tmp_path, checkpoint, 97, *flags, "--engine", "torch")
    assert run.returncode == 1
    assert complaint in run.stderr.splitlines()[-1]
    assert len(run.stderr.splitlines()) == 1
    assert not list((tmp_path / "out").glob("*.pt"))
