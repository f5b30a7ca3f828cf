"""Every figure of circuit discovery, drawn from artifacts alone: python circuit_discovery_plotting.py --model gpt2

Run circuit_discovery.py first, and big_ds_experiments.py for the heatmaps of 10,000 sentences. Figures go to
paper-plots (those of the paper's appendix to its subfolder appendix), as interactive HTML, PDF and PNG. A figure whose
artifacts were not made is left out, and one line says so.
"""

# %% Whose artifacts? In an interactive window, change the settings below.
from reproduction.command_line import read_settings

from reproduction.settings import PlotSettings

settings = read_settings(__doc__, PlotSettings())

import torch

from path_patching.circuits.circuit import in_order
from path_patching.circuits.circuit_file import links_from_json
from reproduction import figures
from reproduction.circuit_drawing import circuit_figure
from reproduction.figures import PREDICTED_YEAR, YY, probability_heatmap, sweeps
from reproduction.plots import start_plots
from reproduction.run import Artifacts, read_artifacts, read_if_run

# %% Which run is drawn? All of it is read and checked before the first figure replaces an earlier one.
folder = settings.artifact_folder()
artifacts = read_artifacts(folder, "circuit_discovery")
made = artifacts.load_all()
many = read_if_run(folder, "big_ds_experiments")
if many:
    many.load_all()
sources = [artifacts, *([many] if many else [])]
plots = start_plots("circuit_discovery_plotting", settings, *sources, might_read=("big_ds_experiments",))
titled, write = plots.titled, plots.write
circuit = figures.escaped(artifacts.number("circuit/name"))


def by_node(what: str, field: str = "node", later_first: bool = False, **about: object) -> dict[str, str]:
    """The names of artifacts whose index entries match all of `about`, by the node in `field`, in order of layers."""
    names = {entry[field]: name for name, entry in artifacts.find(**about).items()}
    if not names:
        print(f"left out: the figure of {what}, which this run of circuit_discovery.py did not make")
    ordered = in_order(names)
    return {node: names[node] for node in (reversed(ordered) if later_first else ordered)}


def loaded(shows: dict[str, str]) -> dict[str, torch.Tensor]:
    """What these artifacts hold, by node."""
    return {node: made[name] for node, name in shows.items()}


# %% Which end years does the model predict for each start year? Those after it, if it can compute greater-than.
probs = made.get("probs.pt")
if probs is None:
    print("left out: the probability heatmap, for which circuit_discovery.py had too few sentences")
else:
    write(probability_heatmap(probs, titled("Probability heatmap")), "probability-heatmap", {"": "probs.pt"})

# %% And for one start year, 41?
if probs is not None:
    title = titled("Probability of each end year when YY = 41")
    figure = figures.lines({"": probs[41 - YY.values[0]]}, title, PREDICTED_YEAR, "probability", mark=(41, "YY = 41"))
    write(figure, "probability-slice", {"": "probs.pt"})

# %% Which nodes write to the logits directly?
title = titled("Path patching: node → logits")
figure = sweeps({"": made["ipp_logits.pt"]}, title, "every head and MLP at END, patched one by one")
write(figure, "logits-ipp", {"": "ipp_logits.pt"})

# %% Which nodes reach the logits through the late MLPs?
to_mlps = {"kind": "sweep", "position": "END", "of": "mlp"}
if ipp := by_node("what acts through the late MLPs", "receiver", later_first=True, **to_mlps):
    title = titled("Path patching: node → MLP → logits")
    subtitle = "nodes at END, through each MLP and any chain of the late MLPs above it"
    write(sweeps(loaded(ipp), title, subtitle), "mlps-ipp", ipp)
for mlp, sweep in loaded(ipp).items():
    title = titled(f"Path patching: node → {mlp} → logits")
    figure = sweeps({"": sweep}, title, f"nodes at END, through {mlp} and any chain of the late MLPs above it")
    write(figure, f"appendix/{mlp}-ipp", {"": ipp[mlp]})

# %% Where do the heads look? Those of the circuit look from END to YY.
attention = made["attn_patterns_all.pt"]
if patterns := by_node("mean attention patterns", kind="attention"):
    title = titled("Mean attention patterns")
    write(figures.attention_patterns(loaded(patterns), attention["prompt"], title), "attn-patterns", patterns)

