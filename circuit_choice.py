"""Which circuit a script evaluates: the paper's, the one found automatically, or one from a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from artifacts import read_artifacts
from auto_circuit import find_circuit
from circuit import PAPER, Circuit, check_fits
from circuit_file import from_json, read_circuit
from experiment import YearExperiment
from gpt2 import Model
from path_patching.engine import Sentences
from settings import Settings
from tensor_cache import hash_tensor, published_description

DISCOVERY = "circuit_discovery"  # the script whose artifacts have the circuit found automatically
SENTENCES = 490  # on which a script finds the circuit by itself, if it has as many


def circuit_asked_for(settings: Settings, model: Model) -> str:
    """What `--circuit` says, `paper`, `auto` or a file; by default `paper` for GPT-2 small, `auto` for other models."""
    if settings.circuit is not None:
        return settings.circuit
    return "paper" if settings.model == "gpt2" or is_gpt2_small(model) else "auto"


def is_gpt2_small(model: Model) -> bool:
    """Whether these are the weights published with the paper, whatever the folder that they come from is called."""
    published = published_description()
    if replace(model.architecture, activation=published.architecture.activation) != published.architecture:
        return False
    return all(hash_tensor(model.tensors[name]).startswith(hash_) for name, hash_ in published.hashes.items())


def choose_circuit(settings: Settings, experiment: YearExperiment) -> Circuit:
    """The circuit that a script is to evaluate.

    `auto` is the one that circuit_discovery.py found for this very model, where the script's artifacts go; without
    that it is searched for here. Raises `UserError` if the model lacks a node of the circuit, or for a file that is no
    circuit's.
    """
    asked = circuit_asked_for(settings, experiment.model)
    if asked == "auto":
        return _found_before(settings.artifact_folder(), experiment.model) or _found_now(experiment)
    circuit = PAPER if asked == "paper" else read_circuit(Path(asked))
    check_fits(circuit, experiment.model)
    return circuit


def _found_before(folder: Path, model: Model) -> Circuit | None:
    """The circuit that circuit_discovery.py found for a model; None if it found none, or another model's."""
    if not (folder / f"{DISCOVERY}.json").is_file():
        return None
    artifacts = read_artifacts(folder, DISCOVERY)
    if (
        artifacts.record["model"]["fingerprint"] != model.fingerprint
        or "circuit.json" not in artifacts.record["artifacts"]
    ):
        return None
    described = artifacts.load("circuit.json")
    if "search" not in described:
        return None
    print(f"circuit: as {DISCOVERY}.py found it, {folder / 'circuit.json'}")
    return from_json(described)


def _found_now(experiment: YearExperiment) -> Circuit:
    """The circuit found on the experiment's first sentences."""
    engine, dataset = experiment.engine, experiment.dataset
    sentences, years_yy = engine.sentences, dataset.years_YY[:SENTENCES]
    fewer = Sentences(sentences.clean[:SENTENCES], sentences.corrupted[:SENTENCES], sentences.answers)
    print(f"circuit: none found by {DISCOVERY}.py, so it is searched for on {len(fewer)} sentences")
    searched = type(engine)(engine.model, fewer, engine.device, engine.memory_gb)
    return find_circuit(searched, years_yy, dataset.yy, dataset.end).circuit
