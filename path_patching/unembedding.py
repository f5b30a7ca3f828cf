"""From what the logits read, after the final LayerNorm, to the probabilities of the answer tokens.

This is where most of an engine's time goes: a row of D numbers becomes one of V. It is done in blocks that stay in the
processor's caches and re-use their memory. Equal rows of the unembedding have equal logits, so each is computed once
and counted as often as it occurs: nothing to GPT-2, nearly everything to a model most of whose vocabulary never
occurred in training.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from gpt2 import Model

SUMMED_IN_FLOAT32 = 512  # neighbouring exponentials summed before going to float64


class Block(NamedTuple):
    """Logits at once, in bytes: in a matrix product, and in a softmax, which is fast only on what caches hold."""

    product: int
    softmax: int


BLOCKS = {"cpu": Block(product=25_000_000, softmax=3_000_000), "cuda": Block(product=800_000_000, softmax=800_000_000)}


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
        row_bytes = self.rows.element_size() * len(self.rows)
        self.block = Block(*(max(1, size // row_bytes) for size in BLOCKS[torch.device(device).type]))  # in rows

    def probabilities(self, normed: torch.Tensor) -> torch.Tensor:
        """Answer probabilities (..., A) float64 from what the logits read after their LayerNorm, (..., D)."""
        flat = normed.flatten(0, -2)
        logits = flat.new_empty(min(len(flat), self.block.product), len(self.rows))
        answers = [
            self.answer_probabilities(block)
            for rows in flat.split(self.block.product)
            for block in torch.mm(rows, self.rows.T, out=logits[: len(rows)]).split(self.block.softmax)
        ]
        return torch.cat(answers).unflatten(0, normed.shape[:-1])

    def answer_probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Softmax over the whole vocabulary of logits (..., distinct rows), at the answers."""
        return answer_probabilities(logits, self.answers, self.counts)


def answer_probabilities(
    logits: torch.Tensor, answers: torch.Tensor, counts: torch.Tensor | None = None
) -> torch.Tensor:
    """Softmax of logits (..., V), at the answer tokens, (..., A) float64.

    `counts` (V,) float64 says for how many tokens each logit stands, one each if it is not given. The exponentials
    may be float32, their sum may not: a float32 softmax is off by more than all the rest of an engine.
    """
    shifted = logits - logits.amax(-1, keepdim=True)
    picked = shifted[..., answers].double().exp()
    if counts is not None:
        return picked / (shifted.double().exp() @ counts).unsqueeze(-1)
    exponentials = shifted.exp_()
    whole = exponentials.shape[-1] // SUMMED_IN_FLOAT32 * SUMMED_IN_FLOAT32
    partial = exponentials[..., :whole].unflatten(-1, (-1, SUMMED_IN_FLOAT32)).sum(-1)
    rest = exponentials[..., whole:].sum(-1, keepdim=True)
    return picked / torch.cat([partial, rest], -1).sum(-1, keepdim=True, dtype=torch.float64)


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
