from __future__ import annotations

import html

import plotly.graph_objects as go
import plotly.io
import pytest
import torch

from color_utils import RED_WHITE_BLUE, diverging, round_up, sequential
from reproduction import figures
from reproduction.figures import (
    PREDICTED_YEAR,
    YY,
    facets,
    figure_files,
    head_tiles,
    heatmap,
    lines,
    named,
    sweeps,
    titled,
)

# plotly 6 says at every step that kaleido 0 is deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

TWO_BY_THREE = (named("column", "abc"), named("row", "de"))


def two_by_three(values: torch.Tensor, colours: figures.Colours = figures.change) -> go.Figure:
    return heatmap(values, "title", *TWO_BY_THREE, colours)


def bar_labels(figure: go.Figure, coloraxis: str = "coloraxis") -> tuple[str, ...]:
    return figure.layout[coloraxis].colorbar.ticktext


@pytest.mark.parametrize(
    ("value", "bound"), [(0.0, 1.0), (0.1, 0.1), (0.137, 0.15), (0.81, 1.0), (9.01, 10.0), (11.2, 12.0), (3e-7, 3e-7)]
)
def test_ranges_end_at_the_next_round_number(value, bound):
    assert round_up(value) == bound


def test_a_diverging_scale_is_symmetric_white_at_zero_and_contains_the_data():
    scale = diverging(torch.tensor([-0.48, 0.1]).numpy(), "change")
    assert (scale.low, scale.high) == (-0.5, 0.5)
    assert len(RED_WHITE_BLUE) % 2 == 1
    assert RED_WHITE_BLUE[len(RED_WHITE_BLUE) // 2] == "rgb(255,255,255)"


@pytest.mark.parametrize("colours", [sequential, diverging])
@pytest.mark.parametrize("values", [[0.0, 0.0], [float("nan"), float("inf")], [float("nan"), 0.0]])
def test_data_without_a_range_gets_one(colours, values):
    scale = colours(torch.tensor(values).numpy(), "values")
    assert scale.high == 1.0
    assert scale.low in (0.0, -1.0)


def test_what_is_not_finite_is_left_out_of_the_range_and_drawn_as_missing():
    figure = two_by_three(torch.tensor([[1.0, -2.0, float("nan")], [float("inf"), 0.0, float("-inf")]]))
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-2.0, 2.0)
    drawn = torch.as_tensor(figure.data[0].z)
    assert torch.isnan(drawn).tolist() == [[False, False, True], [True, False, True]]
    assert figure.layout.plot_bgcolor not in RED_WHITE_BLUE


def test_a_colour_bar_says_when_the_data_goes_beyond_it():
    probs = torch.full((97, 100), 0.01)
    assert bar_labels(figures.probability_heatmap(probs, "title"))[-1] == "0.01"
    probs[-1, -1] = 0.9
    figure = figures.probability_heatmap(probs, "title")
    assert figure.layout.coloraxis.cmax == 0.01
    assert bar_labels(figure)[-1] == "≥ 0.01"


def test_a_probability_heatmap_takes_over_the_colours_of_another():
    figure = figures.probability_heatmap(torch.full((97, 100), 0.3), "title", like=torch.full((97, 100), 0.25))
    assert figure.layout.coloraxis.cmax == 0.25
    assert bar_labels(figure)[-1] == "≥ 0.25"


def test_years_have_two_digits_and_label_both_ends():
    assert list(PREDICTED_YEAR.ticks.values()) == ["00", "10", "20", "30", "40", "50", "60", "70", "80", "90", "99"]
    assert list(YY.ticks.values()) == ["02", "10", "20", "30", "40", "50", "60", "70", "80", "90", "98"]
    layout = figures.probability_heatmap(torch.rand(97, 100), "title").layout
    assert layout.xaxis.ticktext == tuple(PREDICTED_YEAR.ticks.values())
    assert layout.yaxis.ticktext == tuple(YY.ticks.values())
    assert (layout.xaxis.title.text, layout.yaxis.title.text) == ("predicted year", "YY")


