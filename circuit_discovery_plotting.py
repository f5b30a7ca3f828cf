"""Every figure of circuit discovery, drawn from artifacts alone: python circuit_discovery_plotting.py --model gpt2

Run circuit_discovery.py first, and big_ds_experiments.py for the heatmaps of 10,000 sentences. Figures go to
paper-plots (those of the paper's appendix to its subfolder appendix), as interactive HTML, PDF and PNG. A figure whose
artifacts were not made is left out, and one line says so.
"""

# %% Whose artifacts? In an interactive window, change the settings below.
import re
from fnmatch import fnmatch

import torch

from path_patching.circuits.circuit_file import links_from_json
from reproduction import figures
from reproduction.circuit_drawing import circuit_figure
from reproduction.figures import PREDICTED_YEAR, YY, facets, named, probability_heatmap, sweeps
from reproduction.plots import start_plots
from reproduction.run import read_artifacts, read_if_run
from reproduction.settings import PlotSettings, read_settings

settings = read_settings(__doc__, PlotSettings())

# %% Which run is drawn? All of it is read, and so checked, before the first figure replaces an earlier one.
folder = settings.artifact_folder()
artifacts = read_artifacts(folder, "circuit_discovery")
made = artifacts.load_all()
many = read_if_run(folder, "big_ds_experiments")
of_many = many.load_all() if many else {}
sources = [artifacts, *([many] if many else [])]
plots = start_plots("circuit_discovery_plotting", settings, *sources, might_read=("big_ds_experiments",))
titled, write = plots.titled, plots.write
circuit = artifacts.record["numbers"]["circuit"]


def found(pattern: str, later_first: bool = False) -> dict[str, torch.Tensor]:
    """The artifacts of this run whose names match, by node ("m8" for logit_lens_mlp8.pt), in the order of layers."""
    names = {re.sub("^mlp", "m", name[:-3].split("_")[-1]): name for name in made if fnmatch(name, pattern)}
    if not names:
        print(f"left out: the figure of {pattern}, which this run of circuit_discovery.py did not make")
    nodes = sorted(names, key=lambda node: [int(number) for number in re.findall(r"\d+", node)], reverse=later_first)
    return {node: made[names[node]] for node in nodes}


# %% Which end years does the model predict for each start year? Those after it, if it can compute greater-than.
probs = made["probs.pt"]
write(probability_heatmap(probs, titled("Probability heatmap")), name="probability-heatmap")

# %% And for one start year, 41?
title = titled("Probability of each end year when YY = 41")
figure = figures.lines({"": probs[41 - YY.values[0]]}, title, PREDICTED_YEAR, "probability", mark=(41, "YY = 41"))
write(figure, name="probability-slice")

# %% Which nodes write to the logits directly?
title = titled("Path patching: node → logits")
figure = sweeps({"": made["ipp_logits.pt"]}, title, "every head and MLP at END, patched one by one")
write(figure, name="logits-ipp")

# %% Which nodes reach the logits through the late MLPs?
if ipp := found("ipp_mlp*.pt", later_first=True):
    title = titled("Path patching: node → MLP → logits")
    figure = sweeps(
        ipp, title, "nodes at END, through each MLP and any chain of the late MLPs above it", one_range=False
    )
    write(figure, name="mlps-ipp")
for mlp, sweep in ipp.items():
    title = titled(f"Path patching: node → {mlp} → logits")
    figure = sweeps({"": sweep}, title, f"nodes at END, through {mlp} and any chain of the late MLPs above it")
    write(figure, name=f"appendix/{mlp}-ipp")

# %% Where do the heads look? Those of the circuit look from END to YY.
attention = made["attn_patterns_all.pt"]
query, key = named("query", attention["prompt"]), named("key", attention["prompt"])
if patterns := found("attn_patterns_a[0-9]*.pt"):
    figure = facets(patterns, titled("Mean attention patterns"), key, query, figures.attention, size=(360, 340))
    write(figure, name="attn-patterns")

# %% Does the first of them look at YY whatever YY is? In the paper it is a7.h10.
first = artifacts.record["numbers"].get("head of attn_collated.pt", "a7.h10")
for head in found(f"attn_patterns_{first}.pt"):
    to_yy = made["attn_collated.pt"][:, -1, attention["prompt"].index("YY")]
    figure = figures.lines({"": to_yy}, titled(f"Attention of {head} from END to YY"), YY, "attention")
    write(figure, name="appendix/attn_proportion")

