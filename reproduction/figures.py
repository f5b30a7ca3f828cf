"""Every kind of plot, all in one style, and how a figure becomes files.

`facets` draws heatmaps side by side, `heatmap` a single one. `probability_heatmap`, `sweeps` and `head_tiles` are the
paper's kinds of heatmap; `lines` draws curves. Values are tensors or arrays; what is not a finite number stays grey.
`figure_files` makes interactive HTML that needs no network (plotly.js is there once, beside the figures), and PDF and
PNG where kaleido 0.2.1 is installed.
"""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, cycle
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from plotly import colors
from plotly.subplots import make_subplots

from color_utils import BLUES, MISSING, ColourScale, diverging, sequential
from path_patching.circuits.validation.verdicts import joined
from reproduction.rendering import render, renderer_starts

Values = torch.Tensor | np.ndarray
Colours = Callable[[np.ndarray], ColourScale]  # chooses the range from the values that will be drawn

CURVES = (BLUES[7], "rgb(178,24,43)", "rgb(77,77,77)", "rgb(230,145,56)", "rgb(106,81,163)", "rgb(35,139,69)")
INK = "rgb(30,30,30)"
SHADES = tuple(colors.sequential.Viridis[:-1])  # of dots, without the last yellow, which is hard to see on white
# Lengths in pixels.
MARGIN = {"l": 75, "r": 115, "t": 72, "b": 65}  # above the title there is room for the page's buttons
PANEL_TITLE = 28  # above each panel
SUBTITLE, SUBTITLE_LINE = 28, 17
SUBTITLE_SIZE, SUBTITLE_SHARE = 13, 0.85  # of the figure's width, beyond which a subtitle goes on in a further line
BAR_GAP, BAR_WIDTH, BAR_ROOM = 10, 15, 95
LETTER, LINE = 7.5, 18  # of a bar's title
SLANTED, AXIS_TITLE = 5.5, 30  # height of a letter in a slanted label, and of an axis's title
LABEL_PLACES = {"top center": (0, 10), "middle right": (12, 0), "bottom center": (0, -10), "middle left": (-12, 0)}
PLOTLY_JS = "plotly.min.js"
PLOTLY_DATA = "plotly"  # folder of what `plotly.io.read_json` reads


@dataclass(frozen=True)
class Axis:
    """One axis of a heatmap or curve: its title, the coordinate of each cell, and the labels of some or all cells."""

    title: str
    values: Sequence[int]
    ticks: Mapping[int, str]

    def layout(self) -> dict[str, object]:
        """The axis for plotly. Cells without a label show two digits when the pointer is on them: years."""
        labels = {"tickvals": list(self.ticks), "ticktext": [escaped(label) for label in self.ticks.values()]}
        return {"tickmode": "array", "hoverformat": "02d", "showgrid": False, "zeroline": False} | labels


def years(title: str, first: int, last: int) -> Axis:
    """An axis of two-digit years, labelled at its ends and at every ten."""
    labelled = [first, *(year for year in range(first + 1, last) if year % 10 == 0), last]
    return Axis(title, range(first, last + 1), {year: f"{year:02d}" for year in labelled})


def named(title: str, names: Sequence[object]) -> Axis:
    """An axis of things with a name each: layers, heads, positions (whose names may repeat)."""
    return Axis(title, range(len(names)), {index: str(name) for index, name in enumerate(names)})


PREDICTED_YEAR = years("predicted year", 0, 99)
YY = years("YY", 2, 98)

# Ranges do not end below these, so that next to nothing looks like it. A model that knows nothing but that a year comes
# gives each of the 100 years 0.01; effects are said to a tenth of a point.
LEAST_PROBABILITY, LEAST_CHANGE = 0.01, 0.1
LEAST_ON_YEARS = 0.01  # of the probability, on all years together

# One cell in 500 may lie beyond the bar: for YY = 98 all probability is on 99, and the other rows would look pale.
probability: Colours = partial(sequential, title="probability", share=0.998, least=LEAST_PROBABILITY)
attention: Colours = partial(sequential, title="attention")
logit: Colours = partial(diverging, title="logit")
relative_logit: Colours = partial(diverging, title="logit minus year 00's logit")
change: Colours = partial(diverging, title="change in probability difference (percentage points)", least=LEAST_CHANGE)


