"""What users hand over as numbers, as a plain tensor.

Lists and arrays of numbers will do; what holds no numbers is one line.

    >>> as_tensor([0.5, 1.5], "what was measured")
    tensor([0.5000, 1.5000], dtype=torch.float64)
"""

from __future__ import annotations

from typing import TypeGuard

import numpy as np
import torch

from path_patching.errors import UserError, shortened


def is_plain(given: object) -> TypeGuard[torch.Tensor]:
    """Whether it is a tensor that holds its numbers one by one: not sparse, not quantized, not on "meta"."""
    return (
        isinstance(given, torch.Tensor)
        and given.layout == torch.strided
        and not given.is_meta
        and not given.is_quantized
    )


def as_tensor(given: object, what: str) -> torch.Tensor:
    """A plain tensor as it is; a NumPy array, or numbers in lists, as one.

    Raises `UserError`, which says `what` it is, for anything else: text, lists of unequal lengths, and tensors that are
    sparse, quantized or without numbers.
    """
    if not isinstance(given, torch.Tensor):
        try:
            array = np.asarray(given)
        except (TypeError, ValueError):  # lists of unequal lengths, or a list of tensors
            array = np.asarray(None)
        if array.dtype.kind in "biuf":
            return torch.as_tensor(array)
    elif is_plain(given) and not given.is_complex():
        return given
    raise UserError(f"{what} has to be a tensor of numbers, not {shortened(repr(given))}")
