"""From what the logits read, after the final LayerNorm, to the probabilities of the answer tokens.

This is where most of an engine's time goes: a row of D numbers becomes one of V. It is done in blocks that stay in the
processor's caches and re-use their memory. Equal rows of the unembedding have equal logits, so each is computed once
and counted as often as it occurs: nothing to GPT-2, nearly everything to a model most of whose vocabulary never
occurred in training.
"""

from __future__ import annotations

import torch

from gpt2 import Model
from path_patching.streamed_softmax import StreamedSoftmax, vocabulary_pieces

ROWS_AT_ONCE = {"cpu": 512, "cuda": 4096}


class Unembedding:
    """The unembedding of a model, on a device, for given answer tokens (A,)."""

    def __init__(self, model: Model, answers: torch.Tensor, device: str) -> None:
        whole = model.tensors["t.w.unembed_arr"]
        first, kind = _equal_rows(whole)
        if 2 * len(first) > len(whole):  # too few equal rows to be worth a weighted sum
            self.rows, self.answers, self.counts = whole.to(device), answers.to(device), None
        else:
            self.rows, self.answers = whole[first].to(device), kind[answers].to(device)
            self.counts = kind.bincount().double().to(device)
        self.norm_scale = model.tensors["final.ln.w.scale_arr"].to(device)  # of the LayerNorm before it, (D,)
        self.norm_bias = model.tensors["final.ln.w.bias_arr"].to(device)
        self.device = device

    def probabilities(self, normed: torch.Tensor) -> torch.Tensor:
        """Answer probabilities (..., A) float64 from what the logits read after their LayerNorm, (..., D)."""
        blocks = normed.flatten(0, -2).split(ROWS_AT_ONCE[torch.device(self.device).type])
        return torch.cat([self._of_block(block) for block in blocks]).unflatten(0, normed.shape[:-1])

    def _of_block(self, normed: torch.Tensor) -> torch.Tensor:
        softmax = StreamedSoftmax()
        for tokens in vocabulary_pieces(len(self.rows), len(normed), self.device):
            softmax.add(normed @ self.rows[tokens].T, None if self.counts is None else self.counts[tokens])
        return softmax.probabilities(normed @ self.rows[self.answers].T)


def _equal_rows(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The first of each kind of row (kinds,), and the kind of every row (V,), for rows (V, D).

    Rows are told apart by one random projection, which is much faster than sorting them; that no two different rows
    fell together is checked.
    """
    direction = torch.randn(rows.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    _, kind = (rows.double() @ direction).unique(return_inverse=True)
    places = torch.arange(len(rows))
    first = torch.full((int(kind.max()) + 1,), len(rows)).scatter_reduce(0, kind, places, "amin")
    if not torch.equal(rows[first[kind]], rows):
        return places, places
    return first, kind
