"""Which circuit a script evaluates: the paper's, the one found automatically, or one from a file."""

from __future__ import annotations

from pathlib import Path

from artifacts import Artifacts, read_artifacts
from auto_circuit import find_circuit
from circuit import PAPER, Circuit, check_fits
from circuit_file import from_json, read_circuit
from experiment import YearExperiment
from gpt2 import Model
from metrics import greater_than
from publication import record_path
from settings import Settings
from tensor_cache import is_gpt2_small

DISCOVERY = "circuit_discovery"  # the script whose artifacts have the circuit found automatically
CIRCUIT_FILE = "circuit.json"
SENTENCES = 490  # on which a script finds the circuit by itself, if it has as many


def circuit_asked_for(settings: Settings, model: Model) -> str:
    """What `--circuit` says, `paper`, `auto` or a file; by default `paper` for GPT-2 small, `auto` for other models."""
    if settings.circuit is not None:
        return settings.circuit
    return "paper" if settings.model == "gpt2" or is_gpt2_small(model) else "auto"


def choose_circuit(settings: Settings, experiment: YearExperiment) -> Circuit:
    """The circuit that a script is to evaluate.

    `auto` is the one that circuit_discovery.py found for this very model, where the script's artifacts go; without
    that it is searched for here. Raises `UserError` if the model lacks a node of the circuit, or for a file that is no
    circuit's.
    """
    asked = circuit_asked_for(settings, experiment.model)
    if asked == "auto":
        before = _found_before(settings.artifact_folder(), experiment.model)
        experiment.run.note_read(CIRCUIT_FILE, before.record["artifacts"][CIRCUIT_FILE] if before else None)
        return from_json(before.load(CIRCUIT_FILE)) if before else _found_now(experiment)
    circuit = PAPER if asked == "paper" else read_circuit(Path(asked))
    check_fits(circuit, experiment.model)
    return circuit


def _found_before(folder: Path, model: Model) -> Artifacts | None:
    """What circuit_discovery.py made, if it found a circuit for this very model automatically."""
    if not record_path(folder, DISCOVERY).is_file():
        return None
    artifacts = read_artifacts(folder, DISCOVERY)
    if (
        artifacts.record["model"]["fingerprint"] != model.fingerprint
        or CIRCUIT_FILE not in artifacts.record["artifacts"]
    ):
        return None
    if "search" not in artifacts.load(CIRCUIT_FILE):
        return None
    print(f"circuit: as {DISCOVERY}.py found it, {folder / CIRCUIT_FILE}")
    return artifacts


def _found_now(experiment: YearExperiment) -> Circuit:
    """The circuit found on the experiment's first sentences."""
    engine, dataset = experiment.engine, experiment.dataset
    metric, fewer = greater_than(dataset.years_YY[:SENTENCES]), engine.sentences.rows(slice(SENTENCES))
    print(f"circuit: none found by {DISCOVERY}.py, so it is searched for on {len(fewer)} sentences")
    return find_circuit(engine.like(fewer), metric, dataset.yy, dataset.end).circuit
