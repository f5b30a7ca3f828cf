"""How much paths matter: the effect of a path set, and of every node on the receivers of one (the paper's section 3).

The effect of a path set on a metric is what patching it adds to the metric's mean over the N sentences:

    effect(P) = mean_n( metric(probabilities with P on corrupted data)_n − metric(clean probabilities)_n )

A *sweep*, the paper's iterative path patching, fixes receivers R and gives the effect of R∘node for every node at one
position. Nodes can be put on other data than the corrupted, such as their means.

    >>> effect(engine, PathSet.parse("a1.h0 → m2 → logits", end=END), metric)  # with its 95 % interval
    Estimate(value=..., low=..., high=..., n=..., plain_low=None, plain_high=None)
    >>> table = effects_on(engine, PathSet.at(Node.logits(END)), metric, END)  # (L, H + 1), MLPs in the last column
    >>> len(strongest(table, 3))
    3
    >>> ablated = effects_on(engine, PathSet.at(Node.logits(END)), metric, END, inside="mean")
    >>> others = engine.like(sentences.rows(slice(50)))
    >>> both = direct_effects_on([engine, others], [metric, lambda probs: probs[:, 50:].sum(1)])  # cheaper together
    >>> torch.allclose(both[0], table, rtol=0, atol=1e-6)
    True

A search asks for the same sweeps again and again, and a bootstrap for the same sweeps over other draws of sentences. A
cache evaluates each once:

    >>> effects = remembered_effects(engine, metric)
    >>> bool((effects(PathSet.at(Node.logits(END)), END) == table).all())
    True
    >>> drawn = effects.weighted(torch.arange(97))  # the first sentence never, the second once, the third twice …
    >>> drawn(PathSet.at(Node.logits(END)), END).shape  # from the cached sweep
    torch.Size([3, 3])
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from path_patching.batches import in_parts
from path_patching.bootstrap import Clusters, Estimate, mean
from path_patching.direct_effects import Change, direct_effects, is_cheaper
from path_patching.engine import Data, Engine, Request
from path_patching.errors import UserError, is_whole, shortened
from path_patching.metrics import Metric as Metric
from path_patching.metrics import measured_by
from path_patching.paths import AnyVia, Node, PathSet, layer_nodes
from path_patching.unembedding import Unembedding

TIE = 1e-7  # between effects, in the metric's unit


def changes(engine: Engine, paths: PathSet, metric: Metric) -> torch.Tensor:
    """What patching a path set adds to the metric of each sentence, (N,)."""
    return measured_by(metric, engine.patch(paths)) - measured_by(metric, engine.clean())


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
    inside: Data = "corrupted",
) -> torch.Tensor:
    """The effect of receivers∘sender, on `inside` data, through input `via` of the receivers: (S,) float64.

    `clean` is the metric's clean mean, if it is known already. A sender that no receiver reads has effect 0. Raises
    `PathSetError` if no receiver reads any sender.
    """
    means = torch.stack([measured_by(metric, each).mean() for each in engine.sweep(receivers, senders, via, inside)])
    return means - (measured_by(metric, engine.clean()).mean() if clean is None else clean)


def effects_on(
    engine: Engine,
    receivers: PathSet,
    metric: Metric,
    position: int,
    via: AnyVia = "all",
    inside: Data = "corrupted",
) -> torch.Tensor:
    """The effect of every head and MLP at `position` on the receivers: (L, H + 1) float64, MLPs in the last column."""
    effects = effects_of(engine, receivers, every_node(engine, position), metric, via, inside=inside)
    return effects.reshape(-1, engine.model.architecture.n_heads + 1)


def direct_effects_on(
    engines: Sequence[Engine], metrics: Sequence[Metric], inside: Data = "corrupted"
) -> list[torch.Tensor]:
    """`effects_on` the logits at END for several engines at once, each with its metric: (L, H + 1) float64 for each.

    This is much faster for engines made by `like` from one another: what a head can write is then unembedded once.
    """
    engines, metrics, alike = [*engines], [*metrics], defaultdict(list)
    if len(engines) != len(metrics):
        raise UserError(f"{len(engines)} engines need a metric each, not {len(metrics)}")
    for place, engine in enumerate(engines):
        alike[id(engine.unembedding or engine)].append(place)
    found: dict[int, torch.Tensor] = {}
    for places in alike.values():
        some = [engines[place] for place in places], [metrics[place] for place in places]
        unembedding, n = some[0][0].unembedding, sum(len(engine.sentences) for engine in some[0])
        if unembedding is not None and is_cheaper(Node.head(0, 0, 0), some[0][0].model.architecture, n):
            found |= zip(places, _together(*some, inside, unembedding), strict=True)
        else:
            found |= zip(places, (_on_logits(*each, inside) for each in zip(*some, strict=True)), strict=True)
    return [found[place] for place in range(len(engines))]


def _on_logits(engine: Engine, metric: Metric, inside: Data) -> torch.Tensor:
    """`effects_on` the logits at END."""
    end = engine.sentences.end
    return effects_on(engine, PathSet.at(Node.logits(end)), metric, end, inside=inside)


def _together(
    engines: Sequence[Engine], metrics: Sequence[Metric], inside: Data, unembedding: Unembedding
) -> list[torch.Tensor]:
    """`direct_effects_on` of engines that share an unembedding."""
    model, n_each = engines[0].model, [len(engine.sentences) for engine in engines]
    directions = [
        of_head.T for layer in range(model.architecture.n_layers) for of_head in model.tensors[f"a{layer}.w.o_arr"]
    ]
    asked = [_heads_and_mlps(*each, inside) for each in zip(engines, metrics, strict=True)]
    stream, change = torch.cat([each.stream for each in asked]), torch.cat([each.change for each in asked], 1)
    device = unembedding.device

    def mean_of(metric: Metric, probabilities: torch.Tensor) -> torch.Tensor:
        return measured_by(metric, probabilities).mean()

    def means(heads: torch.Tensor) -> list[torch.Tensor]:  # of each engine's metric, for each of some heads
        changes = [Change(change[head].to(device), directions[head].to(device)) for head in heads.tolist()]
        probabilities = direct_effects(stream.to(device), changes, unembedding)  # one after another: all are large
        return [torch.stack([*map(mean_of, metrics, each.cpu().split(n_each))]) for each in probabilities]

    found = []
    for part in in_parts(torch.arange(len(directions)), len(directions), "heads", device):
        with part:
            found += means(part.rows)
    of_heads = torch.stack(found, 1)  # (engines, L * H)
    return [each.table(heads) for each, heads in zip(asked, of_heads, strict=True)]


class _HeadsAndMlps(NamedTuple):
    """What one engine gives for `direct_effects_on`.

    It is what the logits read on clean data (N, D), each head's change along its directions (L * H, N, d_head), the
    metric's clean mean, and the effect of each MLP (L,).
    """

    stream: torch.Tensor
    change: torch.Tensor
    clean: torch.Tensor
    of_mlps: torch.Tensor

    def table(self, of_heads: torch.Tensor) -> torch.Tensor:
        """The effects of all nodes (L, H + 1), given the metric's mean with each head patched, (L * H,)."""
        return torch.cat([(of_heads - self.clean).reshape(len(self.of_mlps), -1), self.of_mlps[:, None]], 1)


