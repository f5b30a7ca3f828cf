"""The distinct beginnings of sentences, over which both engines run their forward passes.

What a model computes at a position depends only on that token and those before it. So sentences that begin alike share
everything up to where they differ, and clean and corrupted sentences share everything before YY.

    >>> prefixes = distinct_prefixes(torch.tensor([[5, 6, 7], [5, 6, 8]]))
    >>> prefixes.tokens  # four, where the sentences have six tokens
    tensor([5, 6, 7, 8])
    >>> prefixes.of_sentence
    tensor([[0, 1, 2],
            [0, 1, 3]])
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class Prefixes(NamedTuple):
    """The distinct beginnings of B sentences, in order of length.

    `tokens` and `positions` (P,) are each prefix's last token and its position. `of_sentence` (B, T) is the number of
    the prefix that ends at each position of a sentence. `example` (P,) is one place in the flattened `of_sentence` that
    has the prefix.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    of_sentence: torch.Tensor
    example: torch.Tensor


def weighted_sums(rows: torch.Tensor, of_sentence: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted sums over sentences (B, T) of what prefixes have, (P, ...), with weights (B,) float64: (T, ...)."""
    return torch.stack([torch.tensordot(weights, rows[at].double(), 1) for at in of_sentence.unbind(1)])


def distinct_prefixes(sentences: torch.Tensor) -> Prefixes:
    """The prefixes of token ids (B, T), int64."""
    n_sentences, n_positions = sentences.shape
    of_sentence = torch.empty_like(sentences)
    examples, found, before = [], 0, sentences.new_zeros(n_sentences)
    for position in range(n_positions):
        steps = torch.stack([before, sentences[:, position]], 1)
        _, before, counts = steps.unique(dim=0, return_inverse=True, return_counts=True)
        first = before.argsort(stable=True)[counts.cumsum(0) - counts]
        of_sentence[:, position] = before + found
        examples.append(first * n_positions + position)
        found += len(counts)
    example = torch.cat(examples)
    return Prefixes(sentences.flatten()[example], example % n_positions, of_sentence, example)