def test_a_sweep_is_drawn_in_points_with_layer_0_at_the_top_and_the_mlp_last():
    sweep = torch.zeros(12, 13)
    sweep[9, 1], sweep[10, 12] = -0.1, -0.5
    figure = sweeps({"": sweep}, "title")
    assert figure.data[0].z[9, 1] == pytest.approx(-10)
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-50, 50)
    assert figure.layout.yaxis.autorange == "reversed"
    assert figure.layout.xaxis.ticktext == (*map(str, range(12)), "MLP")


@pytest.mark.parametrize(("n_layers", "n_heads"), [(2, 4), (24, 16), (48, 25)])
def test_a_sweep_takes_its_axes_from_the_tensor(n_layers, n_heads):
    layout = sweeps({"": torch.rand(n_layers, n_heads + 1)}, "title").layout
    assert (len(layout.yaxis.tickvals), len(layout.xaxis.tickvals)) == (n_layers, n_heads + 1)


def test_panels_share_one_range():
    figure = facets({"m11": torch.ones(2, 3), "m10": -3 * torch.ones(2, 3)}, "title", *TWO_BY_THREE, figures.change)
    assert {trace.coloraxis for trace in figure.data} == {"coloraxis"}
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-3, 3)
    assert [note.text for note in figure.layout.annotations[:2]] == ["m11", "m10"]


@pytest.mark.parametrize("n_panels", [1, 2, 3, 4])
def test_panels_with_ranges_of_their_own_have_bars_that_lie_between_them(n_panels):
    panels = {f"m{index}": (index + 1) * torch.ones(2, 3) for index in range(n_panels)}
    figure = facets(panels, "title", *TWO_BY_THREE, figures.logit, one_range=False)
    names = [figures._numbered("coloraxis", index) for index in range(n_panels)]
    assert [trace.coloraxis for trace in figure.data] == names
    assert [figure.layout[name].cmax for name in names] == [1, 2, 3, 4][:n_panels]
    for index, name in enumerate(names):
        x, y = figure.layout[figures._numbered("xaxis", index)], figure.layout[figures._numbered("yaxis", index)]
        bar = figure.layout[name].colorbar
        assert bar.x == x.domain[1]
        assert (bar.y - bar.len / 2, bar.y + bar.len / 2) == pytest.approx(y.domain)
    lefts = {figure.layout[figures._numbered("xaxis", index)].domain[0] for index in range(n_panels)}
    if n_panels > 1:
        plot_width = figure.layout.width - figure.layout.margin.l - figure.layout.margin.r
        gap = (max(lefts) - figure.layout.xaxis.domain[1]) * plot_width
        labels = max(len(label) for name in names for label in bar_labels(figure, name))
        assert gap > figures.BAR_GAP + figures.BAR_WIDTH + 6 * labels
        assert not [note for note in figure.layout.annotations if note.textangle == -90]
        assert figure.layout.title.subtitle.text == "colours: logit"


@pytest.mark.parametrize("height", [120, 200, 320, 900])
def test_the_title_of_a_bar_is_no_longer_than_the_bar_and_lies_within_the_figure(height):
    figure = facets({"": torch.ones(2, 3)}, "title", *TWO_BY_THREE, figures.change, size=(300, height))
    (title,) = [note for note in figure.layout.annotations if note.textangle == -90]
    lines_of = title.text.split("<br>")
    assert " ".join(lines_of) == figures.change(torch.ones(1).numpy()).title
    assert max(map(len, lines_of)) * figures.LETTER <= height
    assert title.xshift + figures.LINE * len(lines_of) <= figure.layout.margin.r


def test_only_outer_panels_carry_axis_titles_and_labels():
    panels = {name: torch.zeros(2, 3) for name in ("m5", "m4", "m3", "m2", "m1")}
    layout = facets(panels, "title", *TWO_BY_THREE, figures.change).layout
    x, y = ([layout[figures._numbered(axis, index)] for index in range(5)] for axis in ("xaxis", "yaxis"))
    assert [axis.showticklabels for axis in x] == [False, False, True, True, True]
    assert [axis.showticklabels for axis in y] == [True, False, False, True, False]
    assert [axis.title.text for axis in x] == ["", "", "column", "column", "column"]


