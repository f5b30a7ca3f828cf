"""Every figure of single neurons, drawn from artifacts alone: python neuron_plots.py --model gpt2 [--layer 8]

Run neuron_investigations.py with the same --layer first. Figures of the default layer go to paper-plots and its
subfolder appendix. Figures of another layer all go to appendix, with the layer in their names.
"""

# %% Whose artifacts? In an interactive window, change the settings below.
from functools import partial
from pathlib import Path

from reproduction.command_line import read_settings

from reproduction.settings import PAPER_LAYER, NeuronPlotSettings

settings = read_settings(__doc__, NeuronPlotSettings())

import plotly.graph_objects as go
import torch

from color_utils import diverging, round_up
from reproduction import figures
from reproduction.figures import PREDICTED_YEAR, YY, Axis, facets
from reproduction.plots import start_plots
from reproduction.run import read_artifacts
from utils import collate, has_every_yy

# %% Which run is drawn? All of it is read and checked before the first figure replaces an earlier one.
artifacts = read_artifacts(settings.artifact_folder(), "neuron_investigations")
mlp = artifacts.number("mlp/name")
start_yy = artifacts.load("neuron_dataset.pt")["years"] % 100
order, effects = artifacts.load("order.pt"), artifacts.load("neuron_effects.pt")
names = [f"{mlp}.n{neuron}" for neuron in order.tolist()]  # strongest first


every_yy = has_every_yy(start_yy)


def collated(artifact: str) -> torch.Tensor:
    """Year logits of some neurons and all sentences, (neurons, N, 100), as rows of YY: (neurons, 97, 100).

    If a YY has no sentence, it has no neuron, and the figures that show every YY are left out.
    """
    by_neuron = artifacts.load(artifact)
    return collate(by_neuron.transpose(0, 1), start_yy).transpose(0, 1) if every_yy else by_neuron[:0]


lens, lost = collated("t10-logitlens.pt"), collated("t10-direct_effects.pt")
together = artifacts.load("t10-t10patched.pt")

default = settings.layer in (None, PAPER_LAYER)
plots = start_plots("neuron_plots" if default else f"neuron_plots-{mlp}", settings, artifacts)
titled = plots.titled
lost_logit = partial(diverging, title="clean − patched logit, less year 00's")
LENS = "activation × output weights through the unembedding, without the final LayerNorm"


def write(figure: go.Figure, name: str) -> None:
    """Write a figure of the default layer under its name, of another one to the appendix, with the layer in front."""
    plots.write(figure, name if default else f"appendix/{mlp}-{Path(name).name}")


def sums_of(panels: torch.Tensor, *counts: int) -> dict[str, torch.Tensor]:
    """Sums over exactly `counts` of the strongest neurons, by title; left out if the layer has fewer."""
    for count in counts:
        if count > len(panels) and every_yy:
            print(f"left out: the sum of the top {count} neurons; {mlp} has {len(order)}")
    return {f"sum of the top {count}": panels[:count].sum(0) for count in counts if count <= len(panels)}


# %% Which neurons act on the logits directly? A few strongly, the rest ever less.
points = 100 * effects[order]
signs = {"lowered by patching": points.clamp(max=0), "raised by patching": points.clamp(min=0)}
shown = {name: size.abs().where(size != 0, torch.nan) for name, size in signs.items()}
step = int(round_up(max(1, len(order) / 7)))
rank = Axis("rank", range(1, len(order) + 1), {at: str(at) for at in (1, *range(step, len(order) + 1, step))})
title = titled(f"Direct effects of the {len(order)} neurons of {mlp}")
figure = figures.lines(shown, title, rank, "|change in probability difference| (percentage points)")
figure.update_traces(mode="markers", marker_size=3).update_yaxes(figures.powers_of_ten(points.abs()))
write(figure, "appendix/neuron-ranking")

# %% What do the strongest write to the year tokens? In the paper, each raises some of the years above YY.
if panels := dict(zip(names[:3], lens, strict=False)):
    title = titled(f"Logit lens of the top {len(panels)} neurons of {mlp}")
    write(facets(panels, title, PREDICTED_YEAR, YY, figures.logit, LENS, columns=3), "top3-neurons")

# %% And what do the year logits lose without each of them?
if panels := dict(zip(names[:3], lost, strict=False)):
    title = titled(f"Direct effects of the top {len(panels)} neurons of {mlp}")
    figure = facets(panels, title, PREDICTED_YEAR, YY, lost_logit, "each patched alone", columns=3)
    write(figure, "top3-neurons-directeffects")

# %% Are the next eight alike?
if panels := dict(zip(names[3:11], lens[3:11], strict=False)):
    title = titled(f"Logit lens of the next {len(panels)} neurons of {mlp}")
    figure = facets(panels, title, PREDICTED_YEAR, YY, figures.logit, LENS, columns=4, size=(260, 240))
    write(figure, "appendix/neurons")

# %% Do ten of them together write greater-than?
relative = lens - lens[..., :1]
if panels := sums_of(relative, 10):
    title = titled(f"Logit lens of the top 10 neurons of {mlp}, summed")
    write(facets(panels, title, PREDICTED_YEAR, YY, figures.relative_logit, LENS), "top10-neurons-logitlenssum")

# %% Do more?
if panels := sums_of(relative, 100, 200):
    title = titled(f"Logit lens of the top 100 and more neurons of {mlp}, summed")
    write(facets(panels, title, PREDICTED_YEAR, YY, figures.relative_logit, LENS), "top100-neurons")

# %% Is what the top ten do together the sum of what each does alone?
if summed := sums_of(lost, 10):
    panels = {f"{name}, each patched alone": panel for name, panel in summed.items()}
    panels["top 10 patched together"] = collate(together, start_yy)
    title = titled(f"Direct effects of the top 10 neurons of {mlp}")
    write(facets(panels, title, PREDICTED_YEAR, YY, lost_logit), "top10-neurons-directeffects")

# %% Everything is drawn: publish it.
plots.publish()
