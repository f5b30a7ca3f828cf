"""Where sentences and their twins differ, which is what YY has to be for whatever follows a circuit to it.

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


def check_yy(sentences: Sentences, yy: object) -> None:
    """Raise `UserError` for a position at which no sentence differs from its twin: nothing can be followed to it."""
    places = differing(sentences)
    if isinstance(yy, bool) or yy not in places:
        raise UserError(f"YY: {_where(places)}, not at {shortened(repr(yy))}; give that as YY")


def check_ends(sentences: Sentences, paths: PathSet) -> None:
    """Raise `UserError` for paths that end only where nothing differs, so that patching them changes nothing."""
    places = differing(sentences)
    if not any(_may_differ(node, places) for node in paths.ends()):
        ends = ", ".join(sorted(map(str, paths.ends()))[:3])
        raise UserError(f"the paths end at {ends}, where nothing differs: {_where(places)}")


def differing(sentences: Sentences) -> list[int]:
    """The positions at which a sentence differs from its twin."""
    places: torch.Tensor = (sentences.clean != sentences.corrupted).any(0).nonzero()[:, 0]
    return places.tolist()


def _may_differ(node: Node, places: list[int]) -> bool:
    """Whether a node may write something else for a twin: the embeddings where it differs, all others from there on."""
    return node.position in places if node.kind == "embeds" else any(place <= node.position for place in places)


def _where(places: list[int]) -> str:
    """Where twins differ, in words."""
    if not places:
        return "no twin differs from its sentence"
    several = "s" if len(places) > 1 else ""
    return f"twins differ at position{several} {', '.join(map(str, places))}"
