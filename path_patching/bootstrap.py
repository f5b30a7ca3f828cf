"""Bootstrap intervals of means over sentences, and of shares of one mean in another.

Sentences are drawn again with replacement, all quantities of a sentence together, so that a share is taken of the very
sentences that its whole is:

    mean(x) = Σ_n x_n / N,   share(x, y) = mean(x) / mean(y),   interval: the middle 95 % of 2000 such draws.

The intervals say how far results would move with other sentences of the same kind; they say nothing of another model.
In a balanced data set the years are not drawn at random, and intervals are a little too wide.

    >>> clean, alone = metric(engine.clean()), metric(engine.isolate(late_half(circuit, END)))  # (N,) each
    >>> mean(clean)
    Estimate(value=..., low=..., high=..., n=97)
    >>> share(alone, clean)  # how much of the clean value the late half achieves alone
    Estimate(value=..., low=..., high=..., n=97)
    >>> print(share(clean, clean))
    1.0000 [1.0000, 1.0000]
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

RESAMPLES = 2000
LEVEL = 0.95
SMALL = 1e-3  # of which four decimals would show one digit
DRAWN_AT_ONCE = 1_000_000  # sentences; memory stays the same for any number of them


@dataclass(frozen=True)
class Estimate:
    """A number, the ends of its interval, and how many sentences it is of."""

    value: float
    low: float
    high: float
    n: int

    def as_json(self) -> dict[str, float]:
        """The four numbers by name, for a run's record."""
        return asdict(self)

    def __str__(self) -> str:
        """`0.8170 [0.8021, 0.8313]`; numbers too small for four decimals as `-3.2e-07 [-4.1e-07, -2.3e-07]`."""
        numbers = self.value, self.low, self.high
        shown = ".4f" if not 0 < max(map(abs, numbers)) < SMALL else ".1e"
        value, low, high = (_without_minus_zero(f"{number:{shown}}") for number in numbers)
        return f"{value} [{low}, {high}]"


def mean(values: torch.Tensor, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """The mean of a per-sentence quantity (N,), with its 95 % percentile interval."""
    means = resampled_means(values[None], seed, resamples)[:, 0]
    return _estimate(values.double().mean(), means, len(values))


def share(part: torch.Tensor, whole: torch.Tensor, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """The mean of `part` (N,) as a share of the mean of `whole` (N,), sentence by sentence the same, with its interval.

    Where the mean of `whole` is not clearly different from zero, the share means nothing and its interval is huge.
    """
    means = resampled_means(torch.stack([part, whole]), seed, resamples)
    return _estimate(part.double().mean() / whole.double().mean(), means[:, 0] / means[:, 1], len(part))


def resampled_means(values: torch.Tensor, seed: int = 0, resamples: int = RESAMPLES) -> torch.Tensor:
    """Means of Q quantities (Q, N) over `resamples` draws of N sentences with replacement: (resamples, Q) float64.

    Quantities of one call share their draws, and so do those of several calls with one seed and one N. Raises
    ValueError for values that are not (Q, N) or hold no sentence.
    """
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"expected (quantities, N) with at least one sentence, got {tuple(values.shape)}")
    n = values.shape[1]
    transposed = values.double().cpu().T  # (N, Q)
    generator = torch.Generator().manual_seed(seed)
    at_once = max(1, DRAWN_AT_ONCE // n)
    means = []
    for first in range(0, resamples, at_once):
        drawn = torch.randint(n, (min(at_once, resamples - first), n), generator=generator)
        times = torch.zeros(drawn.shape, dtype=torch.float64)  # how often each sentence was drawn
        times.scatter_add_(1, drawn, torch.ones_like(times))
        means.append(times @ transposed / n)
    return torch.cat(means)


def _without_minus_zero(number: str) -> str:
    """A number's text, but for the sign of a zero: `-0.0000` is `0.0000`."""
    return number.removeprefix("-") if float(number) == 0 else number


def _estimate(value: torch.Tensor, resampled: torch.Tensor, n: int) -> Estimate:
    """A value of n sentences, and the interval that holds `LEVEL` of what resampling them made of it."""
    tail = (1 - LEVEL) / 2
    low, high = resampled.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Estimate(value.item(), low, high, n)
