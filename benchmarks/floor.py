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

from benchmarks.measuring import Cost, median_cost
from path_patching.engine import Sentences
from path_patching.gpt2.model import Architecture
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


def measure_floor(
    sizes: Architecture, sentences: Sentences, senders: Sequence[Node], device: str
) -> tuple[Floor, Floor]:
    """The floor of a logits sweep over `senders`, on matrices of its shapes: by the clock, and of processor time."""
    n_distinct = sum(len(sentences.of(data).unique(dim=0)) for data in ("clean", "corrupted"))
    n_pairs = len(torch.cat([sentences.clean, sentences.corrupted], 1).unique(dim=0))
    heads = sum(node.kind == "head" for node in senders)
    row_entries = n_pairs * sizes.d_model * sizes.vocab_size

    def floor(layer: float, row_block: float, thin_block: float, forming: float) -> Floor:
        return Floor(
            forward=sizes.n_layers * layer,
            plain_rows=len(senders) * row_block,
            factored_rows=(len(senders) - heads + 1) * row_block + heads * (thin_block + forming / sizes.n_heads),
            gflops=2e-9 * row_entries / row_block,
        )

    clock, core = zip(
        layer_cost(sizes, n_distinct * (sentences.end + 1), device),
        unembedding_cost(n_pairs, sizes.d_model, sizes.vocab_size, device),
        unembedding_cost(n_pairs, sizes.d_head, sizes.vocab_size, device),
        unembedding_cost(sizes.d_head * sizes.n_heads, sizes.d_model, sizes.vocab_size, device),
        strict=True,
    )
    return floor(*clock), floor(*core)


def layer_cost(sizes: Architecture, rows: int, device: str) -> Cost:
    """The products of one layer for `rows` tokens."""
    d_attention = sizes.n_heads * sizes.d_head
    around = _products_cost(rows, [(sizes.d_model, 3 * d_attention), (d_attention, sizes.d_model)], device)
    return Cost(*map(sum, zip(around, mlp_cost(sizes, rows, device), strict=True)))


def mlp_cost(sizes: Architecture, rows: int, device: str) -> Cost:
    """The products of one MLP for `rows` tokens."""
    return _products_cost(rows, [(sizes.d_model, sizes.d_mlp), (sizes.d_mlp, sizes.d_model)], device)


def _products_cost(rows: int, shapes: Sequence[tuple[int, int]], device: str) -> Cost:
    costs = [median_cost(_product(rows, *shape, shape[1], device), device) for shape in shapes]
    return Cost(*map(sum, zip(*costs, strict=True)))


def unembedding_cost(rows: int, width: int, vocabulary: int, device: str) -> Cost:
    """`rows` of `width` numbers to a vocabulary, in pieces of the size that is fastest here."""
    costs = [median_cost(_product(rows, width, vocabulary, piece, device), device) for piece in (vocabulary, *PIECES)]
    return Cost(*map(min, zip(*costs, strict=True)))


def _product(rows: int, width: int, outputs: int, piece: int, device: str) -> Callable[[], None]:
    """A matrix product of (rows, width) and (width, outputs), `piece` outputs at a time in the same memory."""
    x, weight = torch.randn(rows, width, device=device), torch.randn(outputs, width, device=device)
    out = torch.empty(rows, piece, device=device)

    def multiply() -> None:
        for part in weight.split(piece):
            torch.mm(x, part.T, out=out[:, : len(part)])

    return multiply
