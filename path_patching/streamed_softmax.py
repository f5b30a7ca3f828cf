"""Softmax over a vocabulary whose logits come piece by piece and are never all there at once.

A piece that a processor's cache holds makes everything after the matrix product nearly free, and the product itself
faster: 0.8 ms a row of GPT-2's vocabulary against 1.25 ms in one piece (one core).
"""

from __future__ import annotations

import torch

ENTRIES_AT_ONCE = {"cpu": 2**19, "cuda": 2**25}  # 2 MiB of logits fit a core's cache; a GPU wants fewer launches
SMALLEST_PIECE, LARGEST_PIECE = 128, {"cpu": 1024, "cuda": 8192}  # of the vocabulary


def vocabulary_pieces(vocabulary: int, rows: int, device: str) -> list[slice]:
    """The slices in which logits (rows, vocabulary) are best computed."""
    kind = torch.device(device).type
    size = max(SMALLEST_PIECE, min(LARGEST_PIECE[kind], ENTRIES_AT_ONCE[kind] // rows))
    return [slice(first, first + size) for first in range(0, vocabulary, size)]


class StreamedSoftmax:
    """The softmax of some rows of logits, told the vocabulary's pieces one after another."""

    def __init__(self) -> None:
        self._top: torch.Tensor | None = None  # the largest logit so far, (rows, 1)
        self._total: torch.Tensor | None = None  # the sum of exp(logit - top) so far, (rows, 1) float64

    def add(self, logits: torch.Tensor, counts: torch.Tensor | None = None) -> None:
        """Take in a piece (rows, v) and overwrite it.

        `counts` (v,) float64 says for how many tokens each logit stands, one each if it is not given. Exponentials may
        be float32; of their sums only short ones are.
        """
        top = logits.amax(-1, keepdim=True)
        if self._top is not None:
            top = torch.maximum(top, self._top)
        exponentials = logits.sub_(top).exp_()
        if counts is None:
            total = exponentials.sum(-1, keepdim=True).double()
        else:
            total = exponentials.double() @ counts[:, None]
        if self._top is not None:
            total += self._total * (self._top.double() - top).exp()
        self._top, self._total = top, total

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Probabilities (rows, A) float64 of some of the logits (rows, A), once all pieces are in."""
        return (logits.double() - self._top).exp() / self._total