@pytest.mark.parametrize(
    ("n_panels", "about", "columns"),
    [(1, 2, 1), (2, 2, 2), (3, 2, 3), (4, 2, 2), (5, 2, 3), (4, 3, 2), (5, 3, 3), (6, 3, 3), (7, 3, 4), (8, 4, 4)],
)
def test_no_panel_is_alone_in_the_last_row(n_panels, about, columns):
    assert figures._columns(n_panels, about) == columns


def test_labels_above_a_hole_have_room_before_the_next_row():
    def gap(n_panels: int) -> float:
        panels = {str(index): torch.zeros(2, 3) for index in range(n_panels)}
        x = named("key", ["<|endoftext|>", "the", "year"])
        layout = facets(panels, "title", x, TWO_BY_THREE[1], figures.change).layout
        between = layout.yaxis.domain[0] - layout[figures._numbered("yaxis", n_panels - 1)].domain[1]
        return between * (layout.height - layout.margin.t - layout.margin.b)

    letters = len("<|endoftext|>") * 12 / 2 / 2**0.5  # pixels of a slanted label of size 12
    assert gap(4) < letters
    assert gap(5) > figures.PANEL_TITLE + letters + 20


@pytest.mark.parametrize(
    ("high", "ticks"),
    [(1, "0 0.25 0.5 0.75 1"), (1.5, "0 0.5 1 1.5"), (0.15, "0 0.05 0.1 0.15"), (2.5, "0 0.5 1 1.5 2 2.5"),
     (3, "0 1 2 3"), (6, "0 1.5 3 4.5 6"), (80, "0 20 40 60 80"), (2.5e-5, "0 5e−06 1e−05 1.5e−05 2e−05 2.5e−05")],
)  # fmt: skip
def test_ticks_of_a_bar_are_short(high, ticks):
    figure = two_by_three(torch.tensor([[0.0, 0.0, high], [0.0, 0.0, 0.0]], dtype=torch.float64), figures.attention)
    assert " ".join(bar_labels(figure)) == ticks


@pytest.mark.parametrize("step", ["1", "1.2", "1.5", "2", "2.5", "3", "4", "5", "6", "8"])
@pytest.mark.parametrize("colours", [figures.attention, figures.logit])
def test_ticks_of_every_bar_reach_its_ends_and_zero(step, colours):
    figure = two_by_three(torch.full((2, 3), float(step), dtype=torch.float64), colours)
    bar = figure.layout.coloraxis
    assert (bar.colorbar.tickvals[0], bar.colorbar.tickvals[-1]) == pytest.approx((bar.cmin, bar.cmax))
    assert "0" in bar.colorbar.ticktext
    assert all(len(label.strip("−").replace(".", "").lstrip("0")) <= 2 for label in bar.colorbar.ticktext)


def test_powers_of_ten_are_all_written_alike():
    axis = figures.powers_of_ten(torch.tensor([0.0, 0.004, 0.7, torch.nan]))
    assert axis["ticktext"] == ["10<sup>−3</sup>", "10<sup>−2</sup>", "10<sup>−1</sup>", "10<sup>0</sup>"]
    assert axis["tickvals"] == [0.001, 0.01, 0.1, 1]


def test_a_long_subtitle_goes_on_in_a_further_line_within_the_figure():
    axes = [named("x", "ab"), named("y", "ab")]
    short, long = (heatmap(torch.eye(2), "a", *axes, figures.change, "word " * words) for words in (2, 60))
    lines_of = long.layout.title.subtitle.text.split("<br>")
    assert " ".join(lines_of).split() == ["word"] * 60
    size = long.layout.title.subtitle.font.size
    assert size == short.layout.title.subtitle.font.size
    assert max(map(len, lines_of)) * size / 2 <= 0.86 * long.layout.width
    more = figures.SUBTITLE_LINE * (len(lines_of) - 1)
    assert long.layout.margin.t - short.layout.margin.t == long.layout.height - short.layout.height == more > 0


# What is no signal