def _heads_and_mlps(engine: Engine, metric: Metric, inside: Data) -> _HeadsAndMlps:
    """Everything asked of one engine, one after another, while the cache has its activations."""
    nodes, logits = every_node(engine, engine.sentences.end), Node.logits(engine.sentences.end)
    heads, mlps = ([node for node in nodes if node.kind == kind] for kind in ("head", "mlp"))
    change = engine.mixed_values(heads, inside) - engine.mixed_values(heads)
    clean = measured_by(metric, engine.clean()).mean()
    of_mlps = effects_of(engine, PathSet.at(logits), mlps, metric, clean=clean, inside=inside)
    return _HeadsAndMlps(engine.residual(logits), change, clean, of_mlps)


def every_node(engine: Engine, position: int) -> list[Node]:
    """Every head and MLP at a position, in the order of a sweep's table."""
    sizes = engine.model.architecture
    return [node for layer in range(sizes.n_layers) for node in layer_nodes(layer, sizes.n_heads, position)]


class SentenceValues:
    """A cache of a metric's values for every sentence: each request and each sweep is evaluated once."""

    def __init__(self, engine: Engine, metric: Metric) -> None:
        self.engine = engine
        self.metric = metric
        self._of_request: dict[Request, torch.Tensor] = {}
        self._of_sweep: dict[tuple[PathSet, int, AnyVia], torch.Tensor] = {}

    def of(self, request: Request) -> torch.Tensor:
        """The metric of each sentence for one request, (N,)."""
        return self.of_each([request])[0]

    def of_each(self, requests: Sequence[Request]) -> torch.Tensor:
        """The metric of each sentence for some requests, (R, N). Those not in the cache are evaluated together."""
        new = [request for request in dict.fromkeys(requests) if request not in self._of_request]
        if new:
            found = [measured_by(self.metric, each) for each in self.engine.evaluate(new)]
            self._of_request |= zip(new, found, strict=True)
        return torch.stack([self._of_request[request] for request in requests])

    def swept(self, receivers: PathSet, position: int, via: AnyVia = "all") -> torch.Tensor:
        """The metric with receivers∘node patched, for every head and MLP at a position: (L, H + 1, N)."""
        key = receivers, position, via
        if key not in self._of_sweep:
            swept = self.engine.sweep(receivers, every_node(self.engine, position), via)
            values = torch.stack([measured_by(self.metric, each) for each in swept])
            self._of_sweep[key] = values.unflatten(0, (-1, self.engine.model.architecture.n_heads + 1))
        return self._of_sweep[key]

    def know_swept(self) -> None:
        """Use the sweeps' values for requests too, so that the same paths are not evaluated again.

        This makes a path set for each node of each sweep, which pays off only for many requests.
        """
        for (receivers, position, via), swept in self._of_sweep.items():
            for sender, values in zip(every_node(self.engine, position), swept.flatten(0, 1), strict=True):
                if receivers.reachable(sender, via):
                    self._of_request.setdefault(Request.patch(receivers.extend([sender], via)), values)


