"""Scripts with `--device cuda`, on a pretended GPU: they publish what they publish on the CPU, to the last bit.

That holds on every processor only if the operations are the same ones, so what is cut by device is cut alike here.
"""

from __future__ import annotations

import json
import pkgutil
from importlib import import_module
from pathlib import Path

import pytest
import torch

import path_patching
from path_patching import edits, unembedding
from reproduction.compare import compare
from tests.helpers.experiments import made_by, random_gpt2, run_experiment
from tests.helpers.pretend_cuda import pretend_cuda

CIRCUIT = {
    "name": "mine",
    "mlps": ["m1"],
    "heads": ["a1.h1"],
    "heads_feed": ["m1"],
    "first_below": ["m0"],
    "further_below": [],
}
SCRIPTS = {
    "random_years": (),
    "neuron_investigations": ("--engine", "torch"),
    "pca_experiments": ("--engine", "torch", "--nodes", "m1"),
    "sequence_generalization": ("--engine", "torch", "--circuit", "mine.json"),
    "circuit_validation": (
        *("--engine", "torch", "--circuit", "mine.json"),
        *("--thresholds", "0.02", "--bootstraps", "2", "--seeds", "2"),
        # The others ask of more circuits what these ask of one.
        *("--only", "faithfulness", "seeds", "counterfactuals", "stability", "strength", "specificity", "interactions"),
    ),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    (folder / "mine.json").write_text(json.dumps(CIRCUIT))
    return random_gpt2(folder / "mine", strength=2.0, seed=2)


def sizes_by_device() -> list[dict[str, int]]:
    """Every table of the product that says how much is computed at once on which kind of device."""
    names = [each.name for each in pkgutil.walk_packages(path_patching.__path__, "path_patching.")]
    values = [value for name in names for value in vars(import_module(name)).values()]
    return [value for value in values if isinstance(value, dict) and set(value) == {"cpu", "cuda"}]


def test_the_sizes_that_depend_on_the_device_are_found():
    assert {id(edits.ROWS_AT_ONCE), id(unembedding.ROWS_AT_ONCE), id(unembedding.ENTRIES_AT_ONCE)} <= {
        id(sizes) for sizes in sizes_by_device()
    }


@pytest.mark.parametrize(
    "script", [pytest.param(name, marks=[pytest.mark.slow] if name == "circuit_validation" else []) for name in SCRIPTS]
)
def test_a_script_publishes_on_a_gpu_what_it_publishes_on_the_cpu(script, model, monkeypatch):
    monkeypatch.chdir(model.parent)  # where the circuit is
    for sizes in sizes_by_device():
        monkeypatch.setitem(sizes, "cuda", sizes["cpu"])
    on_cpu = made_by(script, model.parent / "cpu", model, 97, "--device", "cpu", *SCRIPTS[script])
    with pretend_cuda(count=2):
        torch.cuda.set_device(1)
        on_gpu = made_by(script, model.parent / "gpu", model, 97, "--device", "auto", *SCRIPTS[script])
    assert (on_cpu.record["device"], on_gpu.record["device"]) == ("cpu", "cuda:1")
    differences = compare(on_cpu, on_gpu)
    assert len(differences) > 5
    assert differences[differences["difference"] > 0].empty


def test_a_script_for_a_gpu_that_is_not_there_is_one_line(model, tmp_path):
    with pretend_cuda():
        run = run_experiment("topk_years", tmp_path, model, 97, "--device", "cuda:1")
    assert run.returncode == 1
    assert run.stdout == "topk_years.py: mine, 97 sentences\n"
    assert run.stderr == "error: device cuda:1: PyTorch sees cuda:0 alone; give one that it sees, or cpu\n"
