"""The paper's measures of greater-than behaviour (section 3.1), on the probabilities of the 100 year tokens.

Probabilities are of the softmax over the whole vocabulary at END, as fractions of one. Everything is computed in the
dtype given; give float64, since a float32 softmax over 50,257 entries is not accurate enough for path patching.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch

from utils import UserError

ValidYears = Literal["greater", "less"]
Metric = Callable[[torch.Tensor], torch.Tensor]  # answer probabilities (N, A) to one number a sentence, (N,)
FIRST_YY, LAST_YY = 2, 98
COLLATED_YY = tuple(range(FIRST_YY, LAST_YY + 1))


def answer_probabilities(end_logits: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """Softmax over all V logits at END, of the answer tokens only: (N, V) and (A,) to float64 (N, A)."""
    end_logits = end_logits.double()
    of_answers = end_logits.index_select(-1, answers.to(end_logits.device))
    return (of_answers - end_logits.logsumexp(-1, keepdim=True)).exp()


def probability_difference(
    year_probs: torch.Tensor, years_yy: torch.Tensor, valid: ValidYears = "greater"
) -> torch.Tensor:
    """Probability of the valid end years minus that of the others, (N, 100) and (N,) to (N,) in [-1, 1].

    Paper, section 3.1: Σ_{y>YY} p_y − Σ_{y≤YY} p_y. With `valid="less"`, for the less-than prompts of section 5, the
    valid years are y < YY. Raises ValueError if the shapes do not fit.
    """
    _check_shapes(year_probs, years_yy)
    years = torch.arange(100, device=year_probs.device)
    start = years_yy.to(year_probs.device)[:, None]  # (N, 1)
    is_valid = years > start if valid == "greater" else years < start  # (N, 100)
    return torch.where(is_valid, year_probs, -year_probs).sum(-1)


def greater_than(years_yy: torch.Tensor, valid: ValidYears = "greater") -> Metric:
    """The probability difference of sentences with these YY, (N,)."""
    return partial(probability_difference, years_yy=years_yy, valid=valid)


def cutoff_sharpness(year_probs: torch.Tensor, years_yy: torch.Tensor, valid: ValidYears = "greater") -> torch.Tensor:
    """How sharply probability rises from one side of YY to the other, (N, 100) and (N,) to (N,) in [-1, 1].

    Paper, section 3.1: p_{YY+1} − p_{YY−1}; with `valid="less"` its negative. Raises ValueError if the shapes do not
    fit or a YY lies outside 1 ... 98, where one of the two neighbours does not exist.
    """
    _check_shapes(year_probs, years_yy)
    start = years_yy.to(year_probs.device)[:, None]  # (N, 1)
    if ((start < 1) | (start > 98)).any():
        raise ValueError("cutoff sharpness needs a year on either side: every YY must lie in 01 ... 98")
    rise = (year_probs.gather(1, start + 1) - year_probs.gather(1, start - 1)).squeeze(1)
    return rise if valid == "greater" else -rise


def collate(values: torch.Tensor, years_yy: torch.Tensor) -> torch.Tensor:
    """Mean of a per-sentence quantity over the sentences of each YY: (N, ...) and (N,) to (97, ...), rows 02 ... 98.

    Sentences with another YY are left out. Raises UserError if a YY from 02 to 98 has no sentence, ValueError if the
    lengths do not fit.
    """
    if years_yy.ndim != 1 or len(values) != len(years_yy):
        raise ValueError(f"one YY a sentence is needed: values {tuple(values.shape)}, YY {tuple(years_yy.shape)}")
    years_yy = years_yy.to(values.device)
    inside = (years_yy >= FIRST_YY) & (years_yy <= LAST_YY)
    rows = years_yy[inside] - FIRST_YY
    counts = torch.bincount(rows, minlength=len(COLLATED_YY))
    if (counts == 0).any():
        missing = int((counts == 0).nonzero()[0]) + FIRST_YY
        raise UserError(f"no sentence has YY = {missing:02d}; use a balanced data set of at least 97 sentences")
    sums = values.new_zeros(len(COLLATED_YY), *values.shape[1:]).index_add(0, rows, values[inside])
    return sums / counts.to(values.dtype).reshape(-1, *[1] * (values.ndim - 1))


def _check_shapes(year_probs: torch.Tensor, years_yy: torch.Tensor) -> None:
    if year_probs.shape != (*years_yy.shape, 100) or years_yy.ndim != 1:
        raise ValueError(f"expected (N, 100) and (N,), got {tuple(year_probs.shape)} and {tuple(years_yy.shape)}")
