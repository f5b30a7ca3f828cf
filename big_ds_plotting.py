"""Figures of the circuit on 10,000 sentences and among random ones: python big_ds_plotting.py --model gpt2

Run big_ds_experiments.py and random_circuit_ablation.py first; the figures of one that was not run are left out. They
go to paper-plots and its subfolder appendix, as interactive HTML, PDF and PNG.
"""

# %% Whose artifacts? In an interactive window, change the settings below.
from typing import NamedTuple

import torch

from artifacts import Artifacts, read_artifacts
from figures import probability_heatmap
from plots import start_plots
from publication import record_path
from settings import PlotSettings, read_settings
from share_histogram import share_histogram
from utils import UserError

settings = read_settings(__doc__, PlotSettings())
folder = settings.artifact_folder()


# %% Which runs are drawn? All of it is read, and so checked, before the first figure replaces an earlier one.
def run_of(script: str) -> tuple[Artifacts, dict[str, torch.Tensor]] | None:
    """A script's record and artifacts; None, and a line that says so, if it was not run."""
    if not record_path(folder, script).is_file():
        print(f"left out: the figures of {script}.py, which was not run")
        return None
    artifacts = read_artifacts(folder, script)
    return artifacts, artifacts.load_all()


big, among_random = run_of("big_ds_experiments"), run_of("random_circuit_ablation")
if big is None and among_random is None:
    raise UserError(f"neither has artifacts in {folder}; run python big_ds_experiments.py, or give --artifacts")
sources = [found[0] for found in (big, among_random) if found is not None]
plots = start_plots("big_ds_plotting", settings, *sources, might_read=("big_ds_experiments", "random_circuit_ablation"))


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
if among_random is not None:
    artifacts, made = among_random
    numbers, recovered = artifacts.record["numbers"], made["random_circuits.pt"]
    marks = {
        numbers["circuit"]: numbers["circuit's share of clean"]["value"],
        "all on 01 data": numbers["share of clean with all on 01 data"],
    }
    title = plots.titled(f"{len(recovered)} random circuits of the same shape")
    figure = share_histogram(recovered, marks, title, "late halves, all else on 01 data")
    plots.write(figure, "appendix/random-circuits")

# %% Everything is drawn: publish it.
plots.publish()
