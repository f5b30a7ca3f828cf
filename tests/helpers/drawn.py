"""Figures held to their data: artifacts that can all be told apart, and what a reader sees of the figures of them.

A run is published whose artifacts are `told`: no two entries of one are equal, and the largest entry of each is a round
number of its own, at which a colour bar of it ends. A plotting script is run on it; its figures are caught as it writes
them, none is rendered; and each is read panel by panel, in the order in which they stand.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch

from color_utils import BLUES, RED_WHITE_BLUE, round_up
from path_patching.files import ROOT
from reproduction.plots import Plots
from reproduction.run import Number, start_run
from reproduction.settings import Settings
from tests.helpers.made import MODEL
from tests.helpers.scripts import output, run_script

ROUND = ("1", "1.2", "1.5", "2", "2.5", "3", "4", "5", "6", "8")  # at which colour bars end
BELOW = 1 - 1e-9  # an entry lies this far below the end of its bar, since 100 times it is rounded
FROM_ZERO = {"probability", "attention", "share of the searches"}  # what is never negative
POINTS = "change in probability difference (percentage points)"
LEAST = {"probability": 0.01, POINTS: 0.1}  # at which bars end of what is next to nothing
OF_MODEL = f", {MODEL.name} (not GPT-2 small)"  # at the end of every title

Artifacts = Mapping[str, tuple[Any, Mapping[str, object]]]  # by file: what it holds, and what is said of it


def told(number: int, *shape: int, least: float = -0.5) -> torch.Tensor:
    """The artifact of a number: rising from `least` times its largest entry to that, which no other number has.

    It rises ever faster, so that no two rows differ by the same in each of their entries.
    """
    largest = float(f"{ROUND[number % len(ROUND)]}e{number // len(ROUND) - 3}")
    rising = torch.linspace(least, 1, int(np.prod(shape)), dtype=torch.float64)
    return (largest * BELOW * rising * (1 + 0.1 * (rising - 1))).reshape(shape)


def publish(script: str, folder: Path, artifacts: Artifacts, numbers: Mapping[str, Number], **named: Any) -> None:
    """A run of `script` that left these artifacts and numbers; of the `circuit` too, where one is named."""
    run = start_run(script, Settings(model=MODEL.name, out=folder), MODEL, "torch", "cpu")
    for name, (value, about) in artifacts.items():
        if isinstance(value, pd.DataFrame):
            run.save_table(name, [value], nan="tested", **about)
        elif name.endswith(".json"):
            run.save_json(name, value, **about)
        else:
            run.save(name, value, **about)
    if "circuit" in named:
        run.note_circuit(named["circuit"])
    for key, value in numbers.items():
        run.note(key, value, key)
    run.publish()


class Drawing(NamedTuple):
    """What a plotting script made: its figures by name, the lines that it printed, and what it says figures show."""

    figures: dict[str, go.Figure]
    lines: list[str]
    shows: dict[str, Mapping[str, str]]
    """By figure, the artifact of each panel, by the panel's title."""


def draw(script: str, artifacts: Path, *flags: str) -> Drawing:
    """Run a plotting script on artifacts."""
    caught: dict[str, go.Figure] = {}
    said: dict[str, Mapping[str, str]] = {}

    def catch(_: Plots, figure: go.Figure, name: str, shows: Mapping[str, str] | None = None) -> None:
        assert name not in caught, f"{name} is drawn twice"
        caught[name], said[name] = figure, shows or {}

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Plots, "write", catch)
        given = ("--artifacts", str(artifacts), "--out", str(artifacts / "plots"), *flags)
        printed = output(run_script(ROOT / f"{script}.py", *given, images=False))
    return Drawing(caught, printed.splitlines(), said)


def check_shows(drawing: Drawing, artifacts: Mapping[str, torch.Tensor]) -> None:
    """That each panel shows what the script says of it: as it is, in points, in part, or less year 00's logit."""
    for name, shows in drawing.shows.items():
        found = dict(panels(drawing.figures[name])) if shows else {}
        assert {*shows} <= {*found}, name
        for panel, artifact in shows.items():
            values = _values(found[panel])
            assert any(_is_part(values, each) for each in _ways_to_show(artifacts[artifact])), (name, panel, artifact)


def _values(trace: Any) -> np.ndarray:
    """What a panel shows: cells, or the heights of a curve."""
    return np.asarray(trace.z if trace.type == "heatmap" else trace.y, float)


def _ways_to_show(artifact: torch.Tensor) -> list[np.ndarray]:
    """What a figure may make of an artifact: percentage points, logits less the first's, means of sentences."""
    whole = artifact.mean(2) if artifact.ndim == 5 else artifact
    return [each.numpy() for each in (whole, 100 * whole, whole - whole[..., :1])]


