"""The figures of a validation are those of its tables; tests that were not made have none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from path_patching.circuits.validation.measuring import CHANGE
from path_patching.circuits.validation.verdicts import BARS
from path_patching.gpt2.model import GPT2_SMALL
from path_patching.numbers import in_unit
from tests.helpers.drawn import (
    Drawing,
    axes_read,
    check_curves,
    check_heatmaps,
    check_histogram,
    check_intervals,
    check_titles,
    draw,
    heatmap,
    named,
    panels,
    publish,
    subtitle,
)
from tests.helpers.edge_patching import all_edges
from tests.helpers.experiments import made_by, random_gpt2
from tests.helpers.validation_tables import ABILITIES, CIRCUIT, KINDS, LOWER, NODES, NUMBERS, PARTS, ends, tables

SCRIPT = "validation_plots"
TABLES = tables()
CELL = "{:.1f}<br>[{:.1f}, {:.1f}]"
F = "F (%): 0 for all on 01 data, 100 for the whole model"


def publish_tables(folder, tables: dict[str, pd.DataFrame], numbers=NUMBERS) -> None:
    """A validation that left these tables."""
    named = enumerate(tables.items())
    artifacts = {f"{place}.csv": (table, {"kind": f"validation_{kind}"}) for place, (kind, table) in named}
    publish("circuit_validation", folder, artifacts, numbers)


@pytest.fixture(scope="module")
def drawing(tmp_path_factory) -> Drawing:
    folder = tmp_path_factory.mktemp("artifacts")
    publish_tables(folder, TABLES)
    return draw(SCRIPT, folder)


@pytest.fixture(scope="module")
def figures(drawing):
    return {name.removeprefix("validation/"): figure for name, figure in drawing.figures.items()}


def rows(name: str, /, **where: object) -> pd.DataFrame:
    """The rows of a table in which its columns are these."""
    table = TABLES[name]
    for column, value in where.items():
        table = table[table[column] == value]
    return table


def test_every_figure_has_its_title_and_nothing_is_left_out(drawing):
    areas = "CPR 0.911 (0.433 at random), CMD 0.122 (0.544 at random)"
    said = {
        "sizes": (
            "Faithfulness of circuits of each size",
            f"nodes at END, ranked on one half of the sentences, evaluated on the other; {areas}",
        ),
        "counterfactuals": (
            "Other counterfactuals",
            f"{CIRCUIT}; bars: F from {BARS['counterfactual'].words}, a control's span {BARS['control'].words}; grey: "
            "the span is too small to judge F by",
        ),
        "strength": (
            "Patches of graded strength",
            f"{CIRCUIT}; all paths of the late half, and those through each node",
        ),
        "specificity": ("What abilities lose without circuits", ""),
        "interactions": (
            "Interactions of nodes at END",
            f"{CIRCUIT}; effect of two nodes patched together, minus those of each",
        ),
        "membership": (
            "How often the search finds each node again",
            "on draws of the sentences; nodes of over half of the searches at some threshold; grey: not searched",
        ),
        "circuit": (
            f"What F loses with each link of {CIRCUIT}",
            "beside a node: how many searches at a threshold of 0.02 find it again; links run upwards; a dashed one "
            "raises the F when it is patched",
        ),
    }
    for part in PARTS:
        name = part.replace(" ", "-")
        counts = "needed: one of the two, whichever, is 1 % (dashed) or more with its whole interval, either way"
        needed = f"{CIRCUIT}; {counts}"
        said[f"minimality-{name}"] = (f"What the {part} loses with each node", needed)
        equal = f"{CIRCUIT}; 0: what is removed costs the model what it costs the circuit; dashed: the bar, ±30 %"
        said[f"completeness-{name}"] = (f"Completeness of the {part}", equal)
        for kind in KINDS:
            below = "119 circuits of the same shape"
            said[f"random-{name}-{kind.replace(' ', '-')}"] = (f"F of random circuits, {part}, {kind}", below)
    check_titles(drawing.figures, {f"validation/{name}": each for name, each in said.items()})
    assert [line for line in drawing.lines if "left out" in line] == []


def test_curves_over_sizes_are_those_of_their_order_and_the_circuit_is_a_ring(figures):
    sizes = rows("sizes")
    expected = {
        "nodes by |effect|": sizes[["nodes", "by_effect"]] * [1, 100],
        "nodes at random (mean)": sizes[["nodes", "at_random"]] * [1, 100],
        "the bar: 10 % below": sizes[["nodes", "by_effect"]].to_numpy(float) * [1, 100] - [0, 10],
        CIRCUIT: [(3, 87.5)],
    }
    check_curves(figures["sizes"], expected, "nodes at END", F)
    assert [trace.mode for trace in figures["sizes"].data] == ["lines", "lines", "lines", "markers"]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", KINDS)
def test_random_circuits_are_counted_beside_the_circuit_alone_and_the_model_without_it(figures, part, kind):
    of_both = rows("random", part=part, kind=kind)
    drawn, own = of_both[of_both["drawn"]], of_both[~of_both["drawn"]].iloc[0]
    own_marks = {CIRCUIT: own["alone"], f"the model without {CIRCUIT}": own["without"]}
    bar = {"the bar, p at most 0.01": drawn["alone"].max()}  # of 119: only more than all would pass
    marks = {f"{name}, {100 * at:.0f} %": 100 * at for name, at in (own_marks | bar).items()}
    figure = figures[f"random-{part}-{kind}".replace(" ", "-")]
    check_histogram(figure, drawn["alone"], marks, "F of the circuit alone")


@pytest.mark.parametrize("part", PARTS)
def test_what_each_part_loses_with_its_nodes(figures, part):
    lost = rows("nodes", part=part)
    groups = {"alone": 100 * lost[[*ends("alone")]], "without its class": 100 * lost[[*ends("given_class")]]}
    figure = figures[f"minimality-{part}".replace(" ", "-")]
    check_intervals(figure, groups, "loss of F (%)", [*lost["node"]])
    assert [line.x0 for line in figure.layout.shapes] == [-100 * CHANGE, 100 * CHANGE]


@pytest.mark.parametrize("part", PARTS)
def test_completeness_is_the_gap_of_each_removal_with_the_nodes_of_few_random_ones(figures, part):
    removed = ["nothing", "MLPs", "nodes at random: a7.h10@END m8@END", "nodes at random: a7.h10@END m8@END m9@END"]
    x_title = "F of the model − F of the circuit, both without these (%)"
    gaps = 100 * rows("completeness", part=part)[[*ends("gap")]]
    figure = figures[f"completeness-{part}".replace(" ", "-")]
    check_intervals(figure, {"": gaps}, x_title, removed)
    assert [line.x0 for line in figure.layout.shapes] == [-30, 30]


def test_counterfactuals_have_no_f_where_their_span_is_too_weak_or_a_control_s(figures):
    columns = {
        "span (% of 01's)": "share_of_01",
        "F, late half (%)": "late_half",
        "F, full circuit (%)": "full_circuit",
        "sweep like 01's (ρ)": "rank_correlation",
    }
    values = rows("counterfactuals")[[*columns.values()]].to_numpy(float).copy()
    values[2:, 1:3] = np.nan
    values *= 100
    schemes = ["01", "another YY", "another noun (control)", "another century (control)", "mean ablation"]
    one, y = named("", [""]), named("", schemes)
    expected = {
        name: heatmap(of_column[:, None], one, y, "100 % or ρ = 1: as the whole model, or as 01", of=values,
                      texts=[["" if np.isnan(each) else f"{each / 100:.2f}" if "ρ" in name else f"{each:.1f}"]
                             for each in of_column])
        for name, of_column in zip(columns, values.T, strict=True)
    }  # fmt: skip
    check_heatmaps(figures["counterfactuals"], expected)


def test_a_curve_over_the_strength_of_the_patch_is_that_of_its_subject(figures):
    expected = {
        subject: rows("strength", subject=subject)[["alpha", "probability_difference"]] * [1, 100]
        for subject in ("late half", *NODES)
    }
    figure = figures["strength"]
    shown = panels(figure)
    assert [title for title, _ in shown] == [*expected]
    for title, trace in shown:
        np.testing.assert_allclose(np.column_stack([trace.x, trace.y]), expected[title], err_msg=title)
        x, y = axes_read(figure, trace)
        assert (x.title, y.title) == ("strength α (1: 01 data)", "probability difference (points)")


def test_what_random_circuits_take_as_well_and_where_nodes_hardly_interact_is_said(tmp_path):
    specificity, interactions = (TABLES[kind].copy() for kind in ("specificity", "interactions"))
    own = specificity["ability"] == specificity["circuit"]
    specificity.loc[own, "lost"] = [0.9, 1.0, 0.3]
    specificity.loc[own, "lost_by_chance"] = [0.2, 0.97, 0.3]
    interactions["effect"] /= 1e4
    artifacts = {
        f"{kind}.csv": (table, {"kind": f"validation_{kind}"})
        for kind, table in (("specificity", specificity), ("interactions", interactions))
    }
    publish("circuit_validation", tmp_path, artifacts, NUMBERS)
    drawn = draw(SCRIPT, tmp_path).figures
    alike = "random circuits take as much, so that the loss says nothing of the circuit"
    assert subtitle(drawn["validation/specificity"]) == f"{alike} (copying centuries: 97.0 %)"
    assert subtitle(drawn["validation/interactions"]).endswith("; no effect reaches 0.1 points")


def test_what_abilities_lose_is_in_percent_with_its_interval_and_beside_it_what_random_circuits_take(figures):
    x, y = named("circuit impeded", ABILITIES), named("ability measured", ABILITIES)
    percent = {
        name: (100 * rows("specificity")[[*ends(name)]].to_numpy(float)).reshape(3, 3, 3)
        for name in ("lost", "lost_by_chance")
    }
    both = [each[..., 0] for each in percent.values()]
    shown = {
        name: [
            ["" if np.isnan(cell[0]) else "{:.1f}<br>[{:.1f}, {:.1f}]".format(*cell) for cell in row] for row in each
        ]
        for name, each in percent.items()
    }
    titles = {"lost": "its own or another's circuit", "lost_by_chance": "random circuits of its shape"}
    check_heatmaps(figures["specificity"], {
        title: heatmap(percent[name][..., 0], x, y, "share of the span lost (%)", of=both, texts=shown[name])
        for name, title in titles.items()
    })  # fmt: skip


def test_interactions_are_in_points_alike_on_both_sides_of_an_empty_diagonal(figures):
    effects = np.full((3, 3), np.nan)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        (effect,) = rows("interactions", one=NODES[a], other=NODES[b])["effect"]
        effects[a, b] = effects[b, a] = 100 * effect
    both = named("", ["a7.h10", "m8", "m9"])
    words = "change in probability difference (percentage points)"
    check_heatmaps(figures["interactions"], {"": heatmap(effects, both, both, words)})


def test_how_often_a_node_is_found_falls_with_the_threshold_nodes_at_end_first_and_grey_where_not_searched(figures):
    found = TABLES["membership"].pivot(index="threshold", columns="node", values="share")
    shares = found.loc[[0.05, 0.02, 0.001], [*NODES, *LOWER]].to_numpy().copy()
    shares[2, 3:] = np.nan
    figure = figures["membership"]
    x, y = named("node", [*NODES, *LOWER]), named("threshold (share of clean)", ["0.05", "0.02", "0.001"])
    check_heatmaps(figure, {"": heatmap(shares, x, y, "share of the searches")})


def test_the_drawing_has_what_f_loses_with_each_link_of_the_full_circuit_and_how_often_nodes_are_found(figures):
    figure = figures["circuit"]
    lost = [100 * each for each in rows("links", part="full circuit")["alone"]]
    lines = {trace.hovertemplate.removesuffix("<extra></extra>") for trace in figure.data if trace.hovertemplate}
    between = (
        "a7.h10@END → residual stream of logits@END", "m9@END → residual stream of logits@END",
        "a7.h10@END → residual stream of m9@END", "m0@YY → values of a7.h10@END",
        "embeds@YY → residual stream of m0@YY",
    )  # fmt: skip
    assert lines == {f"{link}<br>{in_unit(-each, '')} % of F" for link, each in zip(between, lost, strict=True)}
    assert {trace.legendgroup for trace in figure.data if trace.legendgroup} == {"read through", "effect (% of F)"}
    at_judged = rows("membership", threshold=0.02).set_index("node")["share"]
    boxes = {f"{at_judged[node]:.0%}" for node in ("a7.h10@END", "m9@END", "m0@YY")}
    assert {note.text for note in figure.layout.annotations if note.text.endswith("%")} == boxes


def test_tests_that_were_not_made_leave_their_figures_out(tmp_path):
    publish_tables(tmp_path, {"strength": TABLES["strength"]})
    drawn, lines, _ = draw(SCRIPT, tmp_path)
    assert list(drawn) == ["validation/strength"]
    assert sum(line.startswith("left out: the figure of") for line in lines) == 9


def test_nodes_that_are_hardly_ever_found_again_leave_their_figure_out_and_the_others_stay(tmp_path):
    """A figure without a column ended the drawing."""
    publish_tables(tmp_path, {"strength": TABLES["strength"], "membership": TABLES["membership"].assign(share=0.5)})
    drawing = draw(SCRIPT, tmp_path)
    assert list(drawing.figures) == ["validation/strength"]
    assert "left out: the figure of membership: no node is found by over half of the searches" in drawing.lines


def test_a_circuit_without_places_is_held_against_searches_without_theirs(tmp_path):
    """It has every edge of the model, so that there is no random circuit beside it."""
    file = tmp_path / "theirs.txt"
    file.write_text("\n".join(all_edges(replace(GPT2_SMALL, n_layers=2, n_heads=2))))
    tests = ("minimality", "stability", "specificity")
    flags = ("--engine", "torch", "--circuit", str(file), "--quick", "--only", *tests)
    made = made_by("circuit_validation", tmp_path, random_gpt2(tmp_path / "mine"), 97, *flags)
    nodes, found = made.load("validation_nodes.csv"), made.load("validation_membership.csv")
    assert {*nodes[nodes["part"] == "full circuit"]["node"]} == {"a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1"}
    assert {*found["node"]} <= {*nodes[nodes["part"] == "full circuit"]["node"]}
    figure = draw(SCRIPT, made.folder).figures["validation/circuit"]
    texts = [note.text for note in figure.layout.annotations]
    assert "at every position" in texts
    judged = found[found["threshold"] == made.number("stability/threshold")]
    assert sorted(text for text in texts if text.endswith("%")) == sorted(f"{share:.0%}" for share in judged["share"])


def test_of_a_span_of_zero_no_figure_is_drawn(tmp_path):
    given = ("alpha", "threshold")
    flat = {
        kind: table.assign(**{name: np.nan for name in table.select_dtypes("float") if name not in given})
        for kind, table in TABLES.items()
    }
    publish_tables(tmp_path, flat, {"circuit/name": CIRCUIT})
    drawing = draw(SCRIPT, tmp_path)
    assert drawing.figures == {}
    of_each = [line for line in drawing.lines if line.endswith("of which nothing could be measured: the span is zero")]
    assert len(of_each) == len(TABLES)