# %% And where do all the other heads look?
title = titled("Attention patterns of all heads")
subtitle = f"means of {attention['patterns'].shape[2]} sentences; queries run downwards, keys to the right"
figure = figures.head_tiles(attention["patterns"].mean(2), attention["prompt"], title, subtitle)
write(figure, name="all-attention-patterns")

# %% What do those heads write to the year tokens? In the paper, they raise YY itself.
if lenses := found("logit_lens_a*.pt"):
    title = titled("Logit lens of heads at END")
    figure = facets(lenses, title, PREDICTED_YEAR, YY, figures.logit, columns=3, one_range=False)
    write(figure, name="attn-logitlens")

# %% And the late MLPs? In the paper, they raise the years above YY.
if lenses := found("logit_lens_mlp*.pt", later_first=True):
    relative = {mlp: logits - logits[:, :1] for mlp, logits in lenses.items()}
    title = titled("Logit lens of MLPs at END")
    columns = 2 if len(relative) <= 4 else 3
    figure = facets(relative, title, PREDICTED_YEAR, YY, figures.relative_logit, columns=columns, one_range=False)
    write(figure, name="mlps-logitlens")

# %% What do the heads of the circuit read through their queries, keys and values?
for kind, sweep in found("attn_[qkv].pt").items():
    inputs, position = {"q": ("queries", "END"), "k": ("keys", "YY"), "v": ("values", "YY")}[kind]
    title = titled(f"Path patching: node → {inputs} of heads")
    figure = sweeps({"": sweep}, title, f"nodes at {position}, through the heads and late MLPs of {circuit}")
    write(figure, name=f"appendix/attn_{kind}")

# %% And what do the early MLPs read, on the way to those values?
if early := found("results_mlp*.pt", later_first=True):
    title = titled("Path patching: node → early MLP → values of heads")
    subtitle = f"nodes at YY, through each MLP at YY, then the heads and late MLPs of {circuit}"
    figure = sweeps(early, title, subtitle, one_range=False)
    write(figure, name="appendix/low-mlps-ipp")

# %% What is left of the probability heatmap when all but the late half of the circuit gets the 01 data?
for late_half in found("late_half_probs.pt").values():
    title = titled("Probability heatmap of the late half")
    figure = probability_heatmap(late_half, title, f"all but the late half of {circuit} gets the 01 data", probs)
    write(figure, name="late-half-probability-heatmap")

# %% And when all but the full circuit does?
for full_circuit in found("full_circuit_probs.pt").values():
    title = titled("Probability heatmap of the full circuit")
    figure = probability_heatmap(full_circuit, title, f"all but {circuit} gets the 01 data", probs)
    write(figure, name="appendix/full-circuit-probability-heatmap")

# %% How do the nodes of the circuit hang together, and how much does each link matter?
if "circuit.json" in made:
    title = titled(f"{circuit[0].upper()}{circuit[1:]}")
    write(circuit_figure(links_from_json(made["circuit.json"]["links"]), title), name="circuit")

# %% And on 10,000 sentences, when a part of the model, or all but that, gets the 01 data?
PARTS = {  # the figure, and its artifact, what is on clean data, and what is on 01 data
    "patched-probability-heatmap": ("patched_probs.pt", "the late half", "all but the late half of {}"),
    "appendix/full-patched-probability-heatmap": ("full_patched_probs.pt", "the full circuit", "all but {}"),
    "appendix/complement-probability-heatmap": (
        "complement_probs.pt",
        "all but the late half",
        "the late half of {}",
    ),
}
if many and not of_many:
    print("left out: the heatmaps, for which big_ds_experiments.py had too few sentences")
followed = many.record["numbers"]["circuit"] if many and of_many else None
for name, (artifact, part, corrupted) in PARTS.items() if of_many else ():
    subtitle = f"{corrupted.format(followed)} gets the 01 data"
    title = titled(f"Probability heatmap of {part}")
    write(probability_heatmap(of_many[artifact], title, subtitle, like=of_many["clean_probs.pt"]), name)

# %% Everything is drawn: publish it.
plots.publish()
