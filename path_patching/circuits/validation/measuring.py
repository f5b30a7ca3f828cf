"""Metrics of many requests, and the scale from nothing (∅) to the whole model (M): all tests measure with these.

    measured[i, j, n] = metrics[i](answer probabilities of requests[j])_n
    F(C) = (m(C) − m(∅)) / (m(M) − m(∅)),  with m the mean over the sentences n

∅ is the run with everything on corrupted data. It is scored like the clean run, by the years of the clean sentences.
m(M) − m(∅) is the *span*. If nothing can be judged, each number says why (`Estimate.doubt`): there are fewer than two
sentences, or fewer than ten nouns, say, that they were made of; or the span may be zero, so that no share of it means
anything.

    >>> paths, clean = late_half(circuit, END), Request.clean()
    >>> whole, alone = measured(engine, [clean, Request.isolate(paths)], [metric])[0]  # of (metrics, requests, N)
    >>> scale = Scale.of(engine, metric)
    >>> bool((scale.whole == whole).all())
    True
    >>> print(scale.normalized(whole), scale.normalized(scale.nothing))  # with their intervals
    1.0000 [1.0000, 1.0000] 0.0000 [0.0000, 0.0000]
    >>> scale.each(alone).shape  # sentence by sentence
    torch.Size([97])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from path_patching.batches import PROBABILITY_BYTES
from path_patching.bootstrap import Clusters, Estimate, means, shares
from path_patching.engine import Engine, Request
from path_patching.errors import UserError
from path_patching.metrics import Metric, measured_by
from path_patching.paths import PathSet
from path_patching.progress import progress

ROUNDING = 1e-5  # of F: engines may differ by that much
CHANGE = 0.01  # of F: less counts as no change, however certain
FEWEST_SENTENCES = 2  # with one, an interval has no width
FEWEST_CLUSTERS = 10  # of a kind; with 10 × 10, 93 of 100 intervals hold the truth, with 3 × 3 86, with 2 × 97 60
NO_SPAN, NO_VALUE = 1e-6, 1e-9  # a span up to this share of the metric, or up to this value, is rounding
NOTHING = Estimate(math.nan, math.nan, math.nan, 0)
SHARE_OF_MEMORY = 1 / 8  # of the engine's memory, for the probabilities of one call


def measured(engine: Engine, requests: Sequence[Request], metrics: Sequence[Metric]) -> torch.Tensor:
    """Several metrics of several requests: (metrics, requests, N) float64.

    Each distinct request is evaluated once; as many go to the engine together as memory has room for.
    Raises `UserError` if there is no metric, `PathSetError` like `Engine.evaluate`.
    """
    if not metrics:
        raise UserError("no metric is given; give at least one")
    distinct = list(dict.fromkeys(requests))
    bytes_each = PROBABILITY_BYTES * len(engine.sentences) * len(engine.sentences.answers)
    at_once = max(1, int(engine.memory_gb * 1e9 * SHARE_OF_MEMORY / bytes_each))
    chunks = [distinct[first : first + at_once] for first in range(0, max(1, len(distinct)), at_once)]
    values: dict[Request, torch.Tensor] = {}
    for chunk in progress(chunks, f"{len(distinct)} evaluations"):
        found = engine.evaluate(chunk)
        for request, probabilities in zip(chunk, found, strict=True):
            values[request] = torch.stack([measured_by(each, probabilities) for each in metrics])  # (metrics, N)
    return torch.stack([values[request] for request in requests], 1)


@dataclass(frozen=True, eq=False)
class Scale:
    """A metric with its two ends, the whole model and ∅; all intervals of the tests are made here."""

    metric: Metric
    whole: torch.Tensor
    """m(M), (N,) float64."""
    nothing: torch.Tensor
    """m(∅), (N,) float64."""
    clusters: Clusters = ()
    """The words that each sentence was made of, as numbers, for intervals; () if sentences were drawn one by one."""
    kinds: tuple[str, ...] = ()
    """What the clusters are called: `("nouns", "YYs")`."""
    most: float | None = None
    """The largest possible value of the metric, if there is one."""

    @classmethod
    def of(
        cls,
        engine: Engine,
        metric: Metric,
        clusters: Clusters = (),
        kinds: tuple[str, ...] = (),
        most: float | None = None,
    ) -> Scale:
        """The scale of an engine's sentences."""
        whole, nothing = measured(engine, [Request.clean(), Request.corrupted()], [metric])[0]
        return cls(metric, whole, nothing, clusters, kinds, most)

    @property
    def span(self) -> torch.Tensor:
        """m(M) − m(∅), (N,)."""
        return self.whole - self.nothing

    @cached_property
    def few(self) -> str:
        """Why no interval can be judged; "" if it can."""
        return too_few(len(self.whole), self.clusters, self.kinds)

    @cached_property
    def is_flat(self) -> bool:
        """Whether the mean of the span is zero but for rounding."""
        size = max(each.abs().mean().item() for each in (self.whole, self.nothing))
        return not abs(self.span.mean().item()) > max(NO_SPAN * size, NO_VALUE)

    @cached_property
    def doubt(self) -> str:
        """Why no share of the span can be judged; "" if it can."""
        if self.is_flat:
            return "nothing to judge: the span is zero"
        if self.few:
            return self.few
        low, high = self.mean(self.span).ends
        return "" if low > 0 or high < 0 else "nothing to judge: the span may be zero, for its interval includes zero"

    @property
    def largest(self) -> float | None:
        """The largest possible F; None if the metric has no `most`, or without a span."""
        if self.most is None or self.is_flat:
            return None
        return ((self.most - self.nothing.mean()) / self.span.mean()).item()

    def mean(self, scores: torch.Tensor) -> Estimate:
        """The mean of scores (N,), with its interval."""
        return self.means(scores[None])[0]

    def means(self, scores: torch.Tensor) -> tuple[Estimate, ...]:
        """The mean of each of many scores (Q, N), with its interval."""
        return tuple(replace(each, doubt=self.few) for each in means(scores, clusters=self.clusters))

    def share(self, part: torch.Tensor, whole: torch.Tensor) -> Estimate:
        """The mean of `part` (N,) as a share of the mean of `whole` (N,), with its interval; NaN if that is zero."""
        if whole.mean() == 0:
            return replace(NOTHING, n=len(whole), doubt="nothing to judge: it would be a share of zero")
        return replace(shares(part[None], whole, clusters=self.clusters)[0], doubt=self.few)

    def of_span(self, difference: torch.Tensor) -> Estimate:
        """A difference of two scores (N,) as a difference of F: its mean over the span's, with its interval.

        NaN if the span is zero.
        """
        return self.of_spans(difference[None])[0]

    def of_spans(self, differences: torch.Tensor) -> tuple[Estimate, ...]:
        """`of_span` of each of many differences (Q, N)."""
        if self.is_flat:
            return (replace(NOTHING, n=len(self.whole), doubt=self.doubt),) * len(differences)
        found = shares(differences, self.span, clusters=self.clusters)
        return tuple(replace(each, doubt=self.doubt) for each in found)

    def normalized(self, scores: torch.Tensor) -> Estimate:
        """F of the mean of scores (N,), with its interval: 0 for ∅, 1 for the whole model."""
        return self.of_span(scores - self.nothing)

    def each(self, scores: torch.Tensor) -> torch.Tensor:
        """F of each sentence, (..., N) to (..., N); not finite for a sentence without a span."""
        return (scores - self.nothing) / self.span

    def of_means(self, scores: torch.Tensor) -> torch.Tensor:
        """F of the mean, without an interval: (..., N) to (...); NaN if the span is zero."""
        return (scores - self.nothing).mean(-1) / (torch.nan if self.is_flat else self.span.mean())