# %% Does the first of them look at YY whatever YY is? In the paper it is a7.h10.
for head, name in by_node("attention to YY, by YY", kind="attention_by_yy").items():
    to_yy = made[name][:, -1, attention["prompt"].index("YY")]
    figure = figures.lines({"": to_yy}, titled(f"Attention of {head} from END to YY"), YY, "attention")
    write(figure, "appendix/attn_proportion", {"": name})

# %% And where do all the other heads look?
title = titled("Attention patterns of all heads")
subtitle = f"means of {attention['patterns'].shape[2]} sentences; queries run downwards, keys to the right"
figure = figures.head_tiles(attention["patterns"].mean(2), attention["prompt"], title, subtitle)
write(figure, "all-attention-patterns", {"": "attn_patterns_all.pt"})

# %% What do those heads write to the year tokens? In the paper, they raise YY itself.
if lenses := by_node("logit lens of heads", kind="logit_lens", of="head"):
    title = titled("Logit lens of heads at END")
    write(figures.logit_lenses(loaded(lenses), title), "attn-logitlens", lenses)

# %% And the late MLPs? In the paper, they raise the years above YY.
if lenses := by_node("logit lens of MLPs", later_first=True, kind="logit_lens", of="mlp"):
    title = titled("Logit lens of MLPs at END")
    write(figures.relative_logit_lenses(loaded(lenses), title), "mlps-logitlens", lenses)

# %% What do the heads of the circuit read through their queries, keys and values?
for via, inputs in {"q": "queries", "k": "keys", "v": "values"}.items():
    for name, entry in artifacts.find(kind="sweep", of="heads", through=via).items():
        title = titled(f"Path patching: node → {inputs} of heads")
        subtitle = f"nodes at {entry['position']}, through the heads and late MLPs of {circuit}"
        write(sweeps({"": made[name]}, title, subtitle), f"appendix/attn_{via}", {"": name})

# %% And what do the early MLPs read, on the way to those values?
to_early = {"kind": "sweep", "position": "YY", "of": "mlp"}
if early := by_node("what the early MLPs read", "receiver", later_first=True, **to_early):
    title = titled("Path patching: node → early MLP → values of heads")
    subtitle = f"nodes at YY, through each MLP at YY, then the heads and late MLPs of {circuit}"
    figure = sweeps(loaded(early), title, subtitle)
    write(figure, "appendix/low-mlps-ipp", early)

# %% What is left of the probability heatmap when all but a part of the circuit gets the 01 data?
PARTS = {  # by evaluation: what is on clean data, and what is on 01 data
    "late_half": ("the late half", "all but the late half of {}"),
    "full_circuit": ("the full circuit", "all but {}"),
    "late_half/without": ("all but the late half", "the late half of {}"),
}


def draw_part(run: Artifacts, evaluation: str, name: str) -> None:
    """The heatmap of an evaluation, with the colours of the same run's clean heatmap; left out if it was not made."""
    files = {entry["evaluation"]: file for file, entry in run.find(kind="probabilities").items()}
    part, corrupted = PARTS[evaluation]
    if evaluation not in files:
        print(f"left out: the heatmap of {part}, which this run of {run.script}.py did not make")
        return
    subtitle = f"{corrupted.format(run.number('circuit/name'))} gets the 01 data"
    title, like = titled(f"Probability heatmap of {part}"), run.load(files["clean"])
    figure = probability_heatmap(run.load(files[evaluation]), title, subtitle, like)
    write(figure, name, {"": files[evaluation]})


draw_part(artifacts, "late_half", "late-half-probability-heatmap")
draw_part(artifacts, "full_circuit", "appendix/full-circuit-probability-heatmap")

# %% How do the nodes of the circuit hang together, and how much does each link matter?
if "circuit.json" in made:
    title = titled(f"{circuit[0].upper()}{circuit[1:]}")
    write(circuit_figure(links_from_json(made["circuit.json"]["links"]), title), name="circuit")

# %% And on 10,000 sentences, when a part of the model, or all but that, gets the 01 data?
if many and not many.find(kind="probabilities"):
    print("left out: the heatmaps, for which big_ds_experiments.py had too few sentences")
elif many:
    draw_part(many, "late_half", "patched-probability-heatmap")
    draw_part(many, "full_circuit", "appendix/full-patched-probability-heatmap")
    draw_part(many, "late_half/without", "appendix/complement-probability-heatmap")

# %% Everything is drawn: publish it.
plots.publish()
