"""What a metric is, and the one check of its results.

A metric takes the answer probabilities of N sentences, (N, A) float64, and gives one number for each, (N,): a tensor or
a NumPy array of floats, whole numbers or booleans (as an accuracy is), all finite. Anything else is an error here: it
could later give wrong numbers that look right.

    >>> measured_by(lambda probs: probs.argmax(1) == 3, engine.clean()).dtype  # an accuracy
    torch.float64
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from path_patching.errors import UserError, shortened
from path_patching.plain_tensors import is_plain

Metric = Callable[[torch.Tensor], torch.Tensor]  # answer probabilities (N, A) to one number a sentence, (N,)


def measured_by(metric: Metric, probabilities: torch.Tensor) -> torch.Tensor:
    """The metric of probabilities (N, A), or of anything else with N rows: (N,) float64 on the CPU.

    Raises `UserError` for a metric that gives anything but one finite number for each sentence.
    """
    if not callable(metric):
        raise UserError(f"{shortened(repr(metric))} is no metric; give a function, from (N, A) probabilities to (N,)")
    n, found = len(probabilities), metric(probabilities)
    if isinstance(found, np.ndarray) and not isinstance(found, np.ma.MaskedArray) and found.dtype.kind in "biuf":
        found = torch.from_numpy(found.astype(np.float64))
    if not is_plain(found):
        raise UserError(
            f"the metric gives {_described(found)}; it has to give a tensor, a number for each sentence, ({n},)"
        )
    if found.shape != (n,):
        raise UserError(
            f"the metric gives {tuple(found.shape)} for {n} sentences; it has to give a number for each, ({n},)"
        )
    if found.is_complex():
        raise UserError("the metric gives complex numbers; it has to give real ones")
    values = found.detach().to("cpu", torch.float64)
    if not (finite := values.isfinite()).all():
        first = int((~finite).nonzero()[0])
        raise UserError(
            f"the metric is {values[first].item()} for sentence {first}, and not finite for {int((~finite).sum())} of "
            f"{n}; look for a logarithm of 0 or a division by 0"
        )
    return values


def _described(found: object) -> str:
    """What a metric gave instead of a plain tensor, as a message names it."""
    if isinstance(found, torch.Tensor):
        layout = found.dtype if found.is_quantized else f"layout {found.layout}"
        return "a tensor without numbers" if found.is_meta else f"a tensor of {layout}"
    return f"{shortened(repr(found))}, of type {type(found).__name__}"
