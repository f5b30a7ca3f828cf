"""The other prompts as a user runs them: the experiment, then its figures; numbers had once more in another way."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch

from dataset import year_indices
from path_patching.engine import Engine, Request, Sentences
from path_patching.files import ROOT
from path_patching.gpt2.model import end_logits, to_transformers
from path_patching.gpt2.tensor_cache import load_model
from path_patching.gpt2.tokenizer import load_tokenizer
from path_patching.paths import Node, PathSet
from path_patching.torch_engine.engine import TorchEngine
from path_patching.unembedding import answer_probabilities
from tasks.prompts import TASKS, TaskDataset, build
from tests.helpers.checkpoints import save_checkpoint
from tests.helpers.experiments import made_by, random_gpt2
from tests.helpers.scripts import output, run_script
from utils import prob_diff, start_experiment

EVERY_TASK, EVALUATED = range(10), (0, 2, 8, 9)
PAPERS_HEADS = ((5, 1), (5, 5), (6, 9), (7, 10), (8, 8), (8, 11), (9, 1))
COMPARISONS = {f"{name}-{kind}" for name in ("success", "failure", "bc") for kind in ("probs", "ipps")}
OF_EACH_TASK = {f"generalization-{kind}-{task}" for kind in ("probs", "ipp") for task in EVERY_TASK}


def generalize(folder: Path, *arguments: str):
    """Run the experiment with the engine that is quick for one run, into a folder."""
    script = ROOT / "sequence_generalization.py"
    cache_setting = {"TENSORS_CACHE_DIR": str(folder.parent / "cache")}
    return run_script(script, "--engine", "torch", "--out", str(folder), *arguments, settings=cache_setting)


@pytest.fixture
def standin(standin_made):
    """The folder of a run on the stand-in with the paper's circuit."""
    return standin_made("sequence_generalization").folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A random GPT-2 of two layers of two heads, which the paper's names do not fit."""
    folder = tmp_path_factory.mktemp("small") / "two-layers"
    return random_gpt2(folder, n_positions=32)


@pytest.fixture(scope="module")
def of_small(small, tmp_path_factory):
    """The folder of a run on the small model, with whatever circuit is found in it."""
    folder = tmp_path_factory.mktemp("of-small") / "run"
    output(generalize(folder, "--model", str(small), "--n", "97"))
    return folder


@pytest.fixture(scope="module")
def model():
    return load_model("standin")


@cache
def sentences(number: int) -> TaskDataset:
    return build(TASKS[number], load_tokenizer())


def engine_for(model, number: int) -> Engine:
    data = sentences(number)
    return TorchEngine(model, Sentences(data.good_toks, data.bad_toks, year_indices()))


def load(folder: Path, name: str) -> torch.Tensor:
    return torch.load(folder / "generalization" / f"{name}.pt", weights_only=True)


def record(folder: Path) -> dict:
    return json.loads((folder / "sequence_generalization.json").read_text())


@pytest.mark.slow
def test_every_artifact_is_made(standin):
    names = {f"{kind}_{task}" for kind in ("probs", "ipp") for task in EVERY_TASK}
    names |= {f"{kind}_{task}" for kind in ("m8", "late_half_probs") for task in EVALUATED}
    names |= {"m7_2", "late_half_m7_probs_2"}
    table = "sequence_generalization_sentences.csv"
    assert set(record(standin)["artifacts"]) == {table, *(f"generalization/{name}.pt" for name in names)}
    for name in names:
        assert load(standin, name).shape == ((97, 100) if "probs" in name else (12, 13))


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 3, 9])
def test_probabilities_are_those_of_transformers(standin, model, number):
    data = sentences(number)
    expected = answer_probabilities(end_logits(to_transformers(model), data.good_toks), year_indices())
    found = load(standin, f"probs_{number}")
    assert torch.allclose(found[data.years_YY - 2], expected, atol=1e-6)
    assert found.isnan().all(1).sum() == 97 - len(expected)
    noted = record(standin)["numbers"][f"task_{number}/probability_difference"]["value"]
    difference = prob_diff(expected, data.years_YY, "less" if number in (3, 6, 7) else "greater")
    assert noted == pytest.approx(difference.mean().item(), abs=1e-6)


@pytest.mark.slow
def test_the_late_half_with_m7_is_every_chain_of_its_mlps(standin, model):
    END = sentences(2).end  # noqa: N806
    mlps, heads = [Node.mlp(layer, END) for layer in range(7, 12)], (*PAPERS_HEADS, (6, 1), (7, 11))
    late = PathSet.at(Node.logits(END)).through_chains(mlps).extend([Node.head(*head, END) for head in heads])
    expected = engine_for(model, 2).isolate(late)
    torch.testing.assert_close(load(standin, "late_half_m7_probs_2"), expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_shares_are_of_the_same_task_s_clean_run(standin):
    numbers = record(standin)["numbers"]
    for task in EVALUATED:
        clean = numbers[f"task_{task}/probability_difference"]["value"]
        alone = numbers[f"task_{task}/late_half/probability_difference"]["value"]
        share = numbers[f"task_{task}/late_half/probability_difference/share_of_clean"]
        assert share["value"] == pytest.approx(alone / clean)
        assert share["low"] < share["value"] < share["high"]


def test_a_small_model_has_a_circuit_of_its_own(of_small):
    made = set(record(of_small)["artifacts"])
    assert {f"generalization/{kind}_{task}.pt" for kind in ("probs", "ipp") for task in EVERY_TASK} <= made
    assert {f"generalization/late_half_probs_{task}.pt" for task in EVALUATED} <= made
    assert not any("m7" in name or "m8" in name for name in made)
    assert load(of_small, "ipp_0").shape == (2, 3)


def test_a_model_too_short_for_a_task_ends_the_run_with_one_line(tmp_path):
    short = save_checkpoint(tmp_path / "short", n_layer=2, n_head=2, n_embd=8, n_positions=16, vocab_size=50257)
    run = generalize(tmp_path / "run", "--model", str(short), "--n", "97")
    assert run.returncode == 1
    assert run.stderr == "error: sentences of 18 tokens; short takes at most 16\n"
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".sequence_generalization.lock"]


