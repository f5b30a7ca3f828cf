"""The figure of a circuit: where its nodes are, which of its links matter, and how much.

A link is wider if patching it changes the probability difference (or another metric) more, and dashed if patching
raises it. Links with hardly any effect are left out, except the strongest of each node. The pointer names every link
drawn.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import plotly.graph_objects as go

from path_patching.circuits.circuit import Link
from path_patching.numbers import in_unit
from reproduction.circuit_layout import (
    EDGE,
    HALF_BOX,
    HEADER,
    Box,
    Ground,
    Line,
    laid_out,
    line_width,
    worth_drawing,
)
from reproduction.figures import CURVES, INK, MARGIN, dressed

# Lengths in pixels.
LEGEND, LEGEND_HEIGHT = 190, 170
NARROWEST = 560  # all panels, so that titles can be read

DRAWN = 1e-2  # links with at least this share of the strongest effect are drawn
INPUTS = {"in": "residual stream", "q": "queries", "k": "keys", "v": "values"}
COLOURS = dict(zip(INPUTS, (CURVES[0], CURVES[3], CURVES[4], CURVES[5]), strict=True))
PANEL, FRAME, GREY = "rgb(248,248,248)", "rgb(120,120,120)", "rgb(90,90,90)"


@dataclass(frozen=True)
class Measure:
    """The metric that effects change: its name, its unit, and how many of the unit are one."""

    metric: str
    unit: str
    times: float


DIFFERENCE = Measure("probability difference", "percentage points", 100)


def circuit_figure(
    effects: Mapping[Link, float],
    title: str,
    of: Measure = DIFFERENCE,
    said: str = "",
    beside: Mapping[str, str] | None = None,
) -> go.Figure:
    """The drawing of a circuit, given the effect of each of its links on the mean of a metric.

    `beside` has texts for some boxes (`m10@END`); `said` explains them.
    """
    effects = {link: of.times * effect for link, effect in effects.items()}
    layout = laid_out(effects, LEGEND_HEIGHT)
    strongest = max(map(abs, effects.values())) or 1.0
    drawn = worth_drawing(layout.lines, DRAWN)
    figure = go.Figure()
    for ground in layout.grounds:
        _add_ground(figure, ground)
    for line in drawn:
        _add_line(figure, line, effects[line.link], of.unit)
    for label, box in layout.boxes.items():
        _add_box(figure, box, (beside or {}).get(label, ""))
    _add_legend(figure, drawn, strongest, of.unit)
    subtitle = f"links run upwards; a dashed one raises the {of.metric} when it is patched"
    if left_out := len(effects) - len(drawn):
        subtitle += f"; links of less than {DRAWN * strongest:.1g} {of.unit} that are not drawn: {left_out}"
    return dressed(_sized(figure), title, f"{said}; {subtitle}" if said else subtitle)


def _sized(figure: go.Figure) -> go.Figure:
    """The figure with its axes in pixels, large enough for its panels and what is around them."""
    left, right = figure.layout.shapes[0].x0, max(shape.x1 for shape in figure.layout.shapes)
    beside = max(0.0, NARROWEST - (right - left)) / 2
    x_range = [left - beside, right + beside]
    y_range = [figure.layout.shapes[0].y0, figure.layout.shapes[0].y1]
    figure.update_xaxes(visible=False, range=x_range).update_yaxes(visible=False, range=y_range)
    margin = {"l": 20, "r": LEGEND, "t": MARGIN["t"], "b": 20}
    width, height = x_range[1] - x_range[0] + 20 + LEGEND, y_range[1] - y_range[0] + MARGIN["t"] + 20
    return figure.update_layout(width=width, height=height, margin=margin)


def _add_line(figure: go.Figure, line: Line, effect: float, unit: str) -> None:
    look = {"color": COLOURS[line.link.via], "width": line.width, "simplify": False}
    look |= {"dash": "7px,4px"} if effect > 0 else {}
    said = f"{line.sender} → {INPUTS[line.link.via]} of {line.link.reader}<br>{in_unit(effect, '')} {unit}"
    figure.add_scatter(
        x=line.points[:, 0], y=line.points[:, 1], mode="lines", line=look, opacity=0.7, showlegend=False,
        hovertemplate=f"{said}<extra></extra>",
    )  # fmt: skip


def _add_ground(figure: go.Figure, ground: Ground) -> None:
    """The ground of a place, and its name."""
    corners = {"x0": ground.left, "x1": ground.right, "y0": ground.low, "y1": ground.high}
    figure.add_shape(type="rect", **corners, fillcolor=PANEL, opacity=1, line_width=0, layer="below")
    text = f"at {ground.place or 'every position'}"
    heading = {"text": text, "font": {"size": 14, "color": INK}, "showarrow": False}
    middle = (ground.left + ground.right - 2 * EDGE) / 2 + EDGE
    figure.add_annotation(x=middle, y=ground.high - HEADER / 2 - EDGE / 2, **heading)


def _add_box(figure: go.Figure, box: Box, beside: str) -> None:
    low, high = box.middle - HALF_BOX, box.middle + HALF_BOX
    corners = {"x0": low[0], "y0": low[1], "x1": high[0], "y1": high[1]}
    figure.add_shape(type="rect", **corners, fillcolor="white", opacity=1, line={"color": FRAME, "width": 1})
    figure.add_annotation(text=box.name, x=box.x, y=box.y, showarrow=False, font={"size": 11, "color": INK})
    if beside:
        corner = {"x": high[0], "y": high[1], "xanchor": "right", "yanchor": "middle", "showarrow": False}
        figure.add_annotation(text=beside, font={"size": 9, "color": GREY}, bgcolor="white", borderpad=0, **corner)


def _add_legend(figure: go.Figure, drawn: Collection[Line], strongest: float, unit: str) -> None:
    """What the colours and the widths of the lines mean."""
    read = {line.link.via for line in drawn}
    for via in (via for via in INPUTS if via in read):
        _add_legend_line(figure, INPUTS[via], {"color": COLOURS[via], "width": 4}, "read through")
    power = 10.0 ** math.floor(math.log10(strongest))
    rounded = strongest // power * power
    for size in ([rounded] if rounded >= 3 * power else []) + [power, power / 10, power / 100]:  # told apart by eye
        line = {"color": GREY, "width": line_width(size / strongest)}
        _add_legend_line(figure, f"{size:g}", line, f"effect ({unit})")


def _add_legend_line(figure: go.Figure, name: str, line: Mapping[str, object], group: str) -> None:
    figure.add_scatter(
        x=[None], y=[None], mode="lines", line=line, name=name, legendgroup=group, legendgrouptitle_text=group
    )
