"""Where the nodes and links of a circuit are in a drawing: the inputs at the bottom, the logits on top, YY left of END.

Later layers are higher, so that all links run upwards: heads on a stair, MLPs in a column beside it. The layout is
plain numbers, in pixels with y upwards. `circuit_drawing` makes a figure of it, `circuit_svg` the report's drawing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np

from path_patching.circuits.circuit import EMBEDS, END, EVERYTHING, YY, Link, bare, place_of
from path_patching.paths import Node

# Lengths in pixels.
BOX_WIDTH, BOX_HEIGHT = 62, 20
BESIDE, STAIR = 67, 34  # from one head to the next in its layer, and to the first of a later layer
ABOVE, ABOVE_HEADS = 34, 22  # from one node up to the next, and from heads up to the MLP of their layer
EDGE, HEADER = 22, 24  # around the boxes of a position, and above them
BETWEEN = 70  # the positions
WIDEST, THINNEST = 10.0, 0.6  # lines
PORTS = {"in": 0, "q": -14, "k": 0, "v": 14}  # where inputs enter at the lower side of a head

HALF_BOX = np.array([BOX_WIDTH / 2, BOX_HEIGHT / 2])
BELOW_OTHERS = np.array([1.0, -0.12])
UP, RIGHT, LEFT = np.array([0.0, 1.0]), np.array([1.0, 0.0]), np.array([-1.0, 0.0])
ALONG = np.linspace(0, 1, 41)[:, None]


@dataclass(frozen=True)
class Box:
    """A node in the drawing: its name, its place (empty if it has none), and the middle of its box."""

    name: str
    place: str
    x: float
    y: float

    @property
    def in_column(self) -> bool:
        """Whether it is in the column to the right of the heads."""
        return _in_column(self.name)

    @property
    def middle(self) -> np.ndarray:
        """Its middle, (2,)."""
        return np.array([self.x, self.y])


@dataclass(frozen=True, eq=False)
class Line:
    """A link as a line: its points (41, 2) from the sender up, its width, and its share of the strongest effect."""

    link: Link
    sender: str
    """The label of the box in which it begins."""
    points: np.ndarray
    share: float
    width: float


@dataclass(frozen=True)
class Ground:
    """The rectangle behind the boxes of one place: its left, right, lower and upper end, and the place."""

    left: float
    right: float
    low: float
    high: float
    place: str


@dataclass(frozen=True, eq=False)
class Layout:
    """The drawing of a circuit: boxes by label (`m10@END`), lines with the weakest first, a ground for each place."""

    boxes: Mapping[str, Box]
    lines: tuple[Line, ...]
    grounds: tuple[Ground, ...]


def laid_out(effects: Mapping[Link, float], least_height: float = 0.0) -> Layout:
    """The layout of a circuit, given the effect of each of its links; its grounds are at least `least_height` high."""
    boxes = _boxes({name for link in effects for name in (link.reader, sender_of(link))})
    strongest = max(map(abs, effects.values())) or 1.0
    lines = []
    for link in sorted(effects, key=lambda link: abs(effects[link])):
        points = _curve(link.via, boxes[sender_of(link)], boxes[link.reader])
        share = abs(effects[link]) / strongest
        lines.append(Line(link, sender_of(link), points, share, line_width(share)))
    top = max(least_height, *(box.y for box in boxes.values()))
    grounds = [_ground(list(here), top) for _, here in groupby(boxes.values(), key=lambda box: box.place)]
    return Layout(boxes, tuple(lines), tuple(grounds))


def worth_drawing(lines: Collection[Line], least: float) -> list[Line]:
    """The lines with at least the share `least` of the strongest effect, and each node's strongest in and out."""
    strongest = {line.link.reader: line for line in lines}.values(), {line.sender: line for line in lines}.values()
    return [line for line in lines if line.share >= least or any(line in of for of in strongest)]


def line_width(share: float) -> float:
    """The width of a line for a share of the strongest effect: by its root, because effects differ a thousandfold."""
    root: float = share**0.5
    return max(THINNEST, WIDEST * root)


def _ground(boxes: list[Box], top: float) -> Ground:
    """The ground of the boxes of a place, from the lowest row up to `top`."""
    left, right = min(box.x for box in boxes), max(box.x for box in boxes) + _room(boxes)
    beside, above = HALF_BOX + EDGE
    return Ground(left - beside, right + beside, -above, top + above + HEADER, boxes[0].place)


def sender_of(link: Link) -> str:
    """The name of a link's sender in the drawing, which has one box for everything read at a place."""
    at = link.reader.removeprefix(bare(link.reader))
    return f"{EVERYTHING}{at}" if link.sender == EVERYTHING else link.sender


def _node(name: str) -> Node:
    """The node of a name; `everything` becomes the embeddings."""
    return Node.named(EMBEDS if name == EVERYTHING else name, 0)


def _in_column(name: str) -> bool:
    return _node(name).kind in ("mlp", "logits")


def _boxes(names: Collection[str]) -> dict[str, Box]:
    """The boxes of nodes named like `m0@YY`, or `m0`; those at YY first."""
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
    """The height of the nodes of each depth, from zero."""
    ordered, heights = sorted(depths), [0.0]
    for below, depth in pairwise(ordered):
        is_mlp_above_heads = depth == below + 1 and below % 2 == 1
        heights.append(heights[-1] + (ABOVE_HEADS if is_mlp_above_heads else ABOVE))
    return dict(zip(ordered, heights, strict=True))


def _stair(heads: list[str], left: float) -> dict[str, float]:
    """How far to the right each head is: beside the heads of its layer, and beyond those of earlier layers."""
    stair: dict[str, float] = {}
    for before, head in zip([None, *heads], heads, strict=False):
        same_layer = before is not None and _node(before).layer == _node(head).layer
        stair[head] = left if before is None else stair[before] + (BESIDE if same_layer else STAIR)
    return stair


def _around(rise: float) -> float:
    """How far to the right a line reaches around the boxes between its ends, which are `rise` apart."""
    return 14 + 0.1 * rise


def _room(boxes: list[Box]) -> float:
    """The room that lines need to the right of a place's column of boxes."""
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
