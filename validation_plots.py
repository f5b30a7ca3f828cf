"""The figures of the validation, drawn from artifacts alone: python validation_plots.py --model gpt2

Run circuit_validation.py first. Figures go to paper-plots/validation, as interactive HTML, PDF and PNG; those of tests
that were not made are left out.
"""

# %% Whose artifacts? In an interactive window, change the settings below.
from functools import partial

from reproduction.command_line import read_settings

from reproduction.settings import PlotSettings

settings = read_settings(__doc__, PlotSettings())

import pandas as pd
import torch

from color_utils import diverging, sequential
from path_patching.circuits.circuit import Link
from path_patching.circuits.validation.matched import least_to_pass
from path_patching.circuits.validation.measuring import CHANGE
from path_patching.circuits.validation.verdicts import BARS, joined
from path_patching.numbers import in_unit
from reproduction.circuit_drawing import Measure, circuit_figure
from reproduction.figures import (
    change,
    curves,
    escaped,
    facets,
    hardly_any_effect,
    heatmap,
    intervals,
    named,
    share_histogram,
    small_curves,
)
from reproduction.plots import start_plots
from reproduction.run import read_artifacts
from reproduction.verdicts import interval_columns

# %% Which run is drawn? All of it is read and checked before the first figure replaces an earlier one.
artifacts = read_artifacts(settings.artifact_folder(), "circuit_validation")
kinds = {name: entry["kind"].removeprefix("validation_") for name, entry in artifacts.record["index"].items()}
tables = {kind: artifacts.load(name) for name, kind in kinds.items()}
plots = start_plots("validation_plots", settings, artifacts)
circuit = escaped(artifacts.number("circuit/name"))
MEASURED = {  # the column of each table without which there is nothing to draw
    "sizes": "by_effect",
    "random": "alone",
    "nodes": "alone",
    "links": "alone",
    "completeness": "gap",
    "counterfactuals": "share_of_01",
    "strength": "probability_difference",
    "specificity": "lost",
    "interactions": "effect",
    "membership": "share",
}
F = "F (%): 0 for all on 01 data, 100 for the whole model"


def made(*names: str) -> bool:
    """Whether these tables were made and hold numbers; if not, a line says which figure is left out."""
    for name in names:
        if name not in tables:
            print(f"left out: the figure of {name}, which circuit_validation.py did not test")
            return False
        if tables[name][MEASURED[name]].isna().all():
            print(f"left out: the figure of {name}, of which nothing could be measured: the span is zero")
            return False
    return True


def write(figure: object, name: str) -> None:
    """Write a figure to the validation's own folder."""
    plots.write(figure, f"validation/{name}")


def square(table: pd.DataFrame, rows: str, columns: str, values: str) -> pd.DataFrame:
    """A long table as a square one, rows and columns in the order in which they first occur."""
    found = table.pivot(index=rows, columns=columns, values=values)
    return found.loc[table[rows].unique(), table[columns].unique()]


# %% How good is a circuit of each size, and where is the circuit among them?
if made("sizes"):
    sizes, behind = tables["sizes"], BARS["on_curve"].most
    by_order = {
        "nodes by |effect|": sizes[["nodes", "by_effect"]].to_numpy(float) * [1, 100],
        "nodes at random (mean)": sizes[["nodes", "at_random"]].to_numpy(float) * [1, 100],
    }
    by_order[f"the bar: {100 * behind:g} % below"] = by_order["nodes by |effect|"] - [0, 100 * behind]
    nodes, own = artifacts.number("sizes/circuit/nodes"), artifacts.number("sizes/circuit/faithfulness")
    areas = ", ".join(
        f"{measure.upper()} {artifacts.number(f'sizes/by_effect/{measure}'):.3f} "
        f"({artifacts.number(f'sizes/at_random/{measure}'):.3f} at random)"
        for measure in ("cpr", "cmd")
    )
    title = plots.titled("Faithfulness of circuits of each size")
    subtitle = f"nodes at END, ranked on one half of the sentences, evaluated on the other; {areas}"
    write(curves(by_order, title, "nodes at END", F, subtitle, {circuit: (nodes, 100 * own.value)}), "sizes")

# %% Do random circuits do less?
if made("random"):
    for (part, kind), group in tables["random"].groupby(["part", "kind"], sort=False):
        drawn, own = group[group["drawn"]], group[~group["drawn"]].iloc[0]
        title = plots.titled(f"F of random circuits, {part}, {kind}")
        subtitle = f"{len(drawn)} circuits of the same shape"
        marks = {circuit: own["alone"], f"the model without {circuit}": own["without"]}
        alone = torch.tensor(drawn["alone"].to_numpy(float))
        if (least := least_to_pass(alone)) is not None:
            marks[f"the bar, p {BARS['random'].words}"] = least
        figure = share_histogram(alone, marks, title, subtitle, "F of the circuit alone")
        write(figure, f"random-{part}-{kind}".replace(" ", "-"))