def escaped(text: str) -> str:
    """A foreign text, such as a name, as plotly shows it: plotly reads tags, entities and TeX between $ in any text."""
    return html.escape(text, quote=False).replace("$", "&#36;")


def titled(what: str, record: Mapping[str, Any]) -> str:
    """A figure's title: what it shows and, from the artifacts' record, of which model, run how."""
    name = escaped(record["model"]["name"])
    model = name if record["model"]["is_gpt2_small"] else f"{name} (not GPT-2 small)"
    return f"{what}, {model}, as published" if record["settings"]["as_published"] else f"{what}, {model}"


def hardly_on_years(panels: Mapping[str, Values]) -> str:
    """Of which of some year probabilities (rows, 100) next to nothing is on the years; empty if of none."""
    on_years = {name: float(np.nanmean(np.nansum(_finite(probs), -1))) for name, probs in panels.items()}
    faint = [
        f"{name}: {100 * share:.1g} %".removeprefix(": ") for name, share in on_years.items() if share < LEAST_ON_YEARS
    ]
    return f"next to nothing of the probability is on the years ({', '.join(faint)})" if faint else ""


def hardly_any_effect(panels: Mapping[str, Values]) -> str:
    """In which of some panels of effects, in points, none reaches `LEAST_CHANGE`; empty if in none."""
    faint = [name for name, effects in panels.items() if not (np.abs(_finite(effects)) >= LEAST_CHANGE).any()]
    where = f" ({', '.join(faint)})" if len(faint) < len(panels) else ""
    return f"no effect reaches {LEAST_CHANGE:g} points{where}" if faint else ""


def probability_heatmap(probs: Values, title: str, subtitle: str = "", like: Values | None = None) -> go.Figure:
    """Collated year probabilities (97, 100): YY 02 … 98 downwards, predicted year 00 … 99 to the right.

    `like` has the probabilities of another heatmap; both then have the same colours and can be compared.
    """
    colours = probability if like is None else lambda _: probability(_finite(like))
    return heatmap(probs, title, PREDICTED_YEAR, YY, colours, joined(subtitle, hardly_on_years({"": probs})))


def probability_heatmaps(panels: Mapping[str, Values], title: str, subtitle: str = "") -> go.Figure:
    """Several of them (97, 100) each, in one range of colours."""
    said = joined(subtitle, hardly_on_years(panels))
    return facets(panels, title, PREDICTED_YEAR, YY, probability, said, columns=3, size=(440, 360))


def sweeps(panels: Mapping[str, Values], title: str, subtitle: str = "", one_range: bool = True) -> go.Figure:
    """Sweeps, a panel each: (layers, heads + 1) with the MLP last, in probability, drawn in points.

    There are two panels in a row; three if there are many, or one would be alone in its row.
    """
    n_layers, n_columns = next(iter(panels.values())).shape
    x, y = named("head", [*range(n_columns - 1), "MLP"]), named("layer", range(n_layers))
    size = (max(360, 24 * n_columns), max(320, 18 * n_layers))
    in_points = {name: 100 * values for name, values in panels.items()}
    said = joined(subtitle, hardly_any_effect(in_points))
    return facets(in_points, title, x, y, change, said, 3 if len(panels) > 4 else 2, one_range, size)


def attention_patterns(panels: Mapping[str, Values], positions: Sequence[str], title: str) -> go.Figure:
    """Attention patterns (T, T) of heads, query before key, at these positions."""
    return facets(panels, title, named("key", positions), named("query", positions), attention, size=(360, 340))


def logit_lenses(panels: Mapping[str, Values], title: str) -> go.Figure:
    """Collated year logits (97, 100) of nodes."""
    return facets(panels, title, PREDICTED_YEAR, YY, logit, columns=3)


def relative_logit_lenses(panels: Mapping[str, torch.Tensor], title: str) -> go.Figure:
    """The same, relative to year 00: of MLPs, which move all year logits together."""
    relative = {name: logits - logits[:, :1] for name, logits in panels.items()}
    columns = 2 if len(relative) <= 4 else 3
    return facets(relative, title, PREDICTED_YEAR, YY, relative_logit, columns=columns)