def test_next_to_nothing_on_the_years_is_said_and_pale():
    figure = figures.probability_heatmap(torch.full((97, 100), 1e-6), "title", "a task")
    assert figure.layout.title.subtitle.text == "a task; next to nothing of the probability is on the years (0.01 %)"
    assert figure.layout.coloraxis.cmax == 0.01
    rare = torch.full((97, 100), 1e-6)
    rare[3] = torch.nan  # a YY without a sentence
    panels = {"one": torch.full((97, 100), 0.009), "other": rare}
    figure = figures.probability_heatmaps(panels, "title")
    assert figure.layout.title.subtitle.text == "next to nothing of the probability is on the years (other: 0.01 %)"
    assert not figures.probability_heatmap(torch.full((97, 100), 2e-4), "title").layout.title.subtitle.text


@pytest.mark.parametrize("one_range", [True, False])
def test_a_sweep_without_an_effect_says_so_and_is_pale(one_range):
    weak, strong = torch.full((2, 3), 0.0009), torch.full((2, 3), 0.0011)
    weak[0, 0] = torch.nan
    figure = sweeps({"m1": -weak, "m2": weak}, "title", "at END", one_range)
    assert figure.layout.title.subtitle.text.startswith("at END; no effect reaches 0.1 points")
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-0.1, 0.1)
    of_one = sweeps({"m1": weak, "m2": -strong}, "title", "", one_range)
    assert of_one.layout.title.subtitle.text.startswith("no effect reaches 0.1 points (m1)")
    assert "no effect" not in (sweeps({"": -strong}, "title").layout.title.subtitle.text or "")


def test_values_that_do_not_fit_the_axes_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        two_by_three(torch.zeros(3, 2))


def test_position_names_may_repeat_and_are_not_taken_for_markup():
    positions = named("key", ["<|endoftext|>", "the", "year", "the"])
    figure = facets({"": torch.eye(4)}, "title", positions, positions, figures.attention)
    assert figure.layout.xaxis.ticktext == ("&lt;|endoftext|&gt;", "the", "year", "the")
    assert figure.layout.xaxis.tickvals == (0, 1, 2, 3)
    assert figure.data[0].z.shape == (4, 4)


def test_head_tiles_place_and_name_every_pattern():
    patterns = torch.zeros(2, 4, 3, 3)
    patterns[1, 2, 2, 0] = 0.7
    figure = head_tiles(patterns, ["<|endoftext|>", "YY", "END"], "title")
    grid = torch.as_tensor(figure.data[0].z)
    assert grid.shape == (2 * 4 - 1, 4 * 4 - 1)
    assert grid.nan_to_num().argmax() == (1 * 4 + 2) * grid.shape[1] + 2 * 4
    assert figure.data[0].text[1 * 4 + 2][2 * 4] == "a1.h2<br>END → &lt;|endoftext|&gt;"
    assert torch.isnan(grid[3]).all()
    assert torch.isnan(grid[:, 3]).all()
    assert figure.layout.xaxis.tickvals == (1, 5, 9, 13)
    assert figure.layout.xaxis.ticktext == ("0", "1", "2", "3")


def test_a_curve_starts_at_zero_and_is_marked_where_asked():
    figure = lines({"": torch.rand(100)}, "title", PREDICTED_YEAR, "probability", mark=(41, "YY = 41"))
    assert list(figure.data[0].x) == list(range(100))
    assert figure.layout.yaxis.rangemode == "tozero"
    assert figure.layout.shapes[0].x0 == figure.layout.shapes[0].x1 == 41
    assert "YY = 41" in [note.text for note in figure.layout.annotations]
    assert not figure.layout.showlegend


def test_several_curves_are_told_apart():
    figure = lines({"top 10": torch.rand(97), "top 100": torch.rand(97)}, "title", YY, "effect")
    assert figure.layout.showlegend
    assert figure.data[0].line.color != figure.data[1].line.color


@pytest.mark.parametrize(
    ("name", "as_published", "title"),
    [
        ("GPT-2 small", False, "Heatmap, GPT-2 small"),
        ("GPT-2 small", True, "Heatmap, GPT-2 small, as published"),
        ("stand-in", False, "Heatmap, stand-in (not GPT-2 small)"),
        ("a<b>", False, "Heatmap, a&lt;b&gt; (not GPT-2 small)"),
    ],
)
def test_titles_name_the_model(name, as_published, title):
    model = {"name": name, "is_gpt2_small": "GPT-2" in name}
    assert titled("Heatmap", {"model": model, "settings": {"as_published": as_published}}) == title