@dataclass(frozen=True, eq=False)
class Effects:
    """Effects on the mean of a metric over the sentences, or over a draw of them.

    `weights` (N,) say how often each sentence was drawn; None means once each. All draws share one cache.
    """

    values: SentenceValues
    weights: torch.Tensor | None = None

    def __call__(self, receivers: PathSet, position: int, via: AnyVia = "all") -> torch.Tensor:
        """`effects_on` of the sentences drawn: (L, H + 1) float64."""
        swept = self.values.swept(receivers, position, via)  # (L, H + 1, N)
        return self._means(swept.flatten(0, 1)).reshape(swept.shape[:2]) - self._mean(Request.clean())

    def changes(self, receivers: PathSet, position: int, via: AnyVia = "all") -> torch.Tensor:
        """What patching receivers∘node adds to the metric of each sentence, drawn or not: (L, H + 1, N)."""
        return self.values.swept(receivers, position, via) - self.values.of(Request.clean())

    @property
    def clean(self) -> float:
        """The metric's mean with everything on clean data."""
        return self._mean(Request.clean()).item()

    def of(self, paths: PathSet) -> float:
        """The effect of patching a path set."""
        return self.of_each([paths])[0].item()

    def of_each(self, path_sets: Sequence[PathSet]) -> torch.Tensor:
        """The effects of patching some path sets, (P,). Those not in the cache are evaluated together."""
        means = self._means(self.values.of_each([Request.clean(), *map(Request.patch, path_sets)]))
        return means[1:] - means[0]

    def alone(self, paths: PathSet) -> float:
        """The metric's mean with a path set alone on clean data."""
        return self._mean(Request.isolate(paths)).item()

    def weighted(self, weights: torch.Tensor) -> Effects:
        """The effects over a draw of the sentences, with each counted as often as `weights` (N,) say.

        Raises `UserError` unless there is a weight for each sentence, none negative and not all zero.
        """
        n = len(self.values.engine.sentences)
        if weights.shape != (n,) or not (weights >= 0).all() or not 0 < weights.sum() < torch.inf:
            raise UserError(f"a draw of {n} sentences has one weight for each, none below 0 and not all 0")
        return Effects(self.values, weights.double())

    def _mean(self, request: Request) -> torch.Tensor:
        return self._means(self.values.of(request)[None])[0]

    def _means(self, values: torch.Tensor) -> torch.Tensor:
        """Means of (S, N) over the sentences drawn, (S,)."""
        if self.weights is None:
            return torch.stack([each.mean() for each in values])
        return values.double() @ self.weights / self.weights.sum()


def remembered_effects(engine: Engine, metric: Metric) -> Effects:
    """`effects_on` of an engine with a cache: each sweep is evaluated once."""
    return Effects(SentenceValues(engine, metric))


def by_size(effects: Sequence[float]) -> list[int]:
    """The indices of effects, from the largest |effect| to the smallest.

    Effects that differ by less than `TIE`, which may be rounding, stay in the given order.
    """
    places = sorted(range(len(effects)), key=lambda place: -abs(effects[place]))
    found: list[list[int]] = []
    for place in places:
        if found and abs(effects[found[-1][-1]]) - abs(effects[place]) < TIE:
            found[-1].append(place)
        else:
            found.append([place])
    return [place for alike in found for place in sorted(alike)]


def strongest(effects: torch.Tensor, count: int = 8, heads_only: bool = False) -> dict[str, float]:
    """The nodes (or only heads) with the largest |effect| in a table (L, H + 1), by name, strongest first.

    Raises `UserError` for what is no such table of finite numbers, and for a `count` that is none.
    """
    if effects.ndim != 2 or not effects.isfinite().all():
        raise UserError(f"effects are a table (L, H + 1) of finite numbers, not {tuple(effects.shape)}; see effects_on")
    if not is_whole(count) or count < 0:
        raise UserError(f"{shortened(repr(count))} nodes: give a whole number of them")
    n_heads = effects.shape[1] - 1
    ranked = effects[:, :n_heads] if heads_only else effects
    order = by_size(ranked.flatten().tolist())[:count]
    rows = [divmod(place, ranked.shape[1]) for place in order]
    names = [f"m{layer}" if column == n_heads else f"a{layer}.h{column}" for layer, column in rows]
    return {name: effects[row].item() for name, row in zip(names, rows, strict=True)}
