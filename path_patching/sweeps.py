"""Iterative path patching (section 3 of the paper): which nodes act on the receivers of a path set, and how much."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Literal

import torch

from path_patching.engine import Engine
from path_patching.paths import PathSet, Via, layer_nodes

Metric = Callable[[torch.Tensor], torch.Tensor]  # answer probabilities (N, A) to one number a sentence, (N,)


def effects_on(
    engine: Engine,
    receivers: PathSet,
    metric: Metric,
    position: int,
    via: Via | Literal["all"] = "all",
) -> torch.Tensor:
    """The effect of every head and MLP at `position` on the receivers: (L, H + 1) float64, MLPs in the last column.

    An effect is the mean of the metric with exactly the paths receivers∘node on corrupted data, minus the clean mean. A
    node that no receiver reads has none.
    """
    architecture = engine.model.architecture
    n_heads = architecture.n_heads
    senders = [node for layer in range(architecture.n_layers) for node in layer_nodes(layer, n_heads, position)]
    patched = engine.sweep(receivers, senders, via)  # (L·(H + 1), N, 100)
    clean = metric(engine.probabilities()).mean()
    means = torch.stack([metric(probabilities).mean() for probabilities in patched])
    return (means - clean).reshape(architecture.n_layers, n_heads + 1)


def strongest(effects: torch.Tensor, count: int = 8) -> dict[str, float]:
    """The nodes of largest |effect| by name, from a (L, H + 1) table, strongest first."""
    n_heads = effects.shape[1] - 1
    order = effects.flatten().abs().argsort(descending=True)[:count].tolist()
    rows = [divmod(place, n_heads + 1) for place in order]
    names = [f"m{layer}" if column == n_heads else f"a{layer}.h{column}" for layer, column in rows]
    return {name: effects[row].item() for name, row in zip(names, rows, strict=True)}


Effects = Callable[..., torch.Tensor]  # (receivers, position, via="all") to (L, H + 1)


def remembered_effects(engine: Engine, metric: Metric) -> Effects:
    """`effects_on` of an engine, each sweep made once however often it is asked for."""

    @cache
    def effects(receivers: PathSet, position: int, via: Via | Literal["all"] = "all") -> torch.Tensor:
        return effects_on(engine, receivers, metric, position, via)

    return effects
