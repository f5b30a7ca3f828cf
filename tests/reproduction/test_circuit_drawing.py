from __future__ import annotations

import random
from functools import cache
from itertools import combinations

import plotly.graph_objects as go
import pytest

from path_patching.circuits.circuit import LOGITS, Circuit, Link
from path_patching.circuits.papers_shape import in_papers_shape
from path_patching.circuits.random_circuits import random_circuit
from path_patching.gpt2.model import GPT2_SMALL
from reproduction.circuit_drawing import COLOURS, INPUTS, circuit_figure
from reproduction.figures import figure_files
from reproduction.paper import PAPER

BARE = in_papers_shape("bare", (), ("a0.h1",), (LOGITS,), ("embeds",), (), followed=("v",), whole=())
WHOLE = in_papers_shape("whole", ("m0",), ("a0.h1",), ("m0",), (), (), followed=(), whole=("q", "k", "v"))
UNPLACED = Circuit(
    "without places",
    tuple(map(Link.parse, ("m1 → logits", "a1.h0 → m1", "m0 →v a1.h0", "a0.h1 →q a1.h0", "embeds → m0", "m0 → m1",
                           "everything →k a0.h1"))),
)  # fmt: skip
DRAWN = [random_circuit(PAPER, GPT2_SMALL, random.Random(seed)) for seed in range(4)]
CIRCUITS = [PAPER, BARE, WHOLE, UNPLACED, *DRAWN]
each_circuit = pytest.mark.parametrize("circuit", CIRCUITS, ids=lambda circuit: circuit.name)


def some_effects(circuit: Circuit) -> dict[Link, float]:
    """Effects of every size and sign."""
    rng = random.Random(0)
    return {link: rng.choice((-1, -1, 1)) * 10 ** rng.uniform(-6, -0.1) for link in circuit.links}


@cache
def figure_of(circuit: Circuit) -> go.Figure:
    return circuit_figure(some_effects(circuit), "title")


def sender(link: Link) -> str:
    at_end = "@END" if "@" in link.reader else ""
    return f"everything{at_end}" if link.sender == "everything" else link.sender


def drawn_links(figure: go.Figure) -> list[go.Scatter]:
    return [trace for trace in figure.data if trace.x[0] is not None]


def ends(trace: go.Scatter) -> tuple[str, str]:
    """The sender and the reader that the pointer names, by name and position: ("m0@YY", "a9.h1@END")."""
    sent, read = trace.hovertemplate.split("<br>")[0].split(" → ")
    return sent, read.split(" of ")[1]


def boxes(figure: go.Figure) -> list[tuple[float, float, float, float]]:
    return [(shape.x0, shape.y0, shape.x1, shape.y1) for shape in figure.layout.shapes if shape.layer != "below"]


def panels(figure: go.Figure) -> list[go.layout.Shape]:
    return [shape for shape in figure.layout.shapes if shape.layer == "below"]


@each_circuit
def test_every_node_has_a_box_with_its_name_and_no_two_overlap(circuit):
    figure = figure_of(circuit)
    names = [note.text for note in figure.layout.annotations if not note.text.startswith("at ")]
    linked = {name for link in circuit.links for name in (sender(link), link.reader)}
    assert sorted(names) == sorted(name.split("@")[0] for name in linked)
    assert len(boxes(figure)) == len(names)
    for one, other in combinations(boxes(figure), 2):
        beside = one[2] <= other[0] or other[2] <= one[0]
        above = one[3] <= other[1] or other[3] <= one[1]
        assert beside or above


@each_circuit
def test_everything_lies_within_the_picture(circuit):
    figure = figure_of(circuit)
    (left, right), (bottom, top) = figure.layout.xaxis.range, figure.layout.yaxis.range
    for trace in drawn_links(figure):
        assert left <= min(trace.x) <= max(trace.x) <= right
        assert bottom <= min(trace.y) <= max(trace.y) <= top
    assert all(left <= x0 and x1 <= right and bottom <= y0 and y1 <= top for x0, y0, x1, y1 in boxes(figure))
    layout, margin = figure.layout, figure.layout.margin
    assert layout.width - margin.l - margin.r == pytest.approx(right - left)
    assert layout.height - margin.t - margin.b == pytest.approx(top - bottom)


@each_circuit
def test_every_link_runs_upwards_between_the_boxes_of_its_nodes(circuit):
    figure = figure_of(circuit)
    middle = {}
    for note in figure.layout.annotations:
        for panel in panels(figure):
            if not note.text.startswith("at ") and panel.x0 <= note.x <= panel.x1:
                middle[note.text, panels(figure).index(panel)] = (note.x, note.y)
    place = {"YY": 0, "END": len(panels(figure)) - 1, "": 0}
    for trace in drawn_links(figure):
        for end, at in zip(ends(trace), (0, -1), strict=True):
            name, _, position = end.partition("@")
            x, y = middle[name, place[position]]
            assert abs(trace.x[at] - x) <= 32
            assert abs(trace.y[at] - y) <= 11
        assert trace.y[-1] > trace.y[0]