# Each artifact is of the task and the question that its name says

OF_THREE_LAYERS = {
    "name": "of three layers",
    "mlps": ["m1", "m2"],
    "heads": ["a1.h0", "a2.h1"],
    "heads_feed": ["logits", "m1", "m2"],
    "first_below": ["m0"],
    "further_below": [],
}
LATE_HALF = (
    "a1.h0 → logits; a1.h0 → m1 → logits; a1.h0 → m2 → logits; a1.h0 → m1 → m2 → logits; "
    "a2.h1 → logits; a2.h1 → m2 → logits"
)


@pytest.fixture(scope="module")
def of_three_layers(tmp_path_factory):
    """A run on a random model with a circuit that is given, and an engine of that model."""
    folder = tmp_path_factory.mktemp("three layers")
    (folder / "circuit.json").write_text(json.dumps(OF_THREE_LAYERS))
    model = random_gpt2(folder / "model", n_layer=3, seed=2, n_positions=32)
    flags = ("--engine", "torch", "--circuit", str(folder / "circuit.json"))
    made = made_by("sequence_generalization", folder, model, 97, *flags)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TENSORS_CACHE_DIR", str(folder / "tensors"))
        return made, start_experiment(model=str(model), n=97, engine="torch")


@pytest.mark.parametrize("number", EVERY_TASK)
def test_each_task_is_asked_the_same_of_its_own_sentences(of_three_layers, number):
    made, experiment = of_three_layers
    data, nodes = sentences(number), ["a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1", "a2.h0", "a2.h1", "m2"]
    engine = experiment.engine_for(data)

    def paths(text: str) -> PathSet:
        return PathSet.parse(text, end=data.end)

    direct = [f"{node} → logits" for node in nodes]
    through_m1 = [f"{node} → m1 → logits; {node} → m1 → m2 → logits" for node in nodes[:5]]
    requests = [Request.patch(paths(text)) for text in (*direct, *through_m1)]
    clean, late, *patched = engine.evaluate([Request.clean(), Request.isolate(paths(LATE_HALF)), *requests])
    less = number in (3, 6, 7)
    means = torch.stack([prob_diff(each, data.years_YY, "less" if less else "greater").mean() for each in patched])
    effects = means - prob_diff(clean, data.years_YY, "less" if less else "greater").mean()
    to_m1 = torch.cat([effects[9:], torch.zeros(4, dtype=effects.dtype)])
    of_task = made.find(task=number)
    expected = {"probs": data.rows(clean), "ipp": effects[:9].reshape(3, 3)}
    if number in EVALUATED:
        expected |= {"late_half_probs": data.rows(late), "m1": to_m1.reshape(3, 3)}
    assert {*of_task} == {f"generalization/{name}_{number}.pt" for name in expected}
    for name, values in expected.items():
        found = made.load(f"generalization/{name}_{number}.pt")
        torch.testing.assert_close(found, values, rtol=0, atol=1e-6, equal_nan=True, msg=f"{name}_{number}")
    said = {"ipp": "logits", "m1": "m1"}
    about = {name: of_task[f"generalization/{name}_{number}.pt"].get("receiver") for name in expected if name in said}
    assert about == {name: said[name] for name in about}
    assert made.number(f"task_{number}/valid_end_years") == ("less" if less else "greater")
    assert made.number(f"task_{number}/prompt") == TASKS[number].prompt


@pytest.mark.slow
def test_what_reaches_m7_in_task_2_goes_on_through_every_chain_of_the_larger_circuit_s_mlps(standin, model):
    end, engine = sentences(2).end, engine_for(model, 2)
    m7, later = Node.mlp(7, end), [Node.mlp(layer, end) for layer in range(8, 12)]
    to_m7 = PathSet.at(Node.logits(end)).through_chains(later).extend([m7])
    head = to_m7.extend([Node.head(6, 1, end)])
    clean, patched = engine.evaluate([Request.clean(), Request.patch(head)])
    effect = (prob_diff(patched, sentences(2).years_YY) - prob_diff(clean, sentences(2).years_YY)).mean().item()
    assert load(standin, "m7_2")[6, 1].item() == pytest.approx(effect, abs=1e-7)


def draw(artifacts: Path, folder: Path) -> list[str]:
    """Draw the figures, HTML alone; the lines printed."""
    flags = ["--artifacts", str(artifacts), "--out", str(folder / "plots")]
    return output(run_script(ROOT / "appendix_plots.py", *flags, images=False)).splitlines()


def drawn(folder: Path) -> set[str]:
    return {path.stem for path in (folder / "plots" / "appendix").glob("*.html")}


def test_figures_of_what_a_small_model_lacks_are_left_out(of_small, tmp_path):
    lines = draw(of_small, tmp_path)
    assert any(line.startswith("left out: the figures of the late half with m7 alone") for line in lines)
    assert drawn(tmp_path) >= COMPARISONS | OF_EACH_TASK
    assert "m7m8-ipps" not in drawn(tmp_path)