def heatmap(
    values: Values,
    title: str,
    x: Axis,
    y: Axis,
    colours: Colours,
    subtitle: str = "",
    size: tuple[int, int] = (480, 400),
) -> go.Figure:
    """One heatmap of `values` (len(y), len(x)), the first row at the top. `size` is that of the plot in pixels."""
    return facets({"": values}, title, x, y, colours, subtitle, size=size)


def facets(
    panels: Mapping[str, Values],
    title: str,
    x: Axis,
    y: Axis,
    colours: Colours,
    subtitle: str = "",
    columns: int = 2,
    one_range: bool = True,
    size: tuple[int, int] = (360, 300),
) -> go.Figure:
    """Heatmaps in rows of about `columns`, each titled by its key in `panels` and (len(y), len(x)), first row on top.

    They share one colour range and bar; with `one_range=False` each has its own, and what the bars show is said once,
    below the title. `size` is a panel's, in pixels. There are other columns where a panel would be alone in its row.
    Raises `ValueError` for values that do not fit the axes.
    """
    arrays = [_fitting(values, x, y) for values in panels.values()]
    columns = _columns(len(arrays), columns)
    ranges = [np.stack(arrays)] if one_range else arrays
    scales = [colours(values) for values in ranges]
    longest = max(map(len, x.ticks.values()))
    slant = {"tickangle": -45 if longest > 3 else 0}
    below = AXIS_TITLE + int(max(LINE, SLANTED * longest)) if len(arrays) % columns else 0
    figure = _panels(list(panels), columns, size, gap=30 if one_range else BAR_ROOM, below=17 + below)
    for index, array in enumerate(arrays):
        bar = 0 if one_range else index
        at = _place(index, columns)
        figure.add_trace(_cells(array, x, y, scales[bar].title, _numbered("coloraxis", bar)), **at)
        figure.update_xaxes(x.layout() | slant | _outer(x, index + columns >= len(arrays)), **at)
        figure.update_yaxes(y.layout() | _outer(y, index % columns == 0) | {"autorange": "reversed"}, **at)
    for index, (values, scale) in enumerate(zip(ranges, scales, strict=True)):
        labels = _bar_labels(scale, exceeded=bool((values > scale.high).any()))
        _add_colour_bar(figure, index, scale, labels, _area(figure, None if one_range else index))
    if len(ranges) == 1:
        _title_colour_bar(figure, scales[0].title, _area(figure, None))
    else:
        subtitle = joined(subtitle, f"colours: {scales[0].title}")
    figure.update_xaxes(matches="x").update_yaxes(matches="y").update_layout(plot_bgcolor=MISSING)
    return dressed(figure, title, subtitle)


