"""Comparing runs, and with that the engines: every artifact of every script, made by one and by the other."""

from __future__ import annotations

import math

import pytest
import torch

from artifacts import read_artifacts, start_run
from compare_runs import compare, largest_difference
from settings import ROOT, Settings
from steps import EXPERIMENTS
from tests.engines import skip_without
from tests.experiments import random_gpt2
from tests.made import MODEL, publish_experiments
from tests.scripts import error_line, output, run_python
from utils import UserError

NAN = torch.nan


@pytest.mark.parametrize(
    ("one", "other", "difference"),
    [
        (torch.tensor([0.5, -0.5]), torch.tensor([0.5, -0.25]), 0.25),
        (torch.tensor([0.5, -10.0]), torch.tensor([0.5, -9.0]), 0.1),
        (torch.tensor([NAN, 1.0]), torch.tensor([NAN, 1.0]), 0.0),
        (torch.tensor([NAN, 1.0]), torch.tensor([1.0, 1.0]), math.inf),
        (torch.zeros(2), torch.zeros(3), math.inf),
        (torch.zeros(0), torch.zeros(0), 0.0),
        ({"a": [1.0, 2.0], "b": "x"}, {"a": [1.0, 2.5], "b": "x"}, 0.5),
        ({"a": 1.0}, {"b": 1.0}, math.inf),
        ([1.0], [1.0, 2.0], math.inf),
        ("m1", "m2", math.inf),
        (3, 4, math.inf),
        (3, 3.0, math.inf),
    ],
)
def test_differences(one, other, difference):
    assert largest_difference(one, other) == pytest.approx(difference)


def ranked(folder, order: list[int], effects: list[float], **settings: object):
    run = start_run("neuron_investigations", Settings(out=folder, **settings), MODEL, "torch", "cpu")
    run.save("order.pt", torch.tensor(order))
    run.save("neuron_effects.pt", torch.tensor(effects, dtype=torch.float64))
    run.publish()
    return read_artifacts(folder, "neuron_investigations")


def test_ranks_of_nearly_equal_effects_may_be_swapped_and_others_may_not(tmp_path):
    one = ranked(tmp_path / "one", [0, 1, 2], [-0.5, 0.2, 0.1999999])
    nearly = ranked(tmp_path / "nearly", [0, 2, 1], [-0.5, 0.1999999, 0.2])
    assert compare(one, nearly)["order.pt"] < 1e-6
    assert compare(one, ranked(tmp_path / "far", [1, 0, 2], [0.2, -0.5, 0.1]))["order.pt"] == pytest.approx(0.3)


def test_runs_of_other_settings_are_no_two_of_one(tmp_path):
    one = ranked(tmp_path / "one", [0], [0.5])
    with pytest.raises(UserError, match="neuron_investigations: seed is 0 in"):
        compare(one, ranked(tmp_path / "other", [0], [0.5], seed=1))


def test_what_differs_too_much_fails(tmp_path):
    publish_experiments(tmp_path / "one")
    publish_experiments(tmp_path / "other")
    folders = [str(tmp_path / "one"), str(tmp_path / "other")]
    assert "largest difference: 0.0e+00" in output(run_python(str(ROOT / "compare_runs.py"), *folders))
    run = start_run("circuit_discovery", Settings(model=MODEL.name, out=tmp_path / "other"), MODEL, "torch", "cpu")
    for name, tensor in {
        n: read_artifacts(tmp_path / "one", "circuit_discovery").load(n) for n in names(tmp_path)
    }.items():
        run.save(name, tensor + 0.25)
    run.publish()
    failed = run_python(str(ROOT / "compare_runs.py"), *folders, "--within", "0.2")
    assert failed.returncode == 1
    assert "largest difference: 2.5e-01" in failed.stdout
    assert "two folders" in error_line(run_python(str(ROOT / "compare_runs.py"), str(tmp_path), folders[0]))


def names(folder) -> list[str]:
    return list(read_artifacts(folder / "one", "circuit_discovery").record["artifacts"])


@pytest.mark.slow
@pytest.mark.parametrize("model", ["random", "standin"])
def test_both_engines_make_the_same_artifacts(tmp_path, model):
    skip_without("rust_circuit")
    name = str(random_gpt2(tmp_path / "mine")) if model == "random" else model
    for engine in ("rust_circuit", "torch"):
        flags = ["--model", name, "--engine", engine, "--n", "97", "--out", str(tmp_path / engine)]
        made = run_python(
            str(ROOT / "reproduce.py"), *flags, "--only", *EXPERIMENTS,
            settings={"TENSORS_CACHE_DIR": str(tmp_path / "tensors")},
        )  # fmt: skip
        output(made)
    folders = [str(tmp_path / engine / "paper-cache") for engine in ("rust_circuit", "torch")]
    printed = output(run_python(str(ROOT / "compare_runs.py"), *folders, "--within", "1e-5"))
    assert printed.count(": rust_circuit and torch") == len(EXPERIMENTS) - 2
    assert printed.count(": transformers and transformers") == 2