def _is_part(values: np.ndarray, whole: np.ndarray) -> bool:
    """Whether all numbers that a panel shows are among those of an artifact; no two artifacts have one in common."""
    shown = np.unique(values[np.isfinite(values) & (values != 0)])
    nearest = np.unique(whole[np.isfinite(whole)])
    at = np.searchsorted(nearest, shown).clip(1, len(nearest) - 1)
    apart = np.minimum(np.abs(nearest[at] - shown), np.abs(nearest[at - 1] - shown))
    return len(shown) > 1 and bool((apart <= 1e-9 * np.abs(shown)).all())


# What a reader sees


class Axis(NamedTuple):
    """An axis: its title, and its labels by where they stand."""

    title: str
    labels: Mapping[float, str]


def named(title: str, names: Sequence[object]) -> Axis:
    """An axis of cells that all have a label."""
    return Axis(title, dict(enumerate(map(str, names))))


YEARS = Axis("predicted year", {year: f"{year:02d}" for year in (*range(0, 100, 10), 99)})
YY = Axis("YY", {year: f"{year:02d}" for year in (2, *range(10, 100, 10), 98)})
LAYERS, HEADS = named("layer", range(12)), named("head", [*range(12), "MLP"])


class Heatmap(NamedTuple):
    """A panel of cells: values with the first row on top, axes, the bar's ends and words, and texts if it has any."""

    values: Any
    x: Axis
    y: Axis
    bar: str
    ends: tuple[float, float] | None = None
    texts: Any = None


def heatmap(values: Any, x: Axis, y: Axis, bar: str, of: Any = None, texts: Any = None) -> Heatmap:
    """A panel whose bar ends where its own values do, or those `of` something else: from zero, or on both sides."""
    array = np.asarray(values, float)
    largest = float(np.nanmax(np.abs(array if of is None else np.asarray(of, float))))
    end = max(round_up(largest), LEAST.get(bar, 0.0))
    return Heatmap(array, x, y, bar, (0.0 if bar in FROM_ZERO else -end, end), texts)


def check_heatmaps(figure: go.Figure, expected: Mapping[str, Heatmap]) -> None:
    """That a figure has these panels of cells, in this order, row by row from the left, and no other panel."""
    found = {title: _heatmap(figure, trace) for title, trace in panels(figure)}
    assert list(found) == list(expected)
    for title, panel in expected.items():
        shown = found[title]
        np.testing.assert_allclose(shown.values, panel.values, rtol=1e-12, err_msg=title)
        assert shown.x == panel.x, title
        assert shown.y == panel.y, title
        assert shown.bar == panel.bar, title
        assert shown.ends == pytest.approx(panel.ends), title
        assert shown.texts == panel.texts, title


def panels(figure: go.Figure) -> list[tuple[str, Any]]:
    """The traces of a figure with their panels' titles, panels from the left to the right and downwards."""

    def place(trace: Any) -> tuple[float, float]:
        x, y = axes_of(figure, trace)
        return -max(y.domain or (0, 1)), min(x.domain or (0, 1))

    return [(_title(figure, trace), trace) for trace in sorted(figure.data, key=place)]


def axes_of(figure: go.Figure, trace: Any) -> tuple[Any, Any]:
    """The two axes of a trace."""
    x, y = trace.xaxis or "x", trace.yaxis or "y"
    return figure.layout[x.replace("x", "xaxis")], figure.layout[y.replace("y", "yaxis")]


def _title(figure: go.Figure, trace: Any) -> str:
    """The title that stands in the middle above a trace's panel."""
    x, y = axes_of(figure, trace)
    middle, top = sum(x.domain) / 2, y.domain[1]
    for note in figure.layout.annotations:
        if note.textangle is None and abs(note.x - middle) + abs(note.y - top) < 1e-6:
            return str(note.text)
    return ""


def axes_read(figure: go.Figure, trace: Any) -> tuple[Axis, Axis]:
    """What a reader reads off both axes of a panel: titles stand below the lowest panel, and left of the leftmost."""
    x, y = axes_of(figure, trace)
    below = [axes_of(figure, each) for each in figure.data if axes_of(figure, each)[0].domain == x.domain]
    beside = [axes_of(figure, each) for each in figure.data if axes_of(figure, each)[1].domain == y.domain]
    x_title = min(below, key=lambda pair: pair[1].domain[0])[0].title.text
    y_title = min(beside, key=lambda pair: pair[0].domain[0])[1].title.text
    return Axis(x_title, labels(x)), Axis(y_title, labels(y))


