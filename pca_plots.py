"""The figures of PCA and of its causal tests, drawn from artifacts alone: python pca_plots.py --model gpt2

Run pca_experiments.py first. Figures go to paper-plots and its subfolder appendix, as interactive HTML, PDF and PNG.
"""

# %% Whose artifacts? In an interactive window, change the settings below.
from reproduction.command_line import read_settings

from reproduction.settings import PlotSettings

settings = read_settings(__doc__, PlotSettings())

import torch

from path_patching.circuits.validation.verdicts import joined
from path_patching.numbers import in_unit, with_unit
from reproduction.figures import YY, named, scatter
from reproduction.numbers import NO_CONTROL
from reproduction.plots import start_plots
from reproduction.run import read_artifacts

# %% Which run is drawn? All of it is read and checked before the first figure replaces an earlier one.
artifacts = read_artifacts(settings.artifact_folder(), "pca_experiments")
pca, ablation = artifacts.load("pca.pt"), artifacts.load("pca_ablation.pt")
plots = start_plots("pca_plots", settings, artifacts)
titled, write = plots.titled, plots.write

# %% Are the years in order along some line, before the MLPs that compare them?
panels = {
    f"{name} ({in_unit(first, '%')} + {with_unit(second, '%')} of variance)": {"": points}
    for name, (first, second), points in zip(pca["activations"], pca["shares"].tolist(), pca["points"], strict=True)
}
subtitle = "each dot is the mean of one start year, 1702 … 1798, and labelled with YY where there is room"
figure = scatter(panels, titled("First two principal components"), "component 1", "component 2", subtitle, of=YY)
write(figure, name="pca")


# %% Does the model need those dimensions, or the linear trace of YY?
longest = max(ablation["differences"].values(), key=len)  # a head may have too few dimensions for some edits
rows = {edit: row for row, edit in enumerate(longest)}


def dots(by_edit: dict[str, list[float]], which: slice) -> torch.Tensor:
    """Probability differences in points, `which` of each edit, as dots (any, 2) in the edits' rows."""
    found = [(100 * each, rows[edit]) for edit, differences in by_edit.items() for each in differences[which]]
    return torch.tensor(found)


panels = {
    name: {"edited": dots(by_edit, slice(1)), "control": dots(by_edit, slice(1, None))}
    for name, by_edit in ablation["differences"].items()
}
# A control that does as much says that any edit of that size does it: not the trace of YY is what the model needs.
ENOUGH, AS_MUCH = 0.01, 0.9  # of a probability difference, below which nothing is changed; and of the edit's own change


def does_as_much(own: float, *controls: float) -> bool:
    """Whether the controls of an edit change the probability difference nearly as much as the edit itself, or more."""
    changed, by_controls = (abs(each - ablation["clean"]) for each in (own, torch.tensor(controls).mean().item()))
    return changed >= ENOUGH and by_controls >= AS_MUCH * changed


alike: dict[str, list[str]] = {}
for name, by_edit in ablation["differences"].items():
    for edit, differences in by_edit.items():
        if does_as_much(*differences):
            alike.setdefault(edit, []).append(name)
remarks = [
    f"the control of “{edit}” does as much ({', '.join(names)}): the change is no sign of YY"
    for edit, names in alike.items()
]
if (control := artifacts.number("leace_classes/control") or "").startswith(NO_CONTROL):
    remarks.append(f"control of “LEACE, YY as classes”: {control}")
title = titled("Probability difference after an edit")
subtitle = "control: as many random dimensions, or YY shuffled before it is erased; dashed: nothing edited"
x_title, edits = "probability difference (percentage points)", named("", list(rows))
figure = scatter(panels, title, x_title, edits, joined(subtitle, *remarks), size=(360, 260))
figure.add_vline(100 * ablation["clean"], line_dash="dash", line_width=1)
write(figure, name="appendix/pca-ablation")

# %% Everything is drawn: publish it.
plots.publish()
