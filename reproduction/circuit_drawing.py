"""A circuit drawn: the inputs at the bottom, the logits on top, YY to the left of END.

Later layers lie higher, so that all links run upwards: heads on a stair, MLPs in a column beside it. A link is the
wider, the more patching what its sender writes along it changes the probability difference (or another metric), and
dashed if that raises it. Links that hardly change it are left out, but for the strongest of each node. The pointer
names every link drawn.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
import plotly.graph_objects as go

from path_patching.circuits.circuit import EMBEDS, END, EVERYTHING, YY, Link, bare, place_of
from path_patching.paths import Node
from reproduction.figures import CURVES, INK, MARGIN, dressed

# Lengths in pixels.
BOX_WIDTH, BOX_HEIGHT = 58, 20
BESIDE, STAIR = 63, 34  # from one head to the next in its layer, and to the first of a later layer
ABOVE, ABOVE_HEADS = 34, 22  # from one node up to the next, and from heads up to the MLP of their layer
EDGE, HEADER = 22, 24  # around the boxes of a position, and above them
BETWEEN = 70  # the positions
LEGEND, LEGEND_HEIGHT = 190, 170
NARROWEST = 560  # all panels, so that titles can be read
WIDEST, THINNEST = 10.0, 0.6  # lines
PORTS = {"in": 0, "q": -14, "k": 0, "v": 14}  # where inputs enter at the lower side of a head

DRAWN = 1e-3  # share of the strongest effect from which on a link is drawn
INPUTS = {"in": "residual stream", "q": "queries", "k": "keys", "v": "values"}
COLOURS = dict(zip(INPUTS, (CURVES[0], CURVES[3], CURVES[4], CURVES[5]), strict=True))
PANEL, FRAME, GREY = "rgb(248,248,248)", "rgb(120,120,120)", "rgb(90,90,90)"

HALF_BOX = np.array([BOX_WIDTH / 2, BOX_HEIGHT / 2])
BELOW_OTHERS = np.array([1.0, -0.12])
UP, RIGHT, LEFT = np.array([0.0, 1.0]), np.array([1.0, 0.0]), np.array([-1.0, 0.0])
ALONG = np.linspace(0, 1, 41)[:, None]


@dataclass(frozen=True)
class Box:
    """A node in the drawing: its name and place in the sentence, nothing for all of it, and the middle of its box."""

    name: str
    place: str
    x: float
    y: float

    @property
    def in_column(self) -> bool:
        """Whether it lies in the column to the right of the heads."""
        return _in_column(self.name)

    @property
    def middle(self) -> np.ndarray:
        """Its middle, (2,)."""
        return np.array([self.x, self.y])


@dataclass(frozen=True)
class Measure:
    """What effects are changes of: a metric's name, and the unit in which one of it is shown as `times`."""

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

    `beside` is a text for some boxes (`m10@END`), which `said` explains.
    """
    effects = {link: of.times * effect for link, effect in effects.items()}
    boxes = _boxes({name for link in effects for name in (link.reader, _sender(link))})
    strongest = max(map(abs, effects.values())) or 1.0
    drawn = _worth_drawing(effects, DRAWN * strongest)
    figure = go.Figure()
    top = max(LEGEND_HEIGHT, *(box.y for box in boxes.values()))
    for _, here in groupby(boxes.values(), key=lambda box: box.place):
        _add_panel(figure, list(here), top)
    for link in drawn:
        curve = _curve(link.via, boxes[_sender(link)], boxes[link.reader])
        _add_link(figure, link, effects[link], strongest, curve, of.unit)
    for label, box in boxes.items():
        _add_box(figure, box, (beside or {}).get(label, ""))
    _add_legend(figure, drawn, strongest, of.unit)
    subtitle = f"links run upwards; a dashed one raises the {of.metric} when it is patched"
    if left_out := len(effects) - len(drawn):
        subtitle += f"; links of less than {DRAWN * strongest:.1g} {of.unit} that are not drawn: {left_out}"
    return dressed(_sized(figure), title, f"{said}; {subtitle}" if said else subtitle)


def _sized(figure: go.Figure) -> go.Figure:
    """The figure with its axes in pixels, as large as its panels and what is around them need."""
    left, right = figure.layout.shapes[0].x0, max(shape.x1 for shape in figure.layout.shapes)
    beside = max(0.0, NARROWEST - (right - left)) / 2
    x_range = [left - beside, right + beside]
    y_range = [figure.layout.shapes[0].y0, figure.layout.shapes[0].y1]
    figure.update_xaxes(visible=False, range=x_range).update_yaxes(visible=False, range=y_range)
    margin = {"l": 20, "r": LEGEND, "t": MARGIN["t"], "b": 20}
    width, height = x_range[1] - x_range[0] + 20 + LEGEND, y_range[1] - y_range[0] + MARGIN["t"] + 20
    return figure.update_layout(width=width, height=height, margin=margin)


def _sender(link: Link) -> str:
    """The name of a link's sender in the drawing, where everything that is read at one place is one box."""
    at = link.reader.removeprefix(bare(link.reader))
    return f"{EVERYTHING}{at}" if link.sender == EVERYTHING else link.sender


