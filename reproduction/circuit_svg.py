"""The drawing of a circuit as numbers for the report's SVG: y downwards, from the upper left corner.

Each node and each link has the same identity as its evidence, so that the drawing leads to the evidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from path_patching.circuits.circuit import Link
from path_patching.numbers import with_unit
from reproduction.circuit_drawing import INPUTS
from reproduction.circuit_layout import BOX_HEIGHT, BOX_WIDTH, Layout, Line, laid_out, worth_drawing
from reproduction.evidence import link_id

SEEN = 0.02  # links with at least this share of the strongest effect are seen at first


@dataclass(frozen=True)
class SvgLink:
    """A link: its identity and words, its path, width and input, and whether it is seen at first."""

    id: str
    words: str
    path: str
    width: float
    via: str
    raises: bool
    share: float
    kept: bool
    """Whether it is the strongest of one of its nodes: such a link is never hidden."""


@dataclass(frozen=True)
class SvgBox:
    """A node: its identity, name, and the corner of its box."""

    id: str
    name: str
    x: float
    y: float


@dataclass(frozen=True)
class SvgGround:
    """The rectangle of a place, with its heading."""

    x: float
    y: float
    width: float
    height: float
    words: str


@dataclass(frozen=True)
class Svg:
    """A drawing of `width` by `height` pixels; links are in the order in which they are drawn."""

    width: float
    height: float
    links: tuple[SvgLink, ...]
    boxes: tuple[SvgBox, ...]
    grounds: tuple[SvgGround, ...]
    inputs: Mapping[str, str]
    """The inputs through which its links are read, in words."""
    box_width: int = BOX_WIDTH
    box_height: int = BOX_HEIGHT
    seen: float = SEEN


def circuit_svg(effects: Mapping[Link, float]) -> Svg:
    """The drawing of a circuit, given the effect of each of its links on the probability difference."""
    layout = laid_out(effects)
    kept = {line.link for line in worth_drawing(layout.lines, float("inf"))}
    left, top = layout.grounds[0].left, max(ground.high for ground in layout.grounds)
    read = {line.link.via for line in layout.lines}
    return Svg(
        width=round(max(ground.right for ground in layout.grounds) - left),
        height=round(top - min(ground.low for ground in layout.grounds)),
        links=tuple(_link(line, effects[line.link], line.link in kept, left, top) for line in layout.lines),
        boxes=_boxes(layout, left, top),
        grounds=tuple(
            SvgGround(
                round(ground.left - left),
                round(top - ground.high),
                round(ground.right - ground.left),
                round(ground.high - ground.low),
                f"at {ground.place or 'every position'}",
            )
            for ground in layout.grounds
        ),
        inputs={via: words for via, words in INPUTS.items() if via in read},
    )


def _link(line: Line, effect: float, kept: bool, left: float, top: float) -> SvgLink:
    points = [f"{x - left:.1f},{top - y:.1f}" for x, y in line.points[::2]]
    words = f"{line.sender} → {INPUTS[line.link.via]} of {line.link.reader}: {with_unit(effect, 'points')}"
    return SvgLink(
        link_id(line.link), words, "M" + "L".join(points), round(line.width, 2), line.link.via, effect > 0,
        round(line.share, 5), kept,
    )  # fmt: skip


def _boxes(layout: Layout, left: float, top: float) -> tuple[SvgBox, ...]:
    """The boxes, those at END first, beginning with the logits: a reader tabs from the answer down."""
    corners = [
        SvgBox(label, box.name, round(box.x - BOX_WIDTH / 2 - left), round(top - box.y - BOX_HEIGHT / 2))
        for label, box in layout.boxes.items()
    ]
    return tuple(sorted(corners, key=lambda box: (not box.id.endswith("@END"), box.y, box.x)))