# %% What does F lose with each node?
if made("nodes"):
    for part, lost in tables["nodes"].groupby("part", sort=False):
        columns = {"alone": "alone", "without its class": "given_class"}
        groups = {name: 100 * interval_columns(lost, column) for name, column in columns.items()}
        title, rows = plots.titled(f"What the {part} loses with each node"), named("", list(lost["node"]))
        least = 100 * CHANGE
        counts = (
            f"needed: one of the two, whichever, is {least:g} % (dashed) or more with its whole interval, either way"
        )
        figure = intervals(groups, title, "loss of F (%)", rows, f"{circuit}; {counts}", (-least, least))
        write(figure, f"minimality-{part}".replace(" ", "-"))


# %% How far do the model and the circuit part as nodes are removed from both?
def shown_set(removed: str, nodes: str) -> str:
    """What was removed, in words, with the nodes of a random or greedy set if they are few."""
    return f"{removed}: {nodes}" if removed.endswith(("at random", "greedily")) and len(nodes) < 30 else removed


if made("completeness"):
    for part, gaps in tables["completeness"].groupby("part", sort=False):
        removed = [shown_set(line.removed, line.nodes) for line in gaps.itertuples()]
        title, rows = plots.titled(f"Completeness of the {part}"), named("", removed)
        bar = 100 * BARS["completeness"].most
        subtitle = (
            f"{circuit}; 0: what is removed costs the model what it costs the circuit; dashed: the bar, ±{bar:g} %"
        )
        x_title = "F of the model − F of the circuit, both without these (%)"
        figure = intervals({"": 100 * interval_columns(gaps, "gap")}, title, x_title, rows, subtitle, (-bar, bar))
        write(figure, f"completeness-{part}".replace(" ", "-"))

# %% Does it hold for other counterfactuals?
if made("counterfactuals"):
    found = tables["counterfactuals"]
    columns = {
        "span (% of 01's)": "share_of_01",
        "F, late half (%)": "late_half",
        "F, full circuit (%)": "full_circuit",
        "sweep like 01's (ρ)": "rank_correlation",
    }
    values = found[[*columns.values()]].astype(float)
    weak = found["too_weak"] | found["control"]
    values.loc[weak, ["late_half", "full_circuit"]] = float("nan")  # of next to nothing
    schemes = found["scheme"] + found["control"].map({True: " (control)", False: ""})
    y = named("", list(schemes))
    title = plots.titled("Other counterfactuals")
    judged = f"bars: F from {BARS['counterfactual'].words}, a control's span {BARS['control'].words}"
    subtitle = f"{circuit}; {judged}; grey: the span is too small to judge F by"
    unit_of = {name: "" if column == "rank_correlation" else "%" for name, column in columns.items()}
    by_column = {name: 100 * values[[column]].to_numpy() for name, column in columns.items()}
    colours = partial(diverging, title="100 % or ρ = 1: as the whole model, or as 01")
    figure = facets(by_column, title, named("", [""]), y, colours, subtitle, 4, size=(150, 260))
    for trace, (name, column) in zip(figure.data, columns.items(), strict=True):
        shown = ["" if pd.isna(each) else in_unit(each, unit_of[name]) for each in values[column]]
        trace.update(text=[[each] for each in shown], texttemplate="%{text}")
    write(figure, "counterfactuals")

# %% Does a stronger patch do more?
if made("strength"):
    graded = {
        subject: of_subject[["alpha", "probability_difference"]].to_numpy(float) * [1, 100]
        for subject, of_subject in tables["strength"].groupby("subject", sort=False)
    }
    title = plots.titled("Patches of graded strength")
    subtitle = f"{circuit}; all paths of the late half, and those through each node"
    figure = small_curves(graded, title, "strength α (1: 01 data)", "probability difference (points)", subtitle)
    write(figure, "strength")

# %% Is it the circuit of greater-than alone?
AS_WELL = 0.9  # of what is lost with an ability's own circuit, from which on random ones count as doing as much


def lost_as_well() -> str:
    """Which abilities random circuits of the shape of their own take nearly as much of; empty if of none."""
    table = tables["specificity"]
    if "lost_by_chance" not in table:
        return ""
    own = table[(table["ability"] == table["circuit"]) & (table["lost"] >= BARS["own_loss"].least)]
    alike = own[own["lost_by_chance"] >= AS_WELL * own["lost"]]
    shares = [f"{line.ability}: {in_unit(line.lost_by_chance, '%')} %" for line in alike.itertuples()]
    return (
        f"random circuits take as much, so that the loss says nothing of the circuit ({', '.join(shares)})"
        if shares
        else ""
    )


