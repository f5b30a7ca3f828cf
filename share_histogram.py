"""How many of some circuits recover how much: a histogram of shares, in percent, with a few of them marked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import count

import plotly.graph_objects as go
import torch

from figures import CURVES, Axis, lines

BARS, TICKS = 40, 10  # at most
LEGEND = 16  # pixels of room above the plot


def share_histogram(shares: torch.Tensor, marks: Mapping[str, float], title: str, subtitle: str) -> go.Figure:
    """Counts of random circuits by the share (K,) of clean that each recovers, and a line at each of `marks`."""
    axis, counts = _bars(100 * shares, [100 * mark for mark in marks.values()])
    figure = lines({"random circuits": counts}, title, axis, "circuits", subtitle)
    figure.update_traces(line_shape="hv", line_width=1, fill="tozeroy")
    for (name, mark), colour, dash in zip(marks.items(), CURVES[1:], ("solid", "dot"), strict=False):
        line = {"color": colour, "dash": dash}
        x, y, name = [100 * mark] * 2, [0, counts.max().item()], f"{name}, {_in_percent(100 * mark)}"
        figure.add_scatter(x=x, y=y, mode="lines", line=line, name=name)
    room = {"height": figure.layout.height + LEGEND, "margin_t": figure.layout.margin.t + LEGEND}
    legend = {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0.5, "xanchor": "center"}
    return figure.update_layout(showlegend=True, legend=legend, **room)


def _bars(percent: torch.Tensor, also: list[float]) -> tuple[Axis, torch.Tensor]:
    """Lower edges of bars over values in percent, as an axis that reaches to `also`, and counts; its ends are empty."""
    low, high = min(percent.min().item(), *also), max(percent.max().item(), *also)
    width = _round_step(high - low, BARS)
    edges = torch.arange(math.floor(low / width) - 1, math.ceil(high / width) + 2) * width
    counts = torch.bincount(torch.bucketize(percent, edges, right=True) - 1, minlength=len(edges))
    ticks = _round_step(high - low, TICKS)
    labelled = {edge: _in_percent(edge) for edge in edges.tolist() if edge % ticks == 0}
    return Axis("recovered share of the clean probability difference", edges.tolist(), labelled), counts


def _round_step(span: float, most: int) -> int:
    """The least of 1, 2, 5, 10, 20, … that goes into `span` at most `most` times."""
    return next(step for power in count() for step in (10**power, 2 * 10**power, 5 * 10**power) if step * most >= span)


def _in_percent(number: float) -> str:
    return f"{number:.0f} %".replace("-", "−")
