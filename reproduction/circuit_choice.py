"""Choosing the circuit that a script evaluates: the paper's, one from a file, or the model's own, found by rule."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from path_patching.circuits.circuit import Circuit, check_fits
from path_patching.circuits.circuit_file import from_json, read_circuit
from path_patching.errors import UserError
from path_patching.files import named_path
from path_patching.gpt2.model import Model
from path_patching.gpt2.tensor_cache import is_gpt2_small
from reproduction.paper import PAPER, named_as_read
from reproduction.publication import record_path
from reproduction.run import Artifacts, Experiment, Run, read_artifacts
from reproduction.settings import Settings

DISCOVERY = "circuit_discovery"  # the script that finds a circuit automatically
CIRCUIT_FILE = "circuit.json"
SENTENCES = 490  # at most, on which a script itself finds the circuit


class CircuitExperiment(Experiment, Protocol):
    """An experiment for which a circuit can be chosen."""

    def find_circuit(self, n: int) -> Circuit:
        """The circuit found by rule on its first `n` sentences."""


def circuit_asked_for(settings: Settings, model: Model) -> str:
    """What `--circuit` says, `paper`, `auto` or a file; by default `paper` for GPT-2 small, `auto` for other models."""
    if settings.circuit is not None:
        return settings.circuit
    return "paper" if settings.model == "gpt2" or is_gpt2_small(model) else "auto"


def choose_circuit(experiment: CircuitExperiment, run: Run | None = None) -> Circuit:
    """The circuit that the experiment's settings ask for. The run's record keeps all of it, and what was read for it.

    `auto` is the circuit that circuit_discovery.py found for the same model, in the folder of the script's artifacts.
    If there is none, it is searched for here. Raises `UserError` if the circuit has no node, if the model lacks one of
    its nodes, and for a file that has no circuit.
    """
    asked = circuit_asked_for(experiment.settings, experiment.model)
    if asked == "auto":
        before = _found_before(experiment.settings.artifact_folder(), experiment.model)
        if run is not None:
            run.note_read(CIRCUIT_FILE, before.record["artifacts"][CIRCUIT_FILE] if before else None)
        circuit = from_json(before.load(CIRCUIT_FILE)) if before else _found_now(experiment)
    else:
        circuit = PAPER if asked == "paper" else named_as_read(read_circuit(named_path(asked)))
        check_fits(circuit, experiment.model)
        if not circuit.members:
            raise UserError(f"{circuit.name} has no head and no MLP to ask about; give a circuit that has some")
    if run is not None:
        run.note_circuit(circuit)
    return circuit


def _found_before(folder: Path, model: Model) -> Artifacts | None:
    """What circuit_discovery.py made, if it found a circuit for the same model automatically."""
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


def _found_now(experiment: CircuitExperiment) -> Circuit:
    n = min(experiment.settings.n, SENTENCES)
    print(f"circuit: none found by {DISCOVERY}.py, so it is searched for on {n} sentences")
    return experiment.find_circuit(n)
