"""Direct effects of heads and neurons on the logits, computed without unembedding a whole stream for each.

A head writes along d_head directions, a neuron along one. The final LayerNorm is a centring, a division by the row's
deviation σ, and an affine map. So if a stream x changes by c·d (coefficients c of output directions d), its logits
become

    (U·x + c·(U·d)) / σ(x + c·d) + shift,

where U centres, scales and unembeds. U·x is the same for all senders, U·d the same for all sentences. So each sender
and sentence costs only a product of rank d_head or one instead of D, and the softmax. The result is exact up to
rounding.

`Engine.sweep` does this by itself where it is cheaper:

    >>> heads = [Node.head(layer, head, END) for layer in range(3) for head in range(2)]
    >>> is_cheaper(heads[0], model.architecture, n_sentences=97)
    True
    >>> engine.sweep(PathSet.at(Node.logits(END)), heads).shape  # (senders, N, A)
    torch.Size([6, 97, 100])
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from path_patching.gpt2.model import LAYER_NORM_EPSILON, Architecture
from path_patching.paths import Node
from path_patching.unembedding import StreamedSoftmax, Unembedding, vocabulary_pieces


@dataclass(frozen=True, eq=False)
class Change:
    """What one sender changes in the stream that the logits read: coefficients (N, r) of output directions (r, D)."""

    coefficients: torch.Tensor
    directions: torch.Tensor


def is_cheaper(sender: Node, architecture: Architecture, n_sentences: int) -> bool:
    """Whether a sender's U·d and its product are less work than unembedding (N, D)."""
    rank = {"head": architecture.d_head, "neuron": 1}.get(sender.kind, architecture.d_model)
    return rank * (architecture.d_model + n_sentences) < architecture.d_model * n_sentences


def direct_answers(
    stream: torch.Tensor,
    senders: Iterable[Node],
    change_of: Callable[[Node], Change | None],
    architecture: Architecture,
    unembedding: Unembedding,
) -> dict[Node, torch.Tensor]:
    """Answer probabilities (N, A) of the senders whose direct effects on the logits are cheaper to compute this way.

    `change_of` gives a sender's change of the stream (N, D). Where it gives None, the sender is left out.
    """
    found = {each: change_of(each) for each in senders if is_cheaper(each, architecture, len(stream))}
    changes = {sender: change for sender, change in found.items() if change is not None}
    return dict(zip(changes, direct_effects(stream, [*changes.values()], unembedding), strict=True))


def direct_effects(stream: torch.Tensor, changes: list[Change], unembedding: Unembedding) -> Iterator[torch.Tensor]:
    """Answer probabilities (N, A) float64 for each change alone of the stream (N, D) that the logits read."""
    if not changes:
        return
    scales = [_inverse_deviation(stream + change.coefficients @ change.directions) for change in changes]

    def scaled(x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(-1, keepdim=True)) * unembedding.norm_scale

    old, new = scaled(stream), scaled(torch.cat([change.directions for change in changes]))

    def changed_logits(tokens: slice) -> Iterator[torch.Tensor]:  # (N, v) for each change in turn
        rows = unembedding.rows[tokens]
        old_logits, shift = old @ rows.T, rows @ unembedding.norm_bias
        effects = (new @ rows.T).split([len(change.directions) for change in changes])
        changed = torch.empty_like(old_logits)  # reused for each change: new memory costs as much as filling it
        for change, effect, scale in zip(changes, effects, scales, strict=True):
            torch.addmm(old_logits, change.coefficients, effect, out=changed)
            yield torch.addcmul(shift, changed, scale, out=changed)

    softmaxes = [StreamedSoftmax(len(unembedding.answers)) for _ in changes]
    for tokens in vocabulary_pieces(len(unembedding.rows), len(stream), unembedding.device):
        answers, counts = unembedding.piece(tokens)
        for softmax, piece in zip(softmaxes, changed_logits(tokens), strict=True):
            softmax.add(piece, answers, counts)
    yield from (softmax.probabilities() for softmax in softmaxes)


def _inverse_deviation(stream: torch.Tensor) -> torch.Tensor:
    """The factor by which the final LayerNorm scales each row, (N, D) to (N, 1)."""
    return (stream.var(-1, correction=0, keepdim=True) + LAYER_NORM_EPSILON).rsqrt()
