"""Artifacts and figures as a reproduction leaves them, without running one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

from path_patching.bootstrap import Estimate
from path_patching.gpt2.model import Architecture, Model, random_model
from reproduction.figures import lines, years
from reproduction.paper import CLAIMS, PAPER, Claim, Stated
from reproduction.plots import start_plots
from reproduction.run import read_artifacts, start_run
from reproduction.settings import PlotSettings, Settings

SIZES = Architecture(n_layers=12, n_heads=12, d_model=24, d_head=2, d_mlp=8, n_positions=16, vocab_size=32)
MODEL = replace(random_model(SIZES), name="a model")


def publish_experiments(folder: Path, model: Model = MODEL, off_by: float = 0.0, circuit: str = PAPER.name) -> None:
    """What every claim is measured by: amid what the paper says, `off_by` as much, and a half where it is silent."""
    scripts = dict.fromkeys(claim.script for claim in CLAIMS)
    for script in scripts:
        run = start_run(script, Settings(model=model.name, out=folder), model, "torch", "cpu")
        run.note("circuit", circuit)
        led: dict[str, set[str]] = {}
        for claim in (each for each in CLAIMS if each.script == script):
            if isinstance(claim, Claim):
                value = off_by + (amid(claim.stated) if claim.stated else 0.5)
                run.note(claim.number, Estimate(value, value - 0.01, value + 0.01, 1000))
            else:
                led.setdefault(claim.artifact, set()).update(claim.nodes)
        for artifact, nodes in led.items():
            run.save(artifact, led_by(nodes))
        run.publish()


def amid(stated: Stated) -> float:
    """A number between the ends of what the paper says, where it gives no more than a sign between 0 and 1."""
    return (max(stated.low, -1.0) + min(stated.high, 1.0)) / 2


def led_by(nodes: Iterable[str]) -> torch.Tensor:
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