def labels(axis: Any) -> dict[float, str]:
    """The labels of an axis of plotly's, by where they stand."""
    return dict(zip(axis.tickvals or (), map(html.unescape, axis.ticktext or ()), strict=True))


def _heatmap(figure: go.Figure, trace: Any) -> Heatmap:
    assert trace.type == "heatmap"
    x, y = axes_read(figure, trace)
    assert axes_of(figure, trace)[1].autorange == "reversed", "the first row is on top"
    assert list(trace.x) == list(range(int(trace.x[0]), int(trace.x[0]) + len(trace.x)))
    assert min(x.labels) >= trace.x[0]
    assert min(y.labels) >= trace.y[0]
    assert (len(trace.y), len(trace.x)) == trace.z.shape
    bar, words = figure.layout[trace.coloraxis], bar_title(figure)
    assert bar.colorscale[0][1] == (BLUES if words in FROM_ZERO else RED_WHITE_BLUE)[0]
    texts = None if trace.text is None else [list(row) for row in trace.text]
    return Heatmap(trace.z, x, y, words, (bar.cmin, bar.cmax), texts)


def bar_title(figure: go.Figure) -> str:
    """What the colours of a figure stand for: written beside the only bar, or below the title if there are several."""
    beside = [note.text.replace("<br>", " ") for note in figure.layout.annotations if note.textangle == -90]
    return beside[0] if beside else subtitle(figure).rpartition("colours: ")[2]


def subtitle(figure: go.Figure) -> str:
    """What stands below a figure's title."""
    return (figure.layout.title.subtitle.text or "").replace("<br>", " ")


def check_titles(figures: Mapping[str, go.Figure], expected: Mapping[str, tuple[str, str]]) -> None:
    """That these figures were drawn and no others, each with its title, which names the model, and its subtitle."""
    said = {name: (figure.layout.title.text, subtitle(figure)) for name, figure in figures.items()}
    assert said == {name: (title + OF_MODEL, below) for name, (title, below) in expected.items()}


def curves(figure: go.Figure) -> dict[str, np.ndarray]:
    """The lines and dots of a figure's only panel by their names in the legend: (n, 2), x and y."""
    points = {trace.name: [np.asarray(each, float) for each in (trace.x, trace.y)] for trace in figure.data}
    return {name: np.column_stack(each) for name, each in points.items()}


def check_curves(figure: go.Figure, expected: Mapping[str, Any], x_title: str, y_title: str) -> None:
    """That a figure has these curves (n, 2), in this order, over these axes, and names them if there are several."""
    found = curves(figure)
    assert list(found) == list(expected)
    for name, points in expected.items():
        np.testing.assert_allclose(found[name], points, rtol=1e-9, err_msg=name)
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == (x_title, y_title)
    if len(expected) > 1:
        assert figure.layout.showlegend is not False
        assert all(trace.showlegend is not False for trace in figure.data)


def check_histogram(figure: go.Figure, shares: Any, marks: Mapping[str, float], x_title: str) -> None:
    """That a figure counts some shares in bars, in percent, and has these marks, in percent, over its x."""
    bars, *lines = figure.data
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == (x_title, "circuits")
    edges, percent = [*bars.x, np.inf], 100 * np.asarray(shares, float)
    counts = [int(((low <= percent) & (percent < high)).sum()) for low, high in pairwise(edges)]
    assert [*bars.y] == counts
    assert bars.y[0] == bars.y[-1] == 0, "nothing lies outside of the bars"
    assert {line.name: list(line.x) for line in lines} == {name: pytest.approx([at] * 2) for name, at in marks.items()}
    assert figure.layout.showlegend
    assert all(text == f"{at:.0f} %".replace("-", "−") for at, text in labels(figure.layout.xaxis).items())


def check_intervals(figure: go.Figure, groups: Mapping[str, Any], x_title: str, rows: Sequence[str]) -> None:
    """That a figure has these groups of estimates (rows, 3) value, low and high, the first row on top."""
    assert [trace.name for trace in figure.data] == list(groups)
    assert figure.layout.xaxis.title.text == x_title
    assert labels(figure.layout.yaxis) == dict(enumerate(rows))
    low_end, high_end = figure.layout.yaxis.range
    assert low_end > high_end
    for trace, expected in zip(figure.data, groups.values(), strict=True):
        value, ends = np.asarray(trace.x, float), trace.error_x
        shown = np.column_stack([value, value - ends.arrayminus, value + ends.array])
        np.testing.assert_allclose(shown, expected, rtol=1e-9, err_msg=trace.name)
        assert list(trace.y) == list(range(len(rows)))
        assert trace.showlegend is (len(groups) > 1)