def _node(name: str) -> Node:
    """The node of a name; everything that is read lies where embeddings do."""
    return Node.named(EMBEDS if name == EVERYTHING else name, 0)


def _in_column(name: str) -> bool:
    return _node(name).kind in ("mlp", "logits")


def _worth_drawing(effects: Mapping[Link, float], least: float) -> list[Link]:
    """The links of at least an effect, and each node's strongest as a reader and as a sender; weak ones first."""
    ordered = sorted(effects, key=lambda link: abs(effects[link]))
    strongest = {link.reader: link for link in ordered}.values(), {_sender(link): link for link in ordered}.values()
    return [link for link in ordered if abs(effects[link]) >= least or any(link in of for of in strongest)]


def _boxes(names: Collection[str]) -> dict[str, Box]:
    """Where nodes named like `m0@YY`, or `m0`, lie; those at YY first."""
    heights = _heights({_node(bare(name)).depth for name in names})
    boxes: dict[str, Box] = {}
    left = 0.0
    for place in (YY, END, ""):
        labels = {bare(name): name for name in names if place_of(name) == place}
        here = sorted(labels, key=_node)
        stair = _stair([name for name in here if _node(name).kind == "head"], left)
        column = max(stair.values(), default=left - BOX_WIDTH) + 1.5 * BOX_WIDTH
        middle = (left + max(stair.values())) / 2 if stair else column  # of the heads: what they read lies below it
        lowest = [name for name in here if _node(name).kind == "embeds"]
        for name in here:
            x = stair.get(name, column)
            if name in lowest:
                x = middle + BESIDE * (lowest.index(name) - (len(lowest) - 1) / 2)
            boxes[labels[name]] = Box(name, place, x, heights[_node(name).depth])
        if here:
            left = column + _room(list(boxes.values())) + BOX_WIDTH + 2 * EDGE + BETWEEN
    return boxes


def _heights(depths: Collection[int]) -> dict[int, float]:
    """How high the nodes of each depth lie, from zero."""
    ordered, heights = sorted(depths), [0.0]
    for below, depth in pairwise(ordered):
        is_mlp_above_heads = depth == below + 1 and below % 2 == 1
        heights.append(heights[-1] + (ABOVE_HEADS if is_mlp_above_heads else ABOVE))
    return dict(zip(ordered, heights, strict=True))


def _stair(heads: list[str], left: float) -> dict[str, float]:
    """How far to the right each head lies: beside those of its layer, and beyond those of earlier ones."""
    stair: dict[str, float] = {}
    for before, head in zip([None, *heads], heads, strict=False):
        same_layer = before is not None and _node(before).layer == _node(head).layer
        stair[head] = left if before is None else stair[before] + (BESIDE if same_layer else STAIR)
    return stair


def _around(rise: float) -> float:
    """How far to the right a line reaches that goes around the boxes between its ends, `rise` apart."""
    return 14 + 0.1 * rise


def _room(boxes: list[Box]) -> float:
    """The room that lines need to the right of the column of a position, the boxes furthest to the right."""
    right = max(box.x for box in boxes)
    heights = [box.y for box in boxes if box.x == right]
    return _around(max(heights) - min(heights)) if len(heights) > 2 else 0.0


