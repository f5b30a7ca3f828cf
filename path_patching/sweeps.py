"""How much paths matter: the effect of a path set, and of every node on the receivers of one (the paper's section 3).

The effect of a path set on a metric is what patching it adds to the metric's mean over the N sentences:

    effect(P) = mean_n( metric(probabilities with P on corrupted data)_n − metric(clean probabilities)_n )

*Iterative path patching* fixes receivers R and gives the effect of R∘node for every node at one position.

    >>> effect(engine, PathSet.parse("a1.h0 → m2 → logits", end=END), metric)  # with its 95 % interval
    Estimate(value=..., low=..., high=..., n=..., plain_low=None, plain_high=None)
    >>> table = effects_on(engine, PathSet.at(Node.logits(END)), metric, END)  # (L, H + 1), MLPs in the last column
    >>> len(strongest(table, 3))
    3
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch

from path_patching.bootstrap import Clusters, Estimate, mean
from path_patching.engine import Engine
from path_patching.paths import AnyVia, Node, PathSet, layer_nodes

Metric = Callable[[torch.Tensor], torch.Tensor]  # answer probabilities (N, A) to one number a sentence, (N,)
Effects = Callable[..., torch.Tensor]  # (receivers, position, via="all") to (L, H + 1)


def changes(engine: Engine, paths: PathSet, metric: Metric) -> torch.Tensor:
    """What patching a path set adds to the metric of each sentence, (N,)."""
    return metric(engine.patch(paths)) - metric(engine.clean())


def effect(engine: Engine, paths: PathSet, metric: Metric, seed: int = 0, clusters: Clusters = ()) -> Estimate:
    """The effect of a path set on the mean of a metric, with its 95 % interval over the sentences or their clusters."""
    return mean(changes(engine, paths, metric), seed, clusters)


def effects_of(
    engine: Engine,
    receivers: PathSet,
    senders: Sequence[Node],
    metric: Metric,
    via: AnyVia = "all",
    clean: torch.Tensor | None = None,
) -> torch.Tensor:
    """The effect of receivers∘sender for each sender, through input `via` of the receivers: (S,) float64.

    `clean` is the metric's clean mean, where it is known already.
    A sender that no receiver reads has none. Raises `PathSetError` if that holds for all of them.
    """
    means = torch.stack([metric(probs).mean() for probs in engine.sweep(receivers, senders, via)])
    return means - (metric(engine.clean()).mean() if clean is None else clean)


def effects_on(
    engine: Engine,
    receivers: PathSet,
    metric: Metric,
    position: int,
    via: AnyVia = "all",
) -> torch.Tensor:
    """The effect of every head and MLP at `position` on the receivers: (L, H + 1) float64, MLPs in the last column."""
    n_layers, n_heads = engine.model.architecture.n_layers, engine.model.architecture.n_heads
    senders = [node for layer in range(n_layers) for node in layer_nodes(layer, n_heads, position)]
    return effects_of(engine, receivers, senders, metric, via).reshape(n_layers, n_heads + 1)


def remembered_effects(engine: Engine, metric: Metric) -> Effects:
    """`effects_on` of an engine, each sweep made once however often it is asked for."""

    @cache
    def effects(receivers: PathSet, position: int, via: AnyVia = "all") -> torch.Tensor:
        return effects_on(engine, receivers, metric, position, via)

    return effects


def strongest(effects: torch.Tensor, count: int = 8, heads_only: bool = False) -> dict[str, float]:
    """The nodes, or heads, of largest |effect| by name, from a (L, H + 1) table, strongest first."""
    n_heads = effects.shape[1] - 1
    ranked = effects[:, :n_heads] if heads_only else effects
    order = ranked.flatten().abs().argsort(descending=True)[:count].tolist()
    rows = [divmod(place, ranked.shape[1]) for place in order]
    names = [f"m{layer}" if column == n_heads else f"a{layer}.h{column}" for layer, column in rows]
    return {name: effects[row].item() for name, row in zip(names, rows, strict=True)}
