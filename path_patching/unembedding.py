"""From what the logits read, after the final LayerNorm, to the probabilities of the answer tokens.

This is where most of an engine's time goes: a row of D numbers becomes one of V. It is done in blocks that stay in the
processor's caches and re-use their memory. Equal rows of the unembedding have equal logits, so each is computed once
and counted as often as it occurs: nothing to GPT-2, nearly everything to a model most of whose vocabulary never
occurred in training.

The *logit lens* reads what a node writes as if the logits read it alone: logit_lens(x) = U · LayerNorm(x), with U the
unembedding. Of the whole residual stream at END it gives the model's own logits.

    >>> written = engine.writes([Node.head(1, 0, END), Node.mlp(2, END)])  # (2, N, D)
    >>> logit_lens(written, model, sentences.answers).shape  # at the answers: (2, N, A)
    torch.Size([2, 97, 100])
    >>> stream = engine.residual(Node.logits(END))
    >>> logits = logit_lens(stream, model, torch.arange(model.architecture.vocab_size))  # at every token: (N, V)
    >>> torch.allclose(logits.softmax(1)[:, sentences.answers], engine.clean(), atol=1e-6)
    True
"""

from __future__ import annotations

import torch

from path_patching.devices import placing
from path_patching.gpt2.model import LAYER_NORM_EPSILON, Model

ROWS_AT_ONCE = {"cpu": 512, "cuda": 4096}


class Unembedding:
    """The unembedding of a model, on a device, for given answer tokens (A,)."""

    def __init__(self, model: Model, answers: torch.Tensor, device: str) -> None:
        whole = model.tensors["t.w.unembed_arr"]
        first, kind = _equal_rows(whole)
        with placing(f"the unembedding of {model.name}", device):
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
        found: torch.Tensor = torch.cat([self._of_block(block) for block in blocks]).unflatten(0, normed.shape[:-1])
        return found

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
        # The largest logit so far, (rows, 1), and the sum of exp(logit - largest), (rows, 1) float64.
        self._so_far: tuple[torch.Tensor, torch.Tensor] | None = None

    def add(self, logits: torch.Tensor, counts: torch.Tensor | None = None) -> None:
        """Take in a piece (rows, v) and overwrite it.

        `counts` (v,) float64 says for how many tokens each logit stands, one each if it is not given. Exponentials may
        be float32; of their sums only short ones are.
        """
        top = logits.amax(-1, keepdim=True)
        if self._so_far is not None:
            top = torch.maximum(top, self._so_far[0])
        exponentials = logits.sub_(top).exp_()
        if counts is None:
            total = exponentials.sum(-1, keepdim=True).double()
        else:
            total = exponentials.double() @ counts[:, None]
        if self._so_far is not None:
            old_top, old_total = self._so_far
            total += old_total * (old_top.double() - top).exp()
        self._so_far = top, total

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Probabilities (rows, A) float64 of some of the logits (rows, A), once all pieces are in."""
        assert self._so_far is not None, "a softmax is over at least one piece"
        top, total = self._so_far
        return (logits.double() - top).exp() / total


def answer_probabilities(end_logits: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """Softmax over all V logits at END, of the answer tokens only: (N, V) and (A,) to float64 (N, A)."""
    end_logits = end_logits.double()
    of_answers = end_logits.index_select(-1, answers.to(end_logits.device))
    return (of_answers - end_logits.logsumexp(-1, keepdim=True)).exp()


def logit_lens(writes: torch.Tensor, model: Model, tokens: torch.Tensor) -> torch.Tensor:
    """Writes (..., D) through the final LayerNorm and the unembedding, at `tokens` (A,): logits (..., A) float64."""
    weights = {name: model.tensors[name].double() for name in ("final.ln.w.scale_arr", "final.ln.w.bias_arr")}
    unembedding = model.tensors["t.w.unembed_arr"][tokens].double()
    normed = torch.nn.functional.layer_norm(
        writes.double(),
        (model.architecture.d_model,),
        weights["final.ln.w.scale_arr"],
        weights["final.ln.w.bias_arr"],
        LAYER_NORM_EPSILON,
    )
    return normed @ unembedding.T
