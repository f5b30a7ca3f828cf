"""Where sentences and their twins differ: whatever follows a circuit to YY needs YY to be there.

>>> check_yy(sentences, YY)
>>> check_yy(sentences, YY - 1)
Traceback (most recent call last):
path_patching.errors.UserError: ...: twins differ at position 8, not at 7; give that as YY
"""

from __future__ import annotations

import torch

from path_patching.engine import Sentences
from path_patching.errors import UserError, shortened
from path_patching.paths import Node, PathSet


def check_yy(sentences: Sentences, yy_position: object) -> None:
    """Raise `UserError` if no sentence differs from its twin at `yy_position`: no circuit could be followed to it."""
    places = differing(sentences)
    if isinstance(yy_position, bool) or yy_position not in places:
        raise UserError(f"YY: {_where(places)}, not at {shortened(repr(yy_position))}; give that as YY")


def check_ends(sentences: Sentences, paths: PathSet) -> None:
    """Raise `UserError` if paths end only where nothing differs: patching them would change nothing."""
    places = differing(sentences)
    if not any(_may_differ(node, places) for node in paths.ends()):
        ends = ", ".join(sorted(map(str, paths.ends()))[:3])
        raise UserError(f"the paths end at {ends}, where nothing differs: {_where(places)}")


def differing(sentences: Sentences) -> list[int]:
    """The positions at which a sentence differs from its twin."""
    places: torch.Tensor = (sentences.clean != sentences.corrupted).any(0).nonzero()[:, 0]
    return places.tolist()


def _may_differ(node: Node, places: list[int]) -> bool:
    """Whether a node may write something else for a twin: embeddings where it differs, other nodes from there on."""
    return node.position in places if node.kind == "embeds" else any(place <= node.position for place in places)


def _where(places: list[int]) -> str:
    """Where twins differ, for a message."""
    if not places:
        return "no twin differs from its sentence"
    several = "s" if len(places) > 1 else ""
    return f"twins differ at position{several} {', '.join(map(str, places))}"