def test_a_long_title_is_set_smaller():
    short, long = (heatmap(torch.eye(2), text, *2 * [named("x", "ab")], figures.change) for text in ("a", "a" * 120))
    assert long.layout.title.font.size < short.layout.title.font.size
    assert long.layout.title.font.size * 0.5 * 120 <= long.layout.width


def test_pages_draw_without_a_network(monkeypatch):
    monkeypatch.setattr(figures, "renderer_starts", lambda: False)
    for name, script in (("small", "plotly.min.js"), ("appendix/small", "../plotly.min.js")):
        files = figure_files(two_by_three(torch.rand(2, 3)), name)
        assert set(files) == {f"{name}.html", f"plotly/{name}.json"}
        text = files[f"{name}.html"].decode()
        assert f'src="{script}"' in text
        assert "http" not in text


def test_the_data_of_a_figure_is_plotly_s():
    figure = two_by_three(torch.rand(2, 3))
    read = plotly.io.from_json(figure_files(figure, "small")["plotly/small.json"].decode())
    assert read == figure


def test_curves_through_points_have_places_of_their_own_and_rings_beside_them():
    points = torch.tensor([[0.0, 1.0], [0.5, 2.0], [2.0, 0.0]])
    figure = figures.curves({"one": points, "two": -points}, "t", "x", "y", "s", {"mine": (1.0, 0.5)})
    one, two, ring = figure.data
    assert (list(one.x), list(one.y)) == ([0, 0.5, 2], [1, 2, 0])
    assert one.line.color != two.line.color
    assert (ring.name, ring.x, ring.y, ring.mode) == ("mine", (1.0,), (0.5,), "markers")


def test_more_curves_than_colours_differ_in_their_dashes():
    many = {str(number): torch.zeros(2, 2) for number in range(len(figures.CURVES) + 1)}
    first, *_, last = figures.curves(many, "t", "x", "y").data
    assert first.line.color == last.line.color
    assert first.line.dash != last.line.dash


def test_intervals_reach_from_low_to_high_in_their_row():
    estimates = torch.tensor([[1.0, 0.5, 3.0], [0.0, -1.0, 0.5]])
    figure = figures.intervals({"all": estimates}, "t", "x", named("", ["a long name of a row", "b"]))
    [dots] = figure.data
    assert list(dots.x) == [1, 0]
    assert list(dots.y) == [0, 1]
    assert list(dots.error_x.array) == [2, 0.5]
    assert list(dots.error_x.arrayminus) == [0.5, 1]
    assert figure.layout.margin.l > figures.intervals({"all": estimates}, "t", "x", named("", "ab")).layout.margin.l


def test_small_curves_have_a_panel_each_and_the_same_axes():
    panels = {str(number): torch.tensor([[0.0, 1.0], [1.0, number]]) for number in range(5)}
    figure = figures.small_curves(panels, "t", "x", "y")
    assert [note.text for note in figure.layout.annotations] == [*panels]
    assert [list(trace.y) for trace in figure.data] == [[1, number] for number in range(5)]
    assert len({trace.xaxis + trace.yaxis for trace in figure.data}) == 5
    assert {figure.layout[figures._numbered("yaxis", index)].matches for index in range(5)} == {"y"}


def test_bars_of_intervals_are_dashed_lines():
    figure = figures.intervals({"": torch.zeros(1, 3)}, "t", "x", named("", "a"), bars=(-0.5, 0.5))
    assert [(line.x0, line.x1, line.line.dash) for line in figure.layout.shapes] == [
        (-0.5, -0.5, "dash"),
        (0.5, 0.5, "dash"),
    ]


@pytest.mark.parametrize("name", ["R&D", "a<b>", 'the "best"', "it's", "$x$ and $y$", "R&amp;D", "&quot;"])
def test_a_name_stands_in_a_figure_and_beside_it_as_it_is(name):
    record = {"model": {"name": name, "is_gpt2_small": False}, "settings": {"as_published": False}}
    shown = titled("What", record)
    assert html.unescape(shown) == f"What, {name} (not GPT-2 small)"
    assert "<" not in shown
    assert "$" not in shown
    assert "&quot;" not in shown.replace("&amp;quot;", "")
    assert "&#x27;" not in shown