def too_few(n: int, clusters: Clusters = (), kinds: Sequence[str] = ()) -> str:
    """Why there are too few sentences or clusters for an interval; "" if there are enough."""
    if n < FEWEST_SENTENCES:
        return f"{n} sentence; give two or more"
    counts = [len(each.unique()) for each in clusters]
    if not counts or min(counts) >= FEWEST_CLUSTERS:
        return ""
    named = kinds if len(kinds) == len(counts) else ("clusters",) * len(counts)
    few = [f"{count} {kind}" for count, kind in zip(counts, named, strict=True) if count < FEWEST_CLUSTERS]
    return f"{' and '.join(few)}; an interval needs {FEWEST_CLUSTERS}, so give more sentences"


def isolated(paths: PathSet | None) -> Request:
    """A circuit alone; ∅ if it has no paths."""
    return Request.corrupted() if paths is None else Request.isolate(paths)


def removed(paths: PathSet | None) -> Request:
    """The model without some paths; the whole model if there are none."""
    return Request.clean() if paths is None else Request.patch(paths)


def is_nothing(lost: Estimate) -> bool:
    """Whether an interval includes 0, but for rounding; True for NaN."""
    low, high = lost.ends
    return not (low > ROUNDING or high < -ROUNDING)


def is_change(lost: Estimate) -> bool:
    """Whether the whole interval is a change of F by `CHANGE` or more, up or down."""
    low, high = lost.ends
    return low >= CHANGE or high <= -CHANGE


def is_no_change(lost: Estimate) -> bool:
    """Whether the whole interval is a change of F by less than `CHANGE`."""
    low, high = lost.ends
    return low > -CHANGE and high < CHANGE


def magnitude(signed: Estimate) -> Estimate:
    """The absolute value of an estimate, and of its intervals."""
    low, high = _sizes(signed.low, signed.high)
    size = Estimate(abs(signed.value), low, high, signed.n, doubt=signed.doubt)
    if signed.plain_low is None or signed.plain_high is None:
        return size
    plain_low, plain_high = _sizes(signed.plain_low, signed.plain_high)
    return replace(size, plain_low=plain_low, plain_high=plain_high)


def _sizes(low: float, high: float) -> tuple[float, float]:
    """The smallest and the largest absolute value between two numbers."""
    least, most = sorted((abs(low), abs(high)))
    return (0.0 if low <= 0 <= high else least), most