def test_queries_keys_and_values_enter_a_head_from_left_to_right():
    inputs = (
        "a0.h0 →v a1.h0",
        "a0.h1 →q a1.h0",
        "a0.h2 →k a1.h0",
        "a1.h0 → logits",
        "everything →v a0.h0",
        "everything →q a0.h1",
        "everything →k a0.h2",
    )
    drawn = drawn_links(figure_of(Circuit("one head", tuple(map(Link.parse, inputs)))))
    entered = {sent: trace.x[-1] for trace in drawn for sent, read in [ends(trace)] if read == "a1.h0"}
    assert sorted(entered, key=entered.get) == ["a0.h1", "a0.h2", "a0.h0"]


def test_the_papers_circuit_is_drawn_whole():
    figure = circuit_figure(some_effects(PAPER), "title")
    names = [note.text for note in figure.layout.annotations]
    expected = ["at YY", "at END", LOGITS, "everything", "embeds", *PAPER.mlps, *PAPER.heads, *PAPER.lower]
    assert sorted(names) == sorted(expected)


def test_a_circuit_without_places_is_drawn_at_every_position_with_what_is_said_of_its_nodes():
    effects = dict.fromkeys(UNPLACED.links, -0.1)
    figure = circuit_figure(effects, "title", said="beside a node: how often", beside={"a1.h0": "80%"})
    texts = [note.text for note in figure.layout.annotations]
    assert sorted(texts) == sorted(["at every position", "80%", LOGITS, "everything", "embeds", *UNPLACED.members])
    assert {ends(trace) for trace in drawn_links(figure)} == {(sender(each), each.reader) for each in UNPLACED.links}


def test_a_small_circuit_leaves_room_for_its_subtitle():
    figure = circuit_figure(dict.fromkeys(BARE.links, -0.1), "title", said="beside a node: " + 50 * "w")
    assert figure.layout.title.subtitle.font.size > 9


def test_lines_are_as_wide_as_effects_are_large():
    effects = some_effects(PAPER)
    figure = circuit_figure(effects, "title")
    width = {}
    for link, effect in effects.items():
        said = f"{sender(link)} → {INPUTS[link.via]} of {link.reader}<br>"
        for trace in drawn_links(figure):
            if trace.hovertemplate.startswith(said):
                width[abs(effect)] = trace.line.width
                assert trace.line.color == COLOURS[link.via]
                assert (trace.line.dash is not None) == (effect > 0)
                assert f"{100 * effect:.2f} percentage points" in trace.hovertemplate.replace("−", "-")
    assert len(width) == len(drawn_links(figure)) > 50
    in_order = [width[size] for size in sorted(width)]
    assert in_order == sorted(in_order)
    assert in_order[-1] > 10 * in_order[0]
    strongest = max(width)
    for size, drawn in width.items():
        if drawn > 1:
            assert drawn / in_order[-1] == pytest.approx((size / strongest) ** 0.5)


def test_links_that_hardly_matter_are_left_out_and_counted_but_no_node_is():
    effects = dict.fromkeys(PAPER.links, -1e-6) | {Link("logits@END", "in", "m10@END"): -0.5}
    figure = circuit_figure(effects, "title")
    drawn = [ends(trace) for trace in drawn_links(figure)]
    assert 0 < len(drawn) < len(effects) / 2
    said = f"links of less than 0.5 percentage points that are not drawn: {len(effects) - len(drawn)}"
    assert said in figure.layout.title.subtitle.text.replace("<br>", " ")
    linked = {name for link in drawn for name in link}
    assert linked == {name for link in effects for name in (sender(link), link.reader)}


def test_nothing_is_said_of_left_out_links_where_there_are_none():
    figure = circuit_figure(dict.fromkeys(PAPER.links, -0.1), "title")
    assert len(drawn_links(figure)) == len(PAPER.links)
    assert "not drawn" not in figure.layout.title.subtitle.text


def test_a_circuit_whose_links_have_no_effect_is_drawn_too():
    figure = circuit_figure(dict.fromkeys(BARE.links, 0.0), "title")
    assert len(drawn_links(figure)) == 2


def test_the_legend_explains_inputs_and_widths():
    figure = circuit_figure(dict.fromkeys(PAPER.links, -0.43), "title")
    entries = [trace.name for trace in figure.data if trace.x[0] is None]
    assert entries == ["residual stream", "queries", "keys", "values", "40", "10", "1", "0.1"]
    figure = circuit_figure(dict.fromkeys(PAPER.links, -0.23), "title")
    assert [trace.name for trace in figure.data if trace.x[0] is None][-3:] == ["10", "1", "0.1"]  # 20 looks like 10


def test_the_drawing_is_written_like_every_figure(monkeypatch):
    monkeypatch.setattr("reproduction.figures.renderer_starts", lambda: False)
    text = figure_files(circuit_figure(some_effects(PAPER), "The paper's circuit"), "circuit")["circuit.html"].decode()
    assert "a9.h1" in text
    assert "http" not in text
