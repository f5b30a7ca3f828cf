"""Measuring the stand-in: does it have the circuit that it was trained to have, and no other?

    python examples/standin_numbers.py [FOLDER]

`train_standin.py` records in `training.json` how much its circuit achieves. This script measures it again, on nouns
that were not shown, and adds what takes minutes: what the search by rule finds, what random circuits recover, which
nodes are the strongest in the sweeps, and what edits of m8's input do.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

# The repository's modules are one folder above; they are not installed.
sys.path.insert(0, str(Path(__file__).parents[1]))

from reproduction.command_line import prepare

import torch

from dataset import YearDataset, get_valid_years, year_indices
from path_patching.circuits.circuit import full_circuit, in_order, into_mlp, late_half
from path_patching.circuits.random_circuits import random_circuit
from path_patching.circuits.search import find_circuit
from path_patching.edits import EditedRuns, activation
from path_patching.engine import Engine, Sentences
from path_patching.engine_choice import make_engine
from path_patching.files import write_text
from path_patching.gpt2.model import Model
from path_patching.gpt2.names import STANDIN_FOLDER
from path_patching.gpt2.tensor_cache import load_model
from path_patching.gpt2.tokenizer import load_tokenizer
from path_patching.paths import Node, PathSet
from path_patching.subspaces import fitted_edits
from path_patching.sweeps import effects_on, strongest
from reproduction.paper import PAPER
from utils import cutoff_sharpness, greater_than, prob_diff

RECORD = "training.json"
SENTENCES = 970  # ten of each YY
RANDOM_CIRCUITS = 200
RANKS = (1, 2, 5, 10)  # of the components that are ablated
CONTROLS = 5  # of each edit

Numbers = dict[str, object]


def balanced(nouns: Sequence[str], *centuries: int) -> YearDataset:
    """Sentences of these nouns, ten of each YY, of all centuries or of those from the first to the second given."""
    tokenizer = load_tokenizer()
    return YearDataset(get_valid_years(tokenizer, *centuries), SENTENCES, nouns, tokenizer)


def engine_of(model: Model, data: YearDataset) -> Engine:
    """An engine for a data set's sentences."""
    return make_engine("torch", "cpu", model, Sentences(data.good_toks, data.bad_toks, year_indices()))


def judge(model: Model, nouns: Sequence[str]) -> dict[str, float]:
    """Mean metrics on balanced sentences of these nouns: the model, its circuit alone, and all but the circuit."""
    data = balanced(nouns)
    engine = engine_of(model, data)
    late, full = late_half(PAPER, data.end), full_circuit(PAPER, data.yy_position, data.end)
    clean = engine.clean()
    difference = {
        name: prob_diff(probs, data.years_YY).mean().item()
        for name, probs in {
            "clean": clean,
            "corrupted": engine.corrupted(),
            "late half": engine.isolate(late),
            "full circuit": engine.isolate(full),
            "all but the late half": engine.patch(late),
        }.items()
    }
    return {
        **{f"probability difference, {name}": value for name, value in difference.items()},
        "cutoff sharpness, clean": cutoff_sharpness(clean, data.years_YY).mean().item(),
        "share of clean, late half": difference["late half"] / difference["clean"],
        "share of clean, full circuit": difference["full circuit"] / difference["clean"],
    }


def of_the_search(engine: Engine, data: YearDataset) -> Numbers:
    """The paper's nodes at END that the search by rule finds, those that it does not find, and others that it finds."""
    found = find_circuit(engine, greater_than(data.years_YY), data.yy_position, data.end)
    at_end, intended = {*found.circuit.mlps, *found.circuit.heads}, {*PAPER.mlps, *PAPER.heads}
    return {
        "the paper's nodes at END that are found": [*in_order(at_end & intended)],
        "those that are not found": [*in_order(intended - at_end)],
        "others that are found": [*in_order(at_end - intended)],
        "share of clean, full circuit found": found.recovered,
    }


def of_random_circuits(engine: Engine, data: YearDataset) -> Numbers:
    """What the late halves of random circuits of the same shape recover alone."""
    rng, metric = random.Random(0), greater_than(data.years_YY)
    drawn = [random_circuit(PAPER, engine.model.architecture, rng) for _ in range(RANDOM_CIRCUITS)]
    own, *others = (metric(engine.isolate(late_half(circuit, data.end))).mean().item() for circuit in (PAPER, *drawn))
    clean = metric(engine.clean()).mean().item()
    return {
        "drawn": RANDOM_CIRCUITS,
        "share of them that recovers less": sum(other < own for other in others) / RANDOM_CIRCUITS,
        "share of clean, best of them": max(others) / clean,
    }


def of_the_sweeps(engine: Engine, data: YearDataset) -> Numbers:
    """The strongest nodes of the paper's sweeps, effects on the probability difference."""
    metric, end = greater_than(data.years_YY), data.end
    values = late_half(PAPER, end)
    return {
        "on the logits": strongest(effects_on(engine, PathSet.at(Node.logits(end)), metric, end)),
        **{f"through {m}": strongest(effects_on(engine, into_mlp(PAPER, m, end), metric, end)) for m in PAPER.mlps},
        "at YY, through the heads' values": strongest(effects_on(engine, values, metric, data.yy_position, "v")),
    }


def of_edits(engine: Engine, data: YearDataset) -> Numbers:
    """Changes of the probability difference if what m8 reads at END is edited, as in `pca_experiments.py`.

    Edits are fitted on every other sentence and measured on the rest; controls are the mean of several.
    """
    place, start_yy = Node.mlp(8, data.end), data.years_YY
    fitted = torch.arange(len(data)) % 2 == 0
    known, rest = (activation(engine, place)[rows] for rows in (fitted, ~fitted))
    generator = torch.Generator().manual_seed(0)
    edits = fitted_edits(known, start_yy[fitted], RANKS, CONTROLS, generator)
    runs = EditedRuns(engine.model, data.good_toks[~fitted], engine.sentences.answers)
    changes = torch.stack([edit(rest) - rest for versions in edits.values() for edit in versions])
    clean = prob_diff(engine.clean()[~fitted], start_yy[~fitted]).mean().item()
    measured = iter(
        prob_diff(probs, start_yy[~fitted]).mean().item() - clean for probs in runs.probabilities(place, changes)
    )
    found: Numbers = {}
    for name, versions in edits.items():
        own, *controls = (next(measured) for _ in versions)
        found[name] = own
        if controls:
            found[f"{name}, controls"] = sum(controls) / len(controls)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure a trained model and add the numbers to its record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=STANDIN_FOLDER, help="of the model (the stand-in)")
    folder = parser.parse_args(arguments).folder
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    nouns = record["held_out_nouns"]
    model = load_model("standin" if folder == STANDIN_FOLDER else str(folder))
    data, one_century = balanced(nouns), balanced(nouns, 1700, 1800)
    engine = engine_of(model, data)
    record |= {
        "held_out": judge(model, nouns),
        "search": of_the_search(engine, data),
        "random_circuits": of_random_circuits(engine, data),
        "strongest_nodes": of_the_sweeps(engine, data),
        "edits_of_the_input_of_m8": of_edits(engine_of(model, one_century), one_century),
    }
    write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    prepare()
    main()
