"""Direct effects of heads and neurons on the logits, without a whole row of the unembedding for each.

A head writes along d_head directions, a neuron along one. The final LayerNorm is a centring, a division by the row's
deviation σ, and an affine map. So if a stream x changes by c·d (coefficients c of output directions d), its logits
become

    (U·x + c·(U·d)) / σ(x + c·d) + shift,

where U unembeds what is centred and scaled. U·x is the same for all senders and U·d for all sentences: what is left for
each sender and sentence is a product of rank d_head or one instead of D, and the softmax. Exact but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gpt2 import LAYER_NORM_EPSILON, Architecture
from path_patching.paths import Node
from path_patching.streamed_softmax import StreamedSoftmax, vocabulary_pieces
from path_patching.torch_patching import Patching
from path_patching.unembedding import Unembedding


def is_cheaper(sender: Node, architecture: Architecture, n_sentences: int) -> bool:
    """Whether a sender's U·d and its product are less work than a row of D for each sentence."""
    rank = {"head": architecture.d_head, "neuron": 1}.get(sender.kind, architecture.d_model)
    return rank * (architecture.d_model + n_sentences) < architecture.d_model * n_sentences


def direct_effects(
    patching: Patching, unembedding: Unembedding, logits: Node, senders: list[Node]
) -> dict[Node, torch.Tensor]:
    """Answer probabilities (N, A) float64 with the path from one head or neuron to the logits patched, for each."""
    if not senders:
        return {}
    transformer = patching.transformer
    stream = patching.activations.stream(logits, logits.position, patching.outside)  # x, (N, D)
    directions = [transformer.directions(node) for node in senders]  # d, (r, D) each
    coefficients = [patching.sent_coefficients(node) for node in senders]  # c, (N, r) each
    scales = [_inverse_deviation(stream + c @ d) for c, d in zip(coefficients, directions, strict=True)]

    def scaled(x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(-1, keepdim=True)) * transformer["final.ln.w.scale"]

    old, new = scaled(stream), scaled(torch.cat(directions))

    def changed_logits(tokens: slice | torch.Tensor) -> Iterator[torch.Tensor]:  # (N, v) for each sender in turn
        rows = unembedding.rows[tokens]
        old_logits, shift = old @ rows.T, rows @ transformer["final.ln.w.bias"]
        effects = (new @ rows.T).split([len(d) for d in directions])
        changed = torch.empty_like(old_logits)  # used again for each: fresh memory costs as much as filling it
        for c, effect, scale in zip(coefficients, effects, scales, strict=True):
            torch.addmm(old_logits, c, effect, out=changed)
            yield torch.addcmul(shift, changed, scale, out=changed)

    softmaxes = [StreamedSoftmax() for _ in senders]
    for tokens in vocabulary_pieces(len(unembedding.rows), len(stream), transformer.device):
        counts = None if unembedding.counts is None else unembedding.counts[tokens]
        for softmax, piece in zip(softmaxes, changed_logits(tokens), strict=True):
            softmax.add(piece, counts)
    answers = zip(softmaxes, changed_logits(unembedding.answers), strict=True)
    return dict(zip(senders, (softmax.probabilities(logits) for softmax, logits in answers), strict=True))


def _inverse_deviation(stream: torch.Tensor) -> torch.Tensor:
    """What the final LayerNorm multiplies a row by, (N, D) to (N, 1)."""
    return (stream.var(-1, correction=0, keepdim=True) + LAYER_NORM_EPSILON).rsqrt()