def _curve(via: str, sender: Box, reader: Box) -> np.ndarray:
    """The points (41, 2) of the line between two boxes: a cubic Bézier curve."""
    leaves, enters = UP, UP
    if sender.place != reader.place:
        leaves = RIGHT
    elif reader.in_column and sender.x != reader.x:
        enters = RIGHT
    elif reader.in_column and reader.y - sender.y > ABOVE:
        leaves, enters = RIGHT, LEFT  # around what lies between
    start = sender.middle + HALF_BOX * leaves
    if leaves is RIGHT and _node(sender.name).kind == "head":
        leaves, start = BELOW_OTHERS, sender.middle + HALF_BOX * (0.6, -1)  # not through the heads beside it
    end = reader.middle - HALF_BOX * enters + PORTS[via] * RIGHT
    rise, distance = end[1] - start[1], np.linalg.norm(end - start)
    leave, enter = ((min(0.45 * distance, rise) if along is UP else 0.45 * distance) for along in (leaves, enters))
    if enters is LEFT:
        leave = enter = _around(rise) / 0.75  # a Bézier curve goes three quarters of the way to such controls
    controls = (start, start + leave * leaves, end - enter * enters, end)
    weights = ((1 - ALONG) ** 3, 3 * ALONG * (1 - ALONG) ** 2, 3 * ALONG**2 * (1 - ALONG), ALONG**3)
    curve: np.ndarray = sum(weight * control for weight, control in zip(weights, controls, strict=True))
    return curve


def _line_width(share: float) -> float:
    """The width of a line for a share of the strongest effect: by its root, since effects differ a thousandfold."""
    root: float = share**0.5
    return max(THINNEST, WIDEST * root)


def _add_link(figure: go.Figure, link: Link, effect: float, strongest: float, curve: np.ndarray, unit: str) -> None:
    width = _line_width(abs(effect) / strongest)
    line = {"color": COLOURS[link.via], "width": width, "simplify": False}
    line |= {"dash": "7px,4px"} if effect > 0 else {}
    said = f"{_sender(link)} → {INPUTS[link.via]} of {link.reader}<br>{effect:+.2g} {unit}"
    figure.add_scatter(
        x=curve[:, 0], y=curve[:, 1], mode="lines", line=line, opacity=0.7, showlegend=False,
        hovertemplate=f"{said}<extra></extra>",
    )  # fmt: skip


def _add_panel(figure: go.Figure, boxes: list[Box], top: float) -> None:
    """The ground on which the boxes of a position lie, from the lowest row up to `top`, and its name."""
    left, right = min(box.x for box in boxes), max(box.x for box in boxes) + _room(boxes)
    beside, above = HALF_BOX + EDGE
    corners = {"x0": left - beside, "x1": right + beside, "y0": -above, "y1": top + above + HEADER}
    figure.add_shape(type="rect", **corners, fillcolor=PANEL, opacity=1, line_width=0, layer="below")
    text = f"at {boxes[0].place or 'every position'}"
    heading = {"text": text, "font": {"size": 14, "color": INK}, "showarrow": False}
    figure.add_annotation(x=(left + right) / 2, y=top + above + HEADER / 2 - EDGE / 2, **heading)


def _add_box(figure: go.Figure, box: Box, beside: str) -> None:
    low, high = box.middle - HALF_BOX, box.middle + HALF_BOX
    corners = {"x0": low[0], "y0": low[1], "x1": high[0], "y1": high[1]}
    figure.add_shape(type="rect", **corners, fillcolor="white", opacity=1, line={"color": FRAME, "width": 1})
    figure.add_annotation(text=box.name, x=box.x, y=box.y, showarrow=False, font={"size": 11, "color": INK})
    if beside:
        corner = {"x": high[0], "y": high[1], "xanchor": "right", "yanchor": "middle", "showarrow": False}
        figure.add_annotation(text=beside, font={"size": 9, "color": GREY}, bgcolor="white", borderpad=0, **corner)


def _add_legend(figure: go.Figure, drawn: list[Link], strongest: float, unit: str) -> None:
    """What the colours and the widths of the lines mean."""
    read = {link.via for link in drawn}
    for via in (via for via in INPUTS if via in read):
        _add_legend_line(figure, INPUTS[via], {"color": COLOURS[via], "width": 4}, "read through")
    power = 10.0 ** math.floor(math.log10(strongest))
    for size in dict.fromkeys((strongest // power * power, power, power / 10, power / 100)):
        line = {"color": GREY, "width": _line_width(size / strongest)}
        _add_legend_line(figure, f"{size:g}", line, f"effect ({unit})")


def _add_legend_line(figure: go.Figure, name: str, line: Mapping[str, object], group: str) -> None:
    figure.add_scatter(
        x=[None], y=[None], mode="lines", line=line, name=name, legendgroup=group, legendgrouptitle_text=group
    )
