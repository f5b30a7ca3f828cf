"""Bootstrap intervals of means over sentences, and of shares of one mean in another.

Sentences are drawn again with replacement, or the `clusters` that they were made of. A year-span sentence crosses a
noun and a YY. If its noun was drawn twice and its YY three times, it counts six times:

    mean(x) = Σ_n w_n x_n / Σ_n w_n,   w_n = times(noun_n) · times(YY_n),   share(x, y) = mean(x) / mean(y)

with w_n = 1 for the value itself. The interval is the middle 95 % of 2000 such draws. All quantities of a sentence are
drawn together, so that the part and the whole of a share come from the same sentences. A draw without a sentence (no
sentence has one of its nouns and one of its YYs) is drawn again.

The two-way interval is rather too wide. Variation that comes neither from the noun nor from the YY counts about three
times in its variance, which can make it 1.7 times too wide. The plain interval draws sentences one by one; it is given
beside the two-way one where their widths differ by more than a tenth. Intervals say how far results would move with
other sentences of the same kind. They say nothing about another model.

    >>> clean, alone = metric(engine.clean()), metric(engine.isolate(late_half(circuit, END)))  # (N,) each
    >>> mean(clean)  # sentences drawn one by one
    Estimate(value=..., low=..., high=..., n=97, plain_low=None, plain_high=None)
    >>> drawn = [nouns, start_yy]  # the number of each sentence's noun, and its YY, (N,) each
    >>> share(alone, clean, clusters=drawn)  # how much of the clean value the late half achieves alone
    Estimate(value=..., low=..., high=..., n=97, plain_low=..., plain_high=...)
    >>> print(share(clean, clean, clusters=drawn))
    1.0000 [1.0000, 1.0000]
    >>> len(means(torch.stack([clean, alone]), clusters=drawn))  # several means from the same draws
    2
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from path_patching.errors import UserError, is_whole, shortened
from path_patching.plain_tensors import as_tensor

MEASURED = "what was measured of each sentence"
RESAMPLES = 2000
LEVEL = 0.95
SMALL = 1e-3  # smaller numbers would show one digit in four decimals
ALIKE = 1.1  # two intervals say the same if neither is this many times as wide as the other
ROUNDING = 1e-12  # as a share of the value: rounding alone can make an interval so wide
DRAWN_AT_ONCE = 1_000_000  # sentences; memory stays the same for any number of them
SUMS_A_WEIGHT = 10  # so many sums take as long as one weight

Clusters = Sequence[torch.Tensor]  # for each way of grouping, the group's number of each sentence, int64 (N,)


class BootstrapError(UserError, ValueError):
    """Values or clusters from which nothing can be drawn."""


@dataclass(frozen=True)
class Estimate:
    """A number, its interval's ends, its number of sentences, and the plain interval's ends where these differ."""

    value: float
    low: float
    high: float
    n: int
    plain_low: float | None = None
    plain_high: float | None = None
    doubt: str = field(default="", compare=False, repr=False)
    """Why nothing can be judged by it, for example because of too few sentences; empty if it can. Not compared."""

    @property
    def ends(self) -> tuple[float, float]:
        """The ends of its wider interval."""
        if self.plain_low is None or self.plain_high is None or self.plain_high - self.plain_low < self.high - self.low:
            return self.low, self.high
        return self.plain_low, self.plain_high

    @property
    def is_finite(self) -> bool:
        """Whether it and the ends of its intervals are numbers; a share of zero has none."""
        return all(map(math.isfinite, (self.value, self.low, self.high, *self.ends)))

    def as_json(self) -> dict[str, float]:
        """The numbers by name, for a run's record, with the plain interval's ends where there is one."""
        return {name: number for name, number in asdict(self).items() if number is not None and name != "doubt"}

    def without_plain(self) -> Estimate:
        """The same without the plain interval."""
        return replace(self, plain_low=None, plain_high=None)

    def __str__(self) -> str:
        """`0.8170 [0.8021, 0.8313], plain [0.8102, 0.8238]`; numbers too small for four decimals as `-3.2e-07 [...`."""
        plain = [] if self.plain_low is None or self.plain_high is None else [self.plain_low, self.plain_high]
        numbers = [self.value, self.low, self.high, *plain]
        shown = ".4f" if not 0 < max(map(abs, numbers)) < SMALL else ".1e"
        value, low, high, *plain_ends = (_without_minus_zero(f"{number:{shown}}") for number in numbers)
        text = f"{value} [{low}, {high}]"
        return f"{text}, plain [{', '.join(plain_ends)}]" if plain else text


def mean(values: torch.Tensor, seed: int = 0, clusters: Clusters = (), resamples: int = RESAMPLES) -> Estimate:
    """The mean of a per-sentence quantity (N,), with its 95 % percentile interval."""
    return means(as_tensor(values, MEASURED)[None], seed, clusters, resamples)[0]


def means(
    values: torch.Tensor, seed: int = 0, clusters: Clusters = (), resamples: int = RESAMPLES
) -> tuple[Estimate, ...]:
    """The means of Q quantities (Q, N), in the time of one."""
    return estimates(lambda of_draws: of_draws, values, seed, clusters, resamples)


def share(
    part: torch.Tensor, whole: torch.Tensor, seed: int = 0, clusters: Clusters = (), resamples: int = RESAMPLES
) -> Estimate:
    """The mean of `part` (N,) as a share of the mean of `whole` (N,) over the same sentences, with its interval.

    Where the mean of `whole` is not clearly different from zero, the share means nothing and its interval is huge.
    """
    return shares(as_tensor(part, MEASURED)[None], whole, seed, clusters, resamples)[0]


def shares(
    parts: torch.Tensor, whole: torch.Tensor, seed: int = 0, clusters: Clusters = (), resamples: int = RESAMPLES
) -> tuple[Estimate, ...]:
    """The means of several `parts` (Q, N), each as a share of the mean of `whole` (N,), in the time of one."""
    parts, whole = as_tensor(parts, MEASURED), as_tensor(whole, MEASURED)
    if parts.ndim != 2 or whole.shape != parts.shape[1:]:
        raise BootstrapError(f"parts (Q, N) need a whole (N,), got {tuple(parts.shape)} and {tuple(whole.shape)}")
    values = torch.cat([parts.double(), whole.double()[None]])
    return estimates(lambda of_draws: of_draws[..., :-1] / of_draws[..., -1:], values, seed, clusters, resamples)


def estimate(
    of: Callable[[torch.Tensor], torch.Tensor],
    values: torch.Tensor,
    seed: int = 0,
    clusters: Clusters = (),
    resamples: int = RESAMPLES,
) -> Estimate:
    """A number computed from the means of Q quantities (Q, N), with its 95 % interval. `of` maps (..., Q) to (...).

    Raises `BootstrapError` like `resampled_means`.
    """
    return estimates(lambda of_draws: of(of_draws)[..., None], values, seed, clusters, resamples)[0]


def estimates(
    of: Callable[[torch.Tensor], torch.Tensor],
    values: torch.Tensor,
    seed: int = 0,
    clusters: Clusters = (),
    resamples: int = RESAMPLES,
) -> tuple[Estimate, ...]:
    """K numbers computed from the same draws of Q quantities (Q, N). `of` maps (..., Q) to (..., K).

    Raises `BootstrapError` like `resampled_means`.
    """
    by_cluster = _intervals(of(resampled_means(values, seed, clusters, resamples)))
    found = of(values.double().cpu().mean(1)).tolist()
    own = [Estimate(value, *ends, values.shape[1]) for value, ends in zip(found, by_cluster, strict=True)]
    if not clusters:
        return tuple(own)
    plain = _intervals(of(resampled_means(values, seed, (), resamples)))
    return tuple(_beside(each, *ends) for each, ends in zip(own, plain, strict=True))


def resampled_means(
    values: torch.Tensor, seed: int = 0, clusters: Clusters = (), resamples: int = RESAMPLES
) -> torch.Tensor:
    """Means of Q quantities (Q, N) over `resamples` draws of the clusters, or sentences: (resamples, Q) float64.

    Quantities of one call share their draws. So do calls with the same seed and the same clusters. Sentences with the
    same clusters are summed first, so that more of them do not slow down the draws. Raises `BootstrapError` for values
    that are not (Q, N) or hold no sentence, for clusters that are not (N,), and for less than one draw.
    """
    if not is_whole(resamples) or resamples < 1:
        raise BootstrapError(f"{shortened(repr(resamples))} draws: give a whole number of them, one or more")
    values = as_tensor(values, MEASURED)
    if values.ndim != 2 or 0 in values.shape:
        raise BootstrapError(f"expected (quantities, N) with at least one sentence, got {tuple(values.shape)}")
    ones = torch.ones(1, values.shape[1], dtype=torch.float64)  # summed, they count sentences
    cells = _cells(clusters, values.shape[1])
    sums = torch.zeros(cells.count, len(values) + 1, dtype=torch.float64)
    sums.index_add_(0, cells.of, torch.cat([values.double().cpu(), ones]).T)
    totals = torch.cat([*_drawn(cells, _totals(cells, sums), seed, resamples)])
    return totals[:, :-1] / totals[:, -1:]


def sentence_weights(n: int, seed: int = 0, clusters: Clusters = (), resamples: int = RESAMPLES) -> torch.Tensor:
    """How often each of N sentences was drawn in each of the draws of `resampled_means`: (resamples, N) float64."""
    cells = _cells(clusters, n)
    return torch.cat([weights[:, cells.of] for weights in _drawn(cells, partial(_weights, cells), seed, resamples)])


@dataclass(frozen=True, eq=False)
class _Cells:
    """The P combinations of clusters that sentences have."""

    of: torch.Tensor
    """The cell of each sentence, int64 (N,)."""
    clusters: tuple[torch.Tensor, ...]
    """The cluster of each cell for each way of clustering, int64 (P,), numbered from zero without a gap."""
    sizes: tuple[int, ...]
    """How many clusters there are, for each way."""

    @property
    def count(self) -> int:
        """How many cells there are, P."""
        return len(self.clusters[0])


def _holds_numbers(cluster: Any) -> bool:
    """Whether a cluster holds numbers, and no names."""
    return isinstance(cluster, torch.Tensor) or np.asarray(cluster).dtype.kind in "biuf"


def _cells(clusters: Clusters, n: int) -> _Cells:
    """The cells of N sentences; without clusters each is a cell. Raises `BootstrapError` for clusters not (N,)."""
    if not isinstance(clusters, Sequence) or not all(map(_holds_numbers, clusters)):
        raise BootstrapError(
            f"clusters {shortened(repr(clusters))}: give a list of them, each with a number for every sentence, as "
            "utils.clusters_of makes them"
        )
    if not clusters:
        own = torch.arange(n)
        return _Cells(own, (own,), (n,))
    clusters = [torch.as_tensor(each) for each in clusters]
    if any(each.shape != (n,) for each in clusters):
        shapes = ", ".join(str(tuple(each.shape)) for each in clusters)
        raise BootstrapError(f"clusters need a number for each of {n} sentences, ({n},), got {shapes}")
    numbered = [each.cpu().unique(return_inverse=True)[1] for each in clusters]
    sizes = tuple(int(each.max()) + 1 for each in numbered)
    combined = torch.zeros(n, dtype=torch.int64)
    for each, size in zip(numbered, sizes, strict=True):
        combined = combined * size + each
    distinct, of = combined.unique(return_inverse=True)
    return _Cells(of, tuple(torch.empty_like(distinct).scatter_(0, of, each) for each in numbered), sizes)


Times = Sequence[torch.Tensor]  # how often each cluster was drawn, (draws, clusters) float64 for each way
OfDraws = Callable[[Times], torch.Tensor]  # a result for each draw that drew a cell, (draws, ...)


def _drawn(cells: _Cells, of_draws: OfDraws, seed: int, resamples: int) -> Iterator[torch.Tensor]:
    """The results of `resamples` draws, some at a time; a draw of no cell is drawn again."""
    if not is_whole(seed) or not -(2**63) <= seed < 2**63:
        raise BootstrapError(f"a seed of {shortened(repr(seed))}: give a whole number of 64 bits at most")
    generator = torch.Generator().manual_seed(int(seed))
    at_once = max(1, DRAWN_AT_ONCE // cells.count)
    missing = resamples
    while missing:
        found = of_draws([_times(size, min(at_once, missing), generator) for size in cells.sizes])
        missing -= len(found)
        yield found


def _totals(cells: _Cells, sums: torch.Tensor) -> OfDraws:
    """The sums over the drawn cells, as a function of draws: (P, S) to (draws, S). The last column counts sentences."""
    if len(cells.sizes) != 2 or math.prod(cells.sizes) * sums.shape[1] > SUMS_A_WEIGHT * cells.count:
        return lambda times: _weights(cells, times) @ sums
    table = torch.zeros(*cells.sizes, sums.shape[1], dtype=sums.dtype)
    table[cells.clusters] = sums

    def total(times: Times) -> torch.Tensor:
        rows = (times[0] @ table.flatten(1)).view(-1, *table.shape[1:])  # (draws, clusters of the second way, S)
        totals = (rows * times[1][:, :, None]).sum(1)
        return totals[totals[:, -1] > 0]

    return total


def _weights(cells: _Cells, times: Times) -> torch.Tensor:
    """How often each cell was drawn, (draws that drew a cell, P): the product over its clusters."""
    if len(times) == 1:  # a cell is a cluster, and some are always drawn
        return times[0]
    weights = torch.ones(len(times[0]), cells.count, dtype=torch.float64)
    for each, clusters in zip(times, cells.clusters, strict=True):
        weights *= each[:, clusters]
    return weights[weights.any(1)]


def _times(count: int, draws: int, generator: torch.Generator) -> torch.Tensor:
    """How often each of `count` things is drawn in `count` draws with replacement: (draws, count) float64."""
    drawn = torch.randint(count, (draws, count), generator=generator)
    times = torch.zeros(drawn.shape, dtype=torch.float64)
    return times.scatter_add_(1, drawn, torch.ones_like(times))


def _without_minus_zero(number: str) -> str:
    """A number's text; a zero loses its sign: `-0.0000` becomes `0.0000`."""
    return number.removeprefix("-") if float(number) == 0 else number


def _beside(found: Estimate, plain_low: float, plain_high: float) -> Estimate:
    """The estimate, with the plain interval added if the two differ."""
    narrow, wide = sorted([found.high - found.low, plain_high - plain_low])
    differ = wide > ALIKE * narrow + ROUNDING * abs(found.value)
    return replace(found, plain_low=plain_low, plain_high=plain_high) if differ else found


def _intervals(resampled: torch.Tensor) -> list[tuple[float, float]]:
    """For each of K resampled numbers (resamples, K), the ends of the middle `LEVEL`."""
    tail = (1 - LEVEL) / 2
    low, high = resampled.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64), dim=0)
    return [*zip(low.tolist(), high.tolist(), strict=True)]