def head_tiles(patterns: Values, positions: Sequence[str], title: str, subtitle: str = "") -> go.Figure:
    """A small attention pattern for every head: `patterns` is (layers, heads, T, T), query before key.

    One large heatmap with grey gaps, because hundreds of plots in one page are slow. The pointer names each cell.
    """
    n_layers, n_heads, n_positions, _ = patterns.shape
    tiled = np.pad(_finite(patterns), ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    grid = tiled.transpose(0, 2, 1, 3).reshape(n_layers * (n_positions + 1), -1)[:-1, :-1]  # (L·(T+1)−1, H·(T+1)−1)
    x, y = _tile_axis("head", n_heads, n_positions), _tile_axis("layer", n_layers, n_positions)
    pixels = max(4, 840 // len(x.values))
    size = (pixels * len(x.values), pixels * len(y.values))
    text = [[_tile_cell(positions, row, column) for column in x.values] for row in y.values]
    figure = heatmap(grid, title, x, y, attention, subtitle, size)
    return figure.update_traces(text=text, hovertemplate="%{text}<br>attention %{z:.3f}<extra></extra>")


def lines(
    curves: Mapping[str, Values],
    title: str,
    x: Axis,
    y_title: str,
    subtitle: str = "",
    mark: tuple[int, str] | None = None,
) -> go.Figure:
    """Curves (len(x),) over one axis, with y from zero, named by their keys; `mark` is an x and its label."""
    figure = _panels([""], 1, size=(560, 320), gap=0).update_layout(margin_r=30)
    for (name, values), colour in zip(curves.items(), cycle(CURVES)):
        figure.add_scatter(x=list(x.values), y=_finite(values), name=name, mode="lines", line_color=colour)
    figure.update_xaxes(x.layout() | {"title_text": x.title, "range": [x.values[0] - 1, x.values[-1] + 1]})
    figure.update_yaxes(title_text=y_title, rangemode="tozero", exponentformat="power")
    figure.update_layout(showlegend=len(curves) > 1)
    if mark is not None:
        figure.add_vline(
            mark[0], line_dash="dash", line_width=1, annotation_text=mark[1], annotation_position="top left"
        )
    return dressed(figure, title, subtitle)


def scatter(
    panels: Mapping[str, Mapping[str, Values]],
    title: str,
    x_title: str,
    y: str | Axis,
    subtitle: str = "",
    of: Axis | None = None,
    size: tuple[int, int] = (500, 450),
) -> go.Figure:
    """Dots (n, 2), x and y, in panels of one or more groups, named by their keys; those not finite are left out.

    With `of`, each dot of a group stands for a value of this axis: coloured by it, and labelled where there is room.
    `y` is a title, and panels have their own ranges; or it is an axis of rows, and panels share both axes.
    """
    columns, rows = _columns(len(panels), 2), y if isinstance(y, Axis) else None
    below = AXIS_TITLE if len(panels) % columns else 0
    figure = _panels(list(panels), columns, size, gap=30 if rows else 60, below=37 + below)
    for index, groups in enumerate(panels.values()):
        at = _place(index, columns)
        for group, (name, values) in enumerate(groups.items()):
            dots = _finite(values)
            look = _plain_dots(group) if of is None else _labelled_dots(of, _label_places(dots, size))
            look |= {"name": name, "legendgroup": name, "showlegend": len(groups) > 1 and index == 0}
            figure.add_scatter(x=dots[:, 0], y=dots[:, 1], **look, **at)
        outer = index % columns == 0
        figure.update_xaxes(title_text=x_title if index + columns >= len(panels) else "", **at)
        figure.update_yaxes(rows.layout() | _outer(rows, outer) if rows else {"title_text": y if outer else ""}, **at)
    if rows:
        figure.update_yaxes(range=[len(rows.values) - 0.5, -0.5]).update_xaxes(matches="x")
    if of is not None:
        scale = ColourScale(of.title, SHADES, of.values[0], of.values[-1])
        _add_colour_bar(figure, 0, scale, of.ticks, _area(figure, None))
        _title_colour_bar(figure, scale.title, _area(figure, None))
    return dressed(figure, title, subtitle)


def curves(
    named_curves: Mapping[str, Values],
    title: str,
    x_title: str,
    y_title: str,
    subtitle: str = "",
    points: Mapping[str, tuple[float, float]] | None = None,
) -> go.Figure:
    """Curves through points (n, 2), x and y, named by their keys; `points` are single ones, as rings and squares."""
    figure = _panels([""], 1, size=(560, 360), gap=0)
    dashes = [dash for dash in ("solid", "dash", "dot") for _ in CURVES]  # more curves than colours differ in these
    for (name, values), colour, dash in zip(named_curves.items(), cycle(CURVES), cycle(dashes)):
        dots = _finite(values)
        figure.add_scatter(x=dots[:, 0], y=dots[:, 1], name=name, mode="lines", line={"color": colour, "dash": dash})
    for (name, (x, y)), symbol in zip((points or {}).items(), cycle(("circle-open", "square-open"))):
        ring = {"symbol": symbol, "size": 12, "color": INK, "line_width": 2}
        figure.add_scatter(x=[x], y=[y], name=name, mode="markers", marker=ring)
    figure.update_xaxes(title_text=x_title).update_yaxes(title_text=y_title, zeroline=True, zerolinewidth=1)
    figure.update_layout(showlegend=True, margin_r=190)
    return dressed(figure, title, subtitle)


def small_curves(panels: Mapping[str, Values], title: str, x_title: str, y_title: str, subtitle: str = "") -> go.Figure:
    """A curve (n, 2), x and y, in a small panel each, titled by its key; all panels have the same axes."""
    columns = _columns(len(panels), 4)
    below = 37 + (AXIS_TITLE if len(panels) % columns else 0)
    figure = _panels(list(panels), columns, size=(210, 130), gap=30, below=below).update_layout(margin_r=30)
    for index, values in enumerate(panels.values()):
        at, dots = _place(index, columns), _finite(values)
        figure.add_scatter(x=dots[:, 0], y=dots[:, 1], mode="lines", line_color=CURVES[0], showlegend=False, **at)
        figure.update_xaxes(title_text=x_title if index + columns >= len(panels) else "", **at)
        outer = index % columns == 0
        figure.update_yaxes(title_text=y_title if outer else "", showticklabels=outer, **at)
    figure.update_yaxes(zeroline=True, zerolinewidth=1, zerolinecolor=MISSING, matches="y").update_xaxes(matches="x")
    return dressed(figure, title, subtitle)


def intervals(
    groups: Mapping[str, Values],
    title: str,
    x_title: str,
    rows: Axis,
    subtitle: str = "",
    bars: Sequence[float] = (),
) -> go.Figure:
    """Estimates with their intervals, a row each, of one or more groups: (len(rows), 3) value, low and high.

    `bars` are the numbers that a verdict compares them with, as dashed lines.
    """
    figure = _panels([""], 1, size=(520, 30 + 18 * len(rows.values)), gap=0)
    for group, (name, values) in enumerate(groups.items()):
        value, low, high = _finite(values).T
        ends = {"array": high - value, "arrayminus": value - low, "thickness": 1, "width": 3}
        look = _plain_dots(group) | {"name": name, "showlegend": len(groups) > 1}
        figure.add_scatter(x=value, y=list(rows.values), error_x=ends, **look)
    figure.update_xaxes(title_text=x_title, zeroline=True, zerolinewidth=1, zerolinecolor=MISSING)
    for bar in bars:
        figure.add_vline(bar, line_dash="dash", line_width=1)
    if bars:  # plotly alone would draw the outermost on the axis
        reach = np.concatenate([np.array(bars), *(_finite(values).ravel() for values in groups.values())])
        low, high = np.nanmin(reach), np.nanmax(reach)
        figure.update_xaxes(range=[low - 0.05 * (high - low), high + 0.05 * (high - low)])
    figure.update_yaxes(rows.layout() | {"title_text": rows.title, "range": [len(rows.values) - 0.5, -0.5]})
    longest = max(map(len, rows.ticks.values()))
    wider = max(0, int(LETTER * longest) - MARGIN["l"] + 20)
    figure.update_layout(margin_l=MARGIN["l"] + wider, margin_r=190 if len(groups) > 1 else 30)
    figure.update_layout(width=figure.layout.width + wider + (75 if len(groups) > 1 else 0))
    return dressed(figure, title, subtitle)


def dressed(figure: go.Figure, title: str, subtitle: str) -> go.Figure:
    """The figure with its title, room for a subtitle, and the look that all have in common."""
    said = textwrap.wrap(
        subtitle,
        max(1, int(SUBTITLE_SHARE * figure.layout.width / (SUBTITLE_SIZE / 2))),
        break_long_words=False,
        break_on_hyphens=False,
    )
    room = SUBTITLE + SUBTITLE_LINE * (len(said) - 1) if said else 0
    figure.update_layout(height=figure.layout.height + room, margin_t=figure.layout.margin.t + room)
    # A letter is about half as wide as it is high: a long title, or word, is set smaller rather than cut.
    fitting = 1.9 * figure.layout.width
    text = {"text": title, "font": {"size": min(17, fitting / len(title))}}
    longest = max(map(len, said), default=1)
    below = {"text": "<br>".join(said), "font": {"size": min(SUBTITLE_SIZE, fitting / longest)}}
    place = {"x": 0.5, "xanchor": "center", "y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 32}}
    return figure.update_layout(title=text | place | {"subtitle": below}, template="simple_white")


def figure_files(figure: go.Figure, name: str) -> dict[str, bytes]:
    """A figure's files by name: interactive HTML, its data for plotly and, if they can be rendered, PDF and PNG.

    `name` may begin with subfolders ("appendix/m11-ipp"); plotly's JavaScript is in the folder above them.
    """
    script = "../" * (len(Path(name).parts) - 1) + PLOTLY_JS
    page = figure.to_html(include_plotlyjs=script, div_id=Path(name).name)
    files = {f"{name}.html": page.encode(), f"{PLOTLY_DATA}/{name}.json": figure.to_json().encode()}
    if renderer_starts():
        files |= {f"{name}.{kind}": render(figure, kind) for kind in ("pdf", "png")}
    return files


def _finite(values: Values) -> np.ndarray:
    array = values.detach().cpu().double().numpy() if isinstance(values, torch.Tensor) else np.array(values, float)
    return np.where(np.isfinite(array), array, np.nan)


def _fitting(values: Values, x: Axis, y: Axis) -> np.ndarray:
    array = _finite(values)
    if array.shape != (len(y.values), len(x.values)):
        raise ValueError(f"values {array.shape} do not fit axes {y.title} × {x.title}: {len(y.values), len(x.values)}")
    return array


def _place(index: int, columns: int) -> dict[str, int]:
    """Where a panel stands, as plotly counts."""
    return {"row": index // columns + 1, "col": index % columns + 1}


def _columns(n_panels: int, about: int) -> int:
    """In how many columns panels stand: so that none is alone in the last row, with few holes, and `about` so many."""

    def faults(columns: int) -> tuple[bool, int, int]:
        last = n_panels % columns
        return last == 1, columns - last if last else 0, abs(columns - about)

    return min(range(min(2, n_panels), min(about + 1, n_panels) + 1), key=faults) if n_panels > about else n_panels


def _panels(titles: Sequence[str], columns: int, size: tuple[int, int], gap: int, below: int = 17) -> go.Figure:
    """An empty figure of panels of `size` pixels, `gap` pixels apart, as large as they and the margins need.

    `below` each panel are so many pixels for its own labels.
    """
    rows, between = math.ceil(len(titles) / columns), PANEL_TITLE + below
    width, height = columns * size[0] + (columns - 1) * gap, rows * size[1] + (rows - 1) * between
    figure = make_subplots(
        rows, columns, subplot_titles=titles, horizontal_spacing=gap / width, vertical_spacing=between / height
    )
    # Now the panels' titles, which make_subplots has written, are the only annotations.
    figure.update_annotations(font_size=14)
    margin = MARGIN | {"t": MARGIN["t"] + (PANEL_TITLE if any(titles) else 0)}
    return figure.update_layout(
        width=width + margin["l"] + margin["r"], height=height + margin["t"] + margin["b"], margin=margin
    )


def _cells(array: np.ndarray, x: Axis, y: Axis, meaning: str, coloraxis: str) -> go.Heatmap:
    hover = f"{y.title} %{{y}}<br>{x.title} %{{x}}<br>{meaning} %{{z:.4g}}<extra></extra>"
    return go.Heatmap(z=array, x=list(x.values), y=list(y.values), coloraxis=coloraxis, hovertemplate=hover)


def _plain_dots(group: int) -> dict[str, object]:
    """The look of a group's dots: the first group has discs, the others rings around them."""
    shape = {"symbol": "circle", "size": 7} if group == 0 else {"symbol": "circle-open", "size": 11}
    return {"mode": "markers", "marker": shape | {"color": CURVES[group]}}


def _labelled_dots(of: Axis, places: Sequence[str | None]) -> dict[str, object]:
    """The look of dots that stand for the values of an axis; a place is the side of its dot on which a label is."""
    values = list(of.values)
    text = [f"{value:02d}" if place else "" for value, place in zip(values, places, strict=True)]
    hover = f"{of.title} %{{marker.color:02d}}<br>%{{x:.4g}}, %{{y:.4g}}<extra></extra>"
    marker = {"color": values, "coloraxis": "coloraxis", "size": 6}
    labels = {"text": text, "textposition": [place or "top center" for place in places], "textfont_size": 10}
    return {"mode": "markers+text", "marker": marker, "hovertemplate": hover} | labels


def _label_places(dots: np.ndarray, size: tuple[int, int]) -> list[str | None]:
    """For each dot (n, 2) in a panel of `size` pixels, a side on which its label covers no other dot or label."""
    low, high = dots.min(0), dots.max(0)
    pixels = 0.9 * (dots - low) / np.where(high > low, high - low, 1) * size  # the rest of the panel is its margin
    centres, places = np.empty((0, 2)), []
    for dot in pixels:
        free = (
            (place, dot + offset)
            for place, offset in LABEL_PLACES.items()
            if _apart(pixels, dot + offset, (10, 8)) and _apart(centres, dot + offset, (14, 11))
        )
        place, centre = next(free, (None, None))
        places.append(place)
        centres = centres if centre is None else np.vstack([centres, centre])
    return places


def _apart(taken: np.ndarray, centre: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether all `taken` (n, 2) are at least `size` away from `centre`, across or down."""
    return bool((np.abs(taken - centre) >= size).any(1).all())


def _numbered(name: str, index: int) -> str:
    """Plotly's name of the `index`-th layout element of a kind: coloraxis, coloraxis2, coloraxis3, …"""
    return name if index == 0 else f"{name}{index + 1}"


def _outer(axis: Axis, outer: bool) -> dict[str, object]:
    """Title and tick labels for a panel at the outer side of the figure."""
    return {"showticklabels": outer, "title_text": axis.title if outer else ""}


def _tile_axis(title: str, n_tiles: int, n_cells: int) -> Axis:
    """The axis of a row of tiles, `n_cells` and a gap each, labelled at the middle of each tile."""
    middles = {tile * (n_cells + 1) + n_cells // 2: str(tile) for tile in range(n_tiles)}
    return Axis(title, range(n_tiles * (n_cells + 1) - 1), middles)


def _tile_cell(positions: Sequence[str], row: int, column: int) -> str:
    """What a cell of `head_tiles` stands for. Gaps have no value, so their names are never shown."""
    names = [*map(escaped, positions), ""]
    (layer, query), (head, key) = divmod(row, len(names)), divmod(column, len(names))
    return f"a{layer}.h{head}<br>{names[query]} → {names[key]}"


def _area(figure: go.Figure, panel: int | None) -> tuple[float, float, float]:
    """Right edge, bottom and top of one panel, or (`None`) of all of them, as shares of the plot."""
    if panel is None:
        return 1.0, 0.0, 1.0
    x, y = figure.layout[_numbered("xaxis", panel)], figure.layout[_numbered("yaxis", panel)]
    return x.domain[1], *y.domain


def _bar_labels(scale: ColourScale, exceeded: bool) -> dict[float, str]:
    """Labels of a colour bar by their value; the last says if the data goes beyond it."""
    ticks = _short_ticks(scale.low, scale.high)
    labels = {tick: f"{tick:.4g}".replace("-", "−") for tick in ticks}
    return labels | {ticks[-1]: f"≥ {labels[ticks[-1]]}"} if exceeded else labels


def _short_ticks(low: float, high: float) -> list[float]:
    """Ticks from `low` to `high`, zero among them if it is between, about five, of at most two digits each."""

    def short(ticks: np.ndarray) -> bool:
        has_zero = low > 0 or high < 0 or bool(np.isclose(ticks, 0, atol=1e-9 * high).any())
        return has_zero and all(math.isclose(tick, float(f"{tick:.2g}"), abs_tol=1e-9 * high) for tick in ticks)

    several = (np.linspace(low, high, intervals + 1) for intervals in (4, 3, 5, 6, 2))
    return [float(f"{tick:.2g}") for tick in next(filter(short, several), np.array([low, high]))]


def powers_of_ten(values: Values) -> dict[str, object]:
    """A logarithmic axis for plotly, labelled alike at every power of ten among the `values`: 10⁰ beside 10⁻¹."""
    sizes = np.log10(_finite(values)[_finite(values) > 0])
    powers = range(math.floor(sizes.min(initial=0)), math.ceil(sizes.max(initial=0)) + 1)
    labels = [f"10<sup>{power}</sup>".replace("-", "−") for power in powers]
    return {"type": "log", "tickvals": [10.0**power for power in powers], "ticktext": labels}


def _add_colour_bar(
    figure: go.Figure,
    index: int,
    scale: ColourScale,
    labels: Mapping[float, str] | Mapping[int, str],
    area: tuple[float, float, float],
) -> None:
    """Give the `index`-th coloraxis its colours, and a bar to the right of `area`, as high as that."""
    right, bottom, top = area
    place = {"x": right, "xpad": BAR_GAP, "y": (bottom + top) / 2, "ypad": 0, "len": top - bottom}
    bar: dict[str, object] = {"thickness": BAR_WIDTH, "outlinewidth": 0, "ticklen": 4}
    bar |= {"tickvals": list(labels), "ticktext": list(labels.values())}
    ends = {"colorscale": list(scale.colours), "cmin": scale.low, "cmax": scale.high}
    figure.layout[_numbered("coloraxis", index)] = ends | {"colorbar": bar | place}


def _title_colour_bar(figure: go.Figure, title: str, area: tuple[float, float, float]) -> None:
    """The title of a single bar, beyond its labels, in as many lines as its height needs."""
    right, bottom, top = area
    margin, bar = figure.layout.margin, figure.layout.coloraxis.colorbar
    pixels = (top - bottom) * (figure.layout.height - margin.t - margin.b)
    # Not the bar's own title: plotly sets that at a fixed distance, over long labels.
    beyond_labels = BAR_GAP + BAR_WIDTH + 12 + 6 * max(map(len, bar.ticktext))
    wrapped = textwrap.wrap(title, max(1, int(pixels / LETTER)))
    figure.add_annotation(
        text="<br>".join(wrapped), textangle=-90, font_size=14, showarrow=False, xref="paper", yref="paper",
        x=right, xanchor="left", xshift=beyond_labels, y=(bottom + top) / 2, yanchor="middle",
    )  # fmt: skip
    more = LINE * (len(wrapped) - 1)
    figure.update_layout(margin_r=margin.r + more, width=figure.layout.width + more)


BARS, TICKS = 40, 10  # at most
LEGEND = 16  # pixels of room above the plot
RECOVERED = "recovered share of the clean probability difference"


def share_histogram(
    shares: torch.Tensor, marks: Mapping[str, float], title: str, subtitle: str, of: str = RECOVERED
) -> go.Figure:
    """How many random circuits have which share (K,) of something, with a line at each of `marks`."""
    axis, counts = _bars(100 * shares, [100 * mark for mark in marks.values()], of)
    figure = lines({"random circuits": counts}, title, axis, "circuits", subtitle)
    figure.update_traces(line_shape="hv", line_width=1, fill="tozeroy")
    for (name, mark), colour, dash in zip(marks.items(), CURVES[1:], ("solid", "dot", "dash"), strict=False):
        line = {"color": colour, "dash": dash}
        x, y, name = [100 * mark] * 2, [0, counts.max().item()], f"{name}, {_in_percent(100 * mark)}"
        figure.add_scatter(x=x, y=y, mode="lines", line=line, name=name)
    above = LEGEND * len(figure.data)  # a row each: side by side, long names would not fit
    room = {"height": figure.layout.height + above, "margin_t": figure.layout.margin.t + above}
    legend = {"orientation": "v", "y": 1, "yanchor": "bottom", "x": 0.5, "xanchor": "center"}
    return figure.update_layout(showlegend=True, legend=legend, **room)


def _bars(percent: torch.Tensor, also: list[float], of: str) -> tuple[Axis, torch.Tensor]:
    """The lower edges of bars over values in percent, as an axis that includes `also`, and their counts."""
    low, high = min(percent.min().item(), *also), max(percent.max().item(), *also)
    width = _round_step(high - low, BARS)
    edges = torch.arange(math.floor(low / width) - 1, math.ceil(high / width) + 2) * width
    counts = torch.bincount(torch.bucketize(percent, edges, right=True) - 1, minlength=len(edges))
    ticks = _round_step(high - low, TICKS)
    labelled = {edge: _in_percent(edge) for edge in edges.tolist() if edge % ticks == 0}
    return Axis(of, edges.tolist(), labelled), counts


def _round_step(span: float, most: int) -> int:
    """The smallest of 1, 2, 5, 10, 20, … that goes into `span` at most `most` times."""
    powers: Iterator[int] = (10**power for power in count())
    return next(step for power in powers for step in (power, 2 * power, 5 * power) if step * most >= span)


def _in_percent(number: float) -> str:
    return f"{round(number)} %".replace("-", "−")
