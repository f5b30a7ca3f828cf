from __future__ import annotations

import json
from itertools import combinations, pairwise, product
from pathlib import Path

import pytest
import torch

from path_patching.circuits.circuit import full_circuit
from path_patching.circuits.circuit_file import as_json, from_json, read_circuit
from path_patching.circuits.search import NAME
from path_patching.engine import Request
from path_patching.files import ROOT
from path_patching.paths import Node
from path_patching.unembedding import logit_lens
from reproduction.paper import PAPER
from reproduction.run import Artifacts, read_artifacts
from tests.helpers.experiments import made_by, random_gpt2, run_experiment
from tests.helpers.questions import Questions
from tests.helpers.scripts import output, run_script
from utils import collate, start_experiment

SCRIPT = "circuit_discovery"
OF_EVERY_CIRCUIT = {
    "dataset.pt", "probs.pt", "ipp_logits.pt", "sweep_intervals.pt", "attn_collated.pt", "attn_patterns_all.pt",
    "late_half_probs.pt", "full_circuit_probs.pt", "circuit.json", "circuit_discovery_sentences.csv",
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
        "sweep_intervals.pt",
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
    assert printed.count("left out: results by YY; of 12 sentences none has YY = 14") == 1
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


# Every artifact holds what its name asks

OF_THREE_LAYERS = {
    "name": "of three layers",
    "mlps": ["m1", "m2"],
    "heads": ["a1.h0", "a2.h1"],
    "heads_feed": ["logits", "m1", "m2"],
    "first_below": ["m0", "m1", "a0.h1"],
    "further_below": ["m0", "a0.h0"],
    "studied": ["a2.h1", "a1.h0"],
}
LATE_HALF = (
    "a1.h0 → logits; a1.h0 → m1 → logits; a1.h0 → m2 → logits; a1.h0 → m1 → m2 → logits; "
    "a2.h1 → logits; a2.h1 → m2 → logits"
)
SWEEPS = {  # by artifact: the receivers, where the senders stand, and through which input they are read
    "ipp_logits.pt": ("logits", "END", ""),
    "ipp_mlp1.pt": ("m1 → logits; m1 → m2 → logits", "END", ""),
    "ipp_mlp2.pt": ("m2 → logits", "END", ""),
    "attn_q.pt": (LATE_HALF, "END", "q"),
    "attn_k.pt": (LATE_HALF, "YY", "k"),
    "attn_v.pt": (LATE_HALF, "YY", "v"),
    "results_mlp0.pt": ("; ".join(f"m0@YY →v {path}" for path in LATE_HALF.split("; ")), "YY", ""),
    "results_mlp1.pt": ("m1@YY →v a2.h1 → logits; m1@YY →v a2.h1 → m2 → logits", "YY", ""),
}


@pytest.fixture(scope="module")
def of_three_layers(tmp_path_factory) -> tuple[Artifacts, Questions]:
    """A run on a random model with a circuit that is given, and what questions to that model are answered."""
    folder = tmp_path_factory.mktemp("three layers")
    (folder / "circuit.json").write_text(json.dumps(OF_THREE_LAYERS))
    model = random_gpt2(folder / "model", n_layer=3, seed=2)
    flags = ("--engine", "torch", "--circuit", str(folder / "circuit.json"))
    made = made_by(SCRIPT, folder, model, 97, *flags)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TENSORS_CACHE_DIR", str(folder / "tensors"))
        return made, Questions(start_experiment(model=str(model), n=97, engine="torch"))


def test_each_sweep_is_the_one_that_its_name_asks_for(of_three_layers):
    made, questions = of_three_layers
    assert {*made.find(kind="sweep")} == {*SWEEPS}
    expected = {name: questions.swept(*asked) for name, asked in SWEEPS.items()}
    for name, effects in expected.items():
        torch.testing.assert_close(made.load(name), effects, rtol=0, atol=1e-6, msg=name)
        assert made.record["index"][name]["position"] == SWEEPS[name][1]
    apart = [(one - other).abs().max() for one, other in combinations(expected.values(), 2)]
    assert min(apart) > 1e-4, "the sweeps can be told apart"


def test_each_effect_of_a_sweep_has_the_interval_of_its_paths(of_three_layers):
    made, questions = of_three_layers
    intervals = made.load("sweep_intervals.pt")
    assert {*intervals} == {*SWEEPS}
    for name, (receivers, place, via) in SWEEPS.items():
        paths = "; ".join(f"a0.h1@{place} →{via} {path}" for path in receivers.split("; "))
        effect = questions.experiment.effect(questions.paths(paths))
        assert made.load(name)[0, 1].item() == pytest.approx(effect.value, abs=1e-6)
        # float32 sums of another order differ by some 1e-7 of a probability, and so do the ends of 2,000 draws
        assert intervals[name][0, 1].tolist() == pytest.approx([effect.low, effect.high], abs=1e-6), name
        assert intervals[name].shape == (3, 3, 2)


def test_the_record_names_the_line_of_each_artifact_s_cell(of_three_layers):
    made, _ = of_three_layers
    lines = (ROOT / f"{SCRIPT}.py").read_text().splitlines()
    cells = {name: about["cell"] for name, about in made.record["index"].items()}
    for name, calls in {
        "ipp_logits.pt": '"ipp_logits.pt"',
        "attn_k.pt": 'patch_every_node(f"attn_',
        "probs.pt": '"probs',
    }.items():
        file, _, number = cells[name].partition(":")
        assert file == f"{SCRIPT}.py"
        assert calls in lines[int(number) - 1], "the call in the cell, not the function that it calls"


def test_each_evaluation_is_the_one_that_its_name_asks_for(of_three_layers):
    made, questions = of_three_layers
    experiment, late = questions.experiment, questions.paths(LATE_HALF)
    full = full_circuit(from_json(OF_THREE_LAYERS), experiment.YY, experiment.END)
    requests = {
        "clean": Request.clean(),
        "corrupted": Request.corrupted(),
        "late_half": Request.isolate(late),
        "late_half/without": Request.patch(late),
        "full_circuit": Request.isolate(full),
        "full_circuit/without": Request.patch(full),
    }
    found = dict(zip(requests, experiment.engine.evaluate([*requests.values()]), strict=True))
    means = {key: experiment.metric(probs).mean().item() for key, probs in found.items()}
    noted = {key: made.number(f"{key}/probability_difference").value for key in requests}
    assert noted == pytest.approx(means, abs=1e-6)
    assert min(b - a for a, b in pairwise(sorted(means.values()))) > 1e-4, "the evaluations can be told apart"
    for key in ("late_half", "full_circuit"):
        share = made.number(f"{key}/probability_difference/share_of_clean").value
        assert share == pytest.approx(means[key] / means["clean"], abs=1e-5)
    heatmaps = {"probs.pt": "clean", "late_half_probs.pt": "late_half", "full_circuit_probs.pt": "full_circuit"}
    assert {name: each["evaluation"] for name, each in made.find(kind="probabilities").items()} == heatmaps
    for name, key in heatmaps.items():
        by_yy = collate(found[key], experiment.dataset.years_YY)
        torch.testing.assert_close(made.load(name), by_yy, rtol=0, atol=1e-6)


def test_attention_is_that_of_the_circuit_s_heads_and_of_all_heads_on_20_sentences(of_three_layers):
    made, questions = of_three_layers
    experiment = questions.experiment
    for head, place in {"a2.h1": (2, 1), "a1.h0": (1, 0)}.items():
        (pattern,) = experiment.engine.attention([place])
        torch.testing.assert_close(made.load(f"attn_patterns_{head}.pt"), pattern.mean(0))
        to_yy = pattern[:, experiment.END, experiment.YY].mean().item()
        assert made.number(f"attention/{head}/end_to_yy").value == pytest.approx(to_yy)
    (first,) = experiment.engine.attention([(2, 1)])
    torch.testing.assert_close(made.load("attn_collated.pt"), collate(first, experiment.dataset.years_YY))
    assert made.number("attention/collated/head") == "a2.h1"
    every = made.load("attn_patterns_all.pt")
    assert every["prompt"] == [*experiment.dataset.good_prompt]
    for layer, head in product(range(3), range(2)):
        expected = experiment.engine.attention([(layer, head)])[0][:20]
        torch.testing.assert_close(every["patterns"][layer, head], expected)


def test_a_logit_lens_is_that_of_what_its_node_writes_at_end(of_three_layers):
    made, questions = of_three_layers
    experiment = questions.experiment
    start_yy, answers = experiment.dataset.years_YY, experiment.engine.sentences.answers
    lenses = {"a2.h1": "a2.h1", "a1.h0": "a1.h0", "m1": "mlp1", "m2": "mlp2"}
    assert {*made.find(kind="logit_lens")} == {f"logit_lens_{file}.pt" for file in lenses.values()}
    for node, file in lenses.items():
        written = experiment.engine.writes([Node.named(node, experiment.END)])
        (logits,) = logit_lens(written, experiment.model, answers)
        torch.testing.assert_close(made.load(f"logit_lens_{file}.pt"), collate(logits, start_yy))
        pairs = zip(logits, start_yy, strict=True)
        later = torch.stack([row[yy + 1 :].mean() - row[: yy + 1].mean() for row, yy in pairs]).mean().item()
        assert made.number(f"logit_lens/{node}/later_above_others").value == pytest.approx(later, abs=1e-6)
        highest = (logits.argmax(1) == start_yy).double().mean().item()
        assert made.number(f"logit_lens/{node}/yy_is_highest").value == highest
