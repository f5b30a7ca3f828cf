"""Artifacts and figures as a reproduction leaves them, without running one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from artifacts import read_artifacts, start_run
from claims import CLAIMS, Claim
from figures import lines, years
from gpt2 import Architecture, Model, random_model
from plots import start_plots
from settings import PlotSettings, Settings

SIZES = Architecture(n_layers=12, n_heads=12, d_model=24, d_head=2, d_mlp=8, n_positions=16, vocab_size=32)
MODEL = replace(random_model(SIZES), name="a model")


def publish_experiments(folder: Path, model: Model = MODEL, off_by: float = 0.0) -> None:
    """What every claim is measured by: the paper's numbers, `off_by` as much, and a half where it has none."""
    scripts = dict.fromkeys(claim.script for claim in CLAIMS)
    for script in scripts:
        run = start_run(script, Settings(model=model.name, out=folder), model, "torch", "cpu")
        for claim in CLAIMS:
            if claim.script != script:
                continue
            if isinstance(claim, Claim):
                value = off_by + (0.5 if claim.paper is None else claim.paper)
                run.note(claim.number, {"value": value, "low": value - 0.01, "high": value + 0.01})
            else:
                run.save(claim.artifact, led_by(claim.nodes))
        run.publish()


def led_by(nodes: tuple[str, ...]) -> torch.Tensor:
    """A sweep (12, 13) in which these nodes are the strongest."""
    effects = torch.full((12, 13), 1e-3)
    for name in nodes:
        layer, _, head = name[1:].partition(".h")
        effects[int(layer), int(head) if head else 12] = -0.3
    return effects


def draw_figures(artifacts: Path, plots: Path, *names: str) -> None:
    """Figures of circuit discovery, one of each name, whose titles could be taken for markup."""
    settings = PlotSettings(artifacts=artifacts, out=plots)
    drawn = start_plots("circuit_discovery_plotting", settings, read_artifacts(artifacts, "circuit_discovery"))
    for name in names:
        title = drawn.titled(f"Figure {name} &lt;/script&gt;")
        drawn.write(lines({"": torch.linspace(0, 1, 97)}, title, years("YY", 2, 98), "share"), name)
    drawn.publish()
