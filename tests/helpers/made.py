"""Records, artifacts and figures as a reproduction leaves them, without running one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from path_patching.bootstrap import Estimate
from path_patching.circuits.circuit import Circuit
from path_patching.gpt2.model import Architecture, Model, random_model
from reproduction.claims import RANKED, Claim, read_claims
from reproduction.figures import lines, years
from reproduction.paper import PAPER
from reproduction.plots import start_plots
from reproduction.publication import signed
from reproduction.run import Number, read_artifacts, start_run
from reproduction.settings import PlotSettings, Settings

SIZES = Architecture(n_layers=12, n_heads=12, d_model=24, d_head=2, d_mlp=8, n_positions=16, vocab_size=32)
MODEL = replace(random_model(SIZES), name="a model")


def publish_experiments(folder: Path, model: Model = MODEL, off_by: float = 0.0, circuit: Circuit = PAPER) -> None:
    """What every claim is measured by: amid what the paper says, `off_by` as much, and a half where it is silent."""
    claims = read_claims()
    for script in dict.fromkeys(claim.script for claim in claims):
        run = start_run(script, Settings(model=model.name, out=folder), model, "torch", "cpu")
        run.note_circuit(circuit)
        for claim in (each for each in claims if each.script == script):
            run.note(claim.key, measured(claim, off_by), claim.words)
        run.save(f"{script}.pt", torch.zeros(3), kind="test")
        run.publish()


def edit_record(path: Path, **changed: object) -> None:
    """Change a record as if the run itself had written it so."""
    path.write_text(json.dumps(signed(json.loads(path.read_text()) | changed)))


def measured(claim: Claim, off_by: float) -> Number:
    """What goes with a claim's unit."""
    if claim.unit in RANKED:
        return led_by(claim.nodes)
    if claim.unit == "text":
        return "a word"
    value = off_by + (amid(claim) if claim.stated else 0.5)
    return Estimate(value, value - 0.01, value + 0.01, 1000)


def amid(claim: Claim) -> float:
    """A number between the ends of what the paper says, where it gives no more than a bound between −1 and 1."""
    low, high = claim.limits
    return (max(low, -1.0) + min(high, 1.0)) / 2


def led_by(nodes: tuple[str, ...]) -> dict[str, float]:
    """A ranking that these nodes lead, with two more behind them."""
    return dict.fromkeys(nodes, -0.3) | {"a11.h2": 1e-3, "a11.h3": -1e-3}


def draw_figures(artifacts: Path, plots: Path, shows: Mapping[str, str]) -> None:
    """Figures of circuit discovery, whose titles could be taken for markup, by name with the artifact that each shows.

    Those with an empty name show none.
    """
    settings = PlotSettings(artifacts=artifacts, out=plots)
    drawn = start_plots("circuit_discovery_plotting", settings, read_artifacts(artifacts, "circuit_discovery"))
    for name, artifact in shows.items():
        title = drawn.titled(f"Figure {name} &lt;/script&gt;")
        drawn.write(
            lines({"": torch.linspace(0, 1, 97)}, title, years("YY", 2, 98), "share"),
            name,
            {"": artifact} if artifact else {},
        )
    drawn.publish()
