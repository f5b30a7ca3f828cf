"""Figures of the circuit on 10,000 sentences and among random ones: python big_ds_plotting.py --model gpt2

Run big_ds_experiments.py and random_circuit_ablation.py first; the figures of one that was not run are left out. They
go to paper-plots and its subfolder appendix, as interactive HTML, PDF and PNG.
"""

from __future__ import annotations

import math
from itertools import count
from typing import NamedTuple

import torch

import figures
from artifacts import Artifacts, read_artifacts
from figures import CURVES, Axis, probability_heatmap
from plots import start_plots
from publication import record_path
from settings import PlotSettings, read_settings
from utils import UserError

BARS, TICKS = 40, 10  # of the histogram, at most
LEGEND = 16  # pixels of room above the plot
settings = read_settings(__doc__, PlotSettings())
folder = settings.artifact_folder()


# %% Which runs are drawn? All of it is read, and so checked, before the first figure replaces an earlier one.
def run_of(script: str) -> tuple[Artifacts, dict[str, torch.Tensor]] | None:
    """A script's record and artifacts; None, and a line that says so, if it was not run."""
    if not record_path(folder, script).is_file():
        print(f"left out: the figures of {script}.py, which was not run")
        return None
    artifacts = read_artifacts(folder, script)
    return artifacts, {name: artifacts.load(name) for name in artifacts.record["artifacts"]}


big, among_random = run_of("big_ds_experiments"), run_of("random_circuit_ablation")
if big is None and among_random is None:
    raise UserError(f"neither has artifacts in {folder}; run python big_ds_experiments.py, or give --artifacts")
plots = start_plots("big_ds_plotting", settings, *(found[0] for found in (big, among_random) if found is not None))


# %% Which end years are predicted when a part of the model, or all but that, gets the 01 data?
class Part(NamedTuple):
    """A part of the model on clean data: its artifact, its name, and what gets the 01 data."""

    artifact: str
    title: str
    corrupted: str


PARTS = {
    "patched-probability-heatmap": Part("patched_probs.pt", "the late half", "all but the late half of {}"),
    "appendix/full-patched-probability-heatmap": Part("full_patched_probs.pt", "the full circuit", "all but {}"),
    "appendix/complement-probability-heatmap": Part(
        "complement_probs.pt", "all but the late half", "the late half of {}"
    ),
}
if big is not None:
    artifacts, made = big
    if not made:
        print("left out: the heatmaps, for which big_ds_experiments.py had too few sentences")
    for name, part in PARTS.items() if made else ():
        title = plots.titled(f"Probability heatmap of {part.title}")
        subtitle = f"{part.corrupted.format(artifacts.record['numbers']['circuit'])} gets the 01 data"
        figure = probability_heatmap(made[part.artifact], title, subtitle, like=made["clean_probs.pt"])
        plots.write(figure, name)


# %% And how much do random circuits recover?
def round_step(span: float, most: int) -> int:
    """The least of 1, 2, 5, 10, 20, … that goes into `span` at most `most` times."""
    return next(step for power in count() for step in (10**power, 2 * 10**power, 5 * 10**power) if step * most >= span)


def in_percent(number: float) -> str:
    """A whole number of percent as text."""
    return f"{number:.0f} %".replace("-", "−")


def histogram(percent: torch.Tensor, also: list[float]) -> tuple[Axis, torch.Tensor]:
    """Lower edges of bars over values in percent, as an axis that reaches to `also`, and counts; its ends are empty."""
    low, high = min(percent.min().item(), *also), max(percent.max().item(), *also)
    width = round_step(high - low, BARS)
    edges = torch.arange(math.floor(low / width) - 1, math.ceil(high / width) + 2) * width
    counts = torch.bincount(torch.bucketize(percent, edges, right=True) - 1, minlength=len(edges))
    ticks = round_step(high - low, TICKS)
    labelled = {edge: in_percent(edge) for edge in edges.tolist() if edge % ticks == 0}
    return Axis("recovered share of the clean probability difference", edges.tolist(), labelled), counts


if among_random is not None:
    artifacts, made = among_random
    numbers, recovered = artifacts.record["numbers"], 100 * made["random_circuits.pt"]
    marks = {
        numbers["circuit"]: 100 * numbers["circuit's share of clean"]["value"],
        "all on 01 data": 100 * numbers["share of clean with all on 01 data"],
    }
    axis, counts = histogram(recovered, list(marks.values()))
    title = plots.titled(f"{len(recovered)} random circuits of the same shape")
    figure = figures.lines({"random circuits": counts}, title, axis, "circuits", "late halves, all else on 01 data")
    figure.update_traces(line_shape="hv", line_width=1, fill="tozeroy")
    for (name, at), colour, dash in zip(marks.items(), CURVES[1:], ("solid", "dot"), strict=False):
        line = {"color": colour, "dash": dash}
        name = f"{name}, {in_percent(at)}"
        figure.add_scatter(x=[at, at], y=[0, counts.max().item()], mode="lines", line=line, name=name)
    room = {"height": figure.layout.height + LEGEND, "margin_t": figure.layout.margin.t + LEGEND}
    figure.update_layout(
        showlegend=True, legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0.5, "xanchor": "center"}, **room
    )
    plots.write(figure, "appendix/random-circuits")

# %% Everything is drawn: publish it.
plots.publish()
