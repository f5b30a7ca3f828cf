"""The floor: what a logits sweep must at least multiply, at the rate at which this process multiplies it.

Only matrix products count, without attention, softmax and copying: two forward passes over the distinct sentences, and
the rows of the unembedding. The *plain* floor takes a whole row, D numbers to V, for every node and sentence pair. The
*factored* one takes the exact identity for heads: U·W_O of a head (V × d_head) is formed once, a patched head then
costs d_head/D of a row, and the unpatched stream a row a pair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

import torch

from benchmarks.measuring import median_seconds
from gpt2 import Architecture
from path_patching.engine import Sentences
from path_patching.paths import Node

PIECES = (8192, 1024, 256)  # of the vocabulary; what a processor's cache holds is faster than all at once


@dataclass(frozen=True)
class Floor:
    """Seconds of a sweep's parts, and the rate at which whole rows were multiplied."""

    forward: float
    plain_rows: float
    factored_rows: float
    gflops: float

    @property
    def plain(self) -> float:
        """With a whole row for every node and pair."""
        return self.forward + self.plain_rows

    @property
    def factored(self) -> float:
        """With the factored heads."""
        return self.forward + min(self.plain_rows, self.factored_rows)

    def mean_with(self, other: Floor) -> Floor:
        """The mean of two measurements, so that what else the machine did meanwhile weighs on floor and sweep alike."""
        return Floor(*(sum(pair) / 2 for pair in zip(astuple(self), astuple(other), strict=True)))


def measure_floor(sizes: Architecture, sentences: Sentences, senders: Sequence[Node], device: str) -> Floor:
    """The floor of a logits sweep over `senders`, on matrices of its shapes."""
    n_distinct = sum(len(sentences.of(data).unique(dim=0)) for data in ("clean", "corrupted"))
    n_pairs = len(torch.cat([sentences.clean, sentences.corrupted], 1).unique(dim=0))
    heads = sum(node.kind == "head" for node in senders)
    others = len(senders) - heads
    row_block = _unembedding_seconds(n_pairs, sizes.d_model, sizes.vocab_size, device)
    thin_block = _unembedding_seconds(n_pairs, sizes.d_head, sizes.vocab_size, device)
    forming = _unembedding_seconds(sizes.d_head * sizes.n_heads, sizes.d_model, sizes.vocab_size, device)
    return Floor(
        forward=_forward_seconds(sizes, n_distinct * (sentences.end + 1), device),
        plain_rows=len(senders) * row_block,
        factored_rows=(others + 1) * row_block + heads * thin_block + heads / sizes.n_heads * forming,
        gflops=2e-9 * n_pairs * sizes.d_model * sizes.vocab_size / row_block,
    )


def _forward_seconds(sizes: Architecture, rows: int, device: str) -> float:
    """The products of all layers for `rows` tokens."""
    d_attention = sizes.n_heads * sizes.d_head
    shapes = [
        (sizes.d_model, 3 * d_attention), (d_attention, sizes.d_model),
        (sizes.d_model, sizes.d_mlp), (sizes.d_mlp, sizes.d_model),
    ]  # fmt: skip
    return sizes.n_layers * sum(median_seconds(_product(rows, *shape, shape[1], device), device) for shape in shapes)


def _unembedding_seconds(rows: int, width: int, vocabulary: int, device: str) -> float:
    """`rows` of `width` numbers to a vocabulary, in pieces of the size that is fastest here."""
    pieces = (vocabulary, *PIECES)
    return min(median_seconds(_product(rows, width, vocabulary, piece, device), device) for piece in pieces)


def _product(rows: int, width: int, outputs: int, piece: int, device: str) -> Callable[[], None]:
    """A matrix product of (rows, width) and (width, outputs), `piece` outputs at a time in the same memory."""
    x, weight = torch.randn(rows, width, device=device), torch.randn(outputs, width, device=device)
    out = torch.empty(rows, piece, device=device)

    def multiply() -> None:
        for part in weight.split(piece):
            torch.mm(x, part.T, out=out[:, : len(part)])

    return multiply
