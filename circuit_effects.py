"""How much each link of a circuit matters, and sweeps that are made once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import groupby
from typing import Literal

import torch

from circuit import EVERYTHING, Circuit, Link, down_to, full_circuit, links, located
from metrics import Metric
from path_patching.engine import Engine
from path_patching.iterative import effects_on
from path_patching.paths import Node, PathSet, Via
from utils import progress

Effects = Callable[..., torch.Tensor]  # (receivers, position, via="all") to (L, H + 1)


def remembered_effects(engine: Engine, metric: Metric) -> Effects:
    """`effects_on` of an engine, each sweep made once however often it is asked for."""

    @cache
    def effects(receivers: PathSet, position: int, via: Via | Literal["all"] = "all") -> torch.Tensor:
        return effects_on(engine, receivers, metric, position, via)

    return effects


def link_effects(engine: Engine, circuit: Circuit, metric: Metric, yy: int, end: int) -> dict[Link, float]:
    """The effect of every link: of its sender on the mean of the metric, through the reader's input alone.

    The reader's own effect goes through every path of the circuit that leads to it, as in iterative path patching.
    """
    paths = full_circuit(circuit, yy, end)
    clean = metric(engine.probabilities()).mean()
    read = [(key, list(group)) for key, group in groupby(links(circuit), key=lambda link: (link.reader, link.via))]
    effects: dict[Link, float] = {}
    for (reader, via), group in progress(read, "links of the circuit"):
        receivers = down_to(paths, located(reader, yy, end))
        for link, patched in zip(group, _patched(engine, receivers, group, via, yy, end), strict=True):
            effects[link] = (metric(patched).mean() - clean).item()
    return effects


def _patched(engine: Engine, receivers: PathSet, group: list[Link], via: Via, yy: int, end: int) -> list[torch.Tensor]:
    """Answer probabilities (N, A) with each link of one input patched."""
    if group[0].sender == EVERYTHING:  # then it is the input's only link
        return [engine.probabilities(receivers.extend([Node.residual(position) for position in range(end + 1)], via))]
    return list(engine.sweep(receivers, [located(link.sender, yy, end) for link in group], via))