if made("specificity"):
    panels, texts = {}, []
    panel_of = {"its own or another's circuit": "lost", "random circuits of its shape": "lost_by_chance"}
    for name, column in ((name, column) for name, column in panel_of.items() if column in tables["specificity"]):
        table = square(tables["specificity"], "ability", "circuit", column)
        panels[name] = 100 * table.to_numpy(float)
        ends = [square(tables["specificity"], "ability", "circuit", f"{column}_{end}") for end in ("low", "high")]
        cells = zip(table.to_numpy().flat, *(each.to_numpy().flat for each in ends), strict=True)
        shown = "{:.1f}<br>[{:.1f}, {:.1f}]"
        texts.append(["" if pd.isna(each[0]) else shown.format(*(100 * end for end in each)) for each in cells])
    x, y = named("circuit impeded", list(table.columns)), named("ability measured", list(table.index))
    title = plots.titled("What abilities lose without circuits")
    figure = facets(
        panels, title, x, y, partial(diverging, title="share of the span lost (%)"), lost_as_well(), size=(360, 300)
    )
    for trace, of_panel in zip(figure.data, texts, strict=True):
        rows = [of_panel[first : first + len(x.values)] for first in range(0, len(of_panel), len(x.values))]
        trace.update(text=rows, texttemplate="%{text}")
    write(figure, "specificity")

# %% Do its nodes add up?
if made("interactions"):
    pairs = tables["interactions"]
    names = list(dict.fromkeys(pairs["one"]))
    effects = torch.full((len(names), len(names)), torch.nan, dtype=torch.float64)
    for line in pairs[pairs["one"] != pairs["other"]].itertuples():
        row, column = names.index(line.one), names.index(line.other)
        effects[row, column] = effects[column, row] = 100 * line.effect
    labels = named("", [name.removesuffix("@END") for name in names])
    title = plots.titled("Interactions of nodes at END")
    subtitle = f"{circuit}; effect of two nodes patched together, minus those of each"
    said = joined(subtitle, hardly_any_effect({"": effects}))
    write(heatmap(effects, title, labels, labels, change, said), "interactions")


# %% Is it found again, node by node?
def often_found(membership: pd.DataFrame) -> list[str]:
    """The nodes of over half of the searches at some threshold; without one, a line says what is left out."""
    often = membership.groupby("node")["share"].max()
    if not (often > 0.5).any():
        print("left out: the figure of membership: no node is found by over half of the searches")
    return [*often[often > 0.5].index]


if made("membership") and (found_again := often_found(tables["membership"])):
    membership = tables["membership"]
    shown = membership[membership["node"].isin(found_again)]
    shown = shown.sort_values("threshold", ascending=False, kind="stable")  # nodes stay in the order of layers
    by_node = square(shown, "threshold", "node", "share").fillna(0)
    by_node = by_node[sorted(by_node.columns, key=lambda node: node.endswith("@YY"))]  # those at END first
    at_end = shown.loc[~shown["followed"], "threshold"].unique()  # with these, searches end there
    by_node.loc[at_end, [node for node in by_node.columns if node.endswith("@YY")]] = float("nan")
    x = named("node", list(by_node.columns))
    y = named("threshold (share of clean)", [f"{at:g}" for at in by_node.index])
    title = plots.titled("How often the search finds each node again")
    subtitle = "on draws of the sentences; nodes of over half of the searches at some threshold"
    if any(node.endswith("@YY") for node in by_node.columns):
        subtitle += "; grey: not searched"
    elif len(at_end):
        subtitle += f"; from {max(at_end):g} down, at END alone"
    size = (max(480, 18 * len(x.values)), 300)
    colours = partial(sequential, title="share of the searches")
    figure = heatmap(by_node.to_numpy(float), title, x, y, colours, subtitle, size)
    write(figure.update_xaxes(tickangle=-90).update_layout(plot_bgcolor="lightgrey"), "membership")

# %% And on the circuit itself: what F loses with each link, and how often each node is found again.
if made("links", "membership"):
    lost = tables["links"][tables["links"]["part"] == "full circuit"]
    links = {Link(line.reader, line.via, line.sender): -line.alone for line in lost.itertuples()}
    judged = artifacts.number("stability/threshold")
    shares = tables["membership"][tables["membership"]["threshold"] == judged]
    beside = {line.node: f"{line.share:.0%}" for line in shares.itertuples()}
    said = f"beside a node: how many searches at a threshold of {judged:g} find it again"
    title = plots.titled(f"What F loses with each link of {circuit}")
    figure = circuit_figure(links, title, Measure("F", "% of F", 100), said, beside)
    write(figure, "circuit")

# %% Everything is drawn: publish it.
plots.publish()
