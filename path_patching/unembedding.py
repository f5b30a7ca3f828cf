"""From the final LayerNorm's output to the probabilities of the answer tokens.

Most of an engine's time goes here: a row of D numbers becomes one of V. It works in blocks that stay in the processor's
caches and reuse their memory. Equal rows of the unembedding have equal logits, so each distinct row is computed once
and counted as often as it occurs. GPT-2 has no equal rows; a model that saw few of its tokens in training has mostly
equal ones.

The *logit lens* reads a node's write as if the logits read nothing else: logit_lens(x) = U · LayerNorm(x), with U the
unembedding. For the whole residual stream at END it gives the model's own logits.

    >>> written = engine.writes([Node.head(1, 0, END), Node.mlp(2, END)])  # (2, N, D)
    >>> logit_lens(written, model, sentences.answers).shape  # at the answers: (2, N, A)
    torch.Size([2, 97, 100])
    >>> stream = engine.residual(Node.logits(END))
    >>> logits = logit_lens(stream, model, torch.arange(model.architecture.vocab_size))  # at every token: (N, V)
    >>> torch.allclose(logits.softmax(1)[:, sentences.answers], engine.clean(), atol=1e-6)
    True
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import torch

from path_patching.batches import BYTES, placing
from path_patching.gpt2.model import LAYER_NORM_EPSILON, Model

ROWS_AT_ONCE = {"cpu": 512, "cuda": 4096}
BLOCKS_AT_ONCE = 8  # of several requests; with so many, a short last block costs little


class Answers(NamedTuple):
    """Which of the A answers are in a piece of the vocabulary, int64 (a,) each."""

    places: torch.Tensor
    """Their numbers among the A."""
    columns: torch.Tensor
    """Their numbers among the piece's tokens."""


class Unembedding:
    """The unembedding of a model, on a device, for given answer tokens (A,)."""

    def __init__(self, model: Model, answers: torch.Tensor, device: str) -> None:
        self._model, self._asked = model, answers
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

    def of(self, answers: torch.Tensor) -> Unembedding:
        """This unembedding if these are its answer tokens, else another one for them."""
        return self if torch.equal(answers, self._asked) else Unembedding(self._model, answers, self.device)

    def of_each(self, normed: Iterable[torch.Tensor], n_rows: int, memory_gb: float) -> Iterator[torch.Tensor]:
        """`probabilities` of each (n_rows, D), computed for as many together as an eighth of the memory allows."""
        rows = BLOCKS_AT_ONCE * ROWS_AT_ONCE[torch.device(self.device).type]
        rows_that_fit = memory_gb * 1e9 / 8 / BYTES / len(self.norm_scale)
        at_once, each = max(1, int(min(rows, rows_that_fit) / n_rows)), iter(normed)
        while together := [*islice(each, at_once)]:
            yield from self.probabilities(torch.stack(together))

    def probabilities(self, normed: torch.Tensor) -> torch.Tensor:
        """Answer probabilities (..., A) float64 from what the logits read after their LayerNorm, (..., D)."""
        blocks = normed.flatten(0, -2).split(ROWS_AT_ONCE[torch.device(self.device).type])
        found: torch.Tensor = torch.cat([self._of_block(block) for block in blocks]).unflatten(0, normed.shape[:-1])
        return found

    def _of_block(self, normed: torch.Tensor) -> torch.Tensor:
        softmax = StreamedSoftmax(len(self.answers))
        for tokens in vocabulary_pieces(len(self.rows), len(normed), self.device):
            softmax.add(normed @ self.rows[tokens].T, *self.piece(tokens))
        return softmax.probabilities()

    def piece(self, tokens: slice) -> tuple[Answers, torch.Tensor | None]:
        """The answers in a piece of the rows, and how many tokens each row stands for; None if one each."""
        places = ((self.answers >= tokens.start) & (self.answers < tokens.stop)).nonzero()[:, 0]
        counts = None if self.counts is None else self.counts[tokens]
        return Answers(places, self.answers[places] - tokens.start), counts


def _equal_rows(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For rows (V, D): where each distinct row occurs first (kinds,), and which of them every row equals (V,).

    Rows are compared by one random projection, which is much faster than sorting them. A check makes sure that it gave
    no two different rows the same number.
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
    """The slices of the vocabulary in which logits (rows, vocabulary) are computed fastest."""
    kind = torch.device(device).type
    size = max(SMALLEST_PIECE, min(LARGEST_PIECE[kind], ENTRIES_AT_ONCE[kind] // rows))
    return [slice(first, first + size) for first in range(0, vocabulary, size)]


class StreamedSoftmax:
    """The softmax of some rows of logits at A answers; the vocabulary comes in pieces, one after another.

    An answer's logit is taken from its piece, so that it is the same number as in the sum. From another matrix product
    it would differ in the last bits, and 1 − p would be lost to rounding where p is near 1.
    """

    def __init__(self, n_answers: int) -> None:
        self._n_answers = n_answers
        self._of_answers: torch.Tensor | None = None  # (rows, A)
        # The largest logit so far, (rows, 1), and the sum of exp(logit - largest), (rows, 1) float64.
        self._so_far: tuple[torch.Tensor, torch.Tensor] | None = None

    def add(self, logits: torch.Tensor, answers: Answers, counts: torch.Tensor | None = None) -> None:
        """Add a piece of logits (rows, v) and the answers in it. The piece is overwritten.

        `counts` (v,) float64 says how many tokens each logit stands for; one each without it. Exponentials may be
        float32; long sums of them are float64.
        """
        if self._of_answers is None:
            self._of_answers = logits.new_empty(len(logits), self._n_answers)
        if len(answers.places):
            self._of_answers[:, answers.places] = logits[:, answers.columns]
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

    def probabilities(self) -> torch.Tensor:
        """Probabilities (rows, A) float64 of the answers, once all pieces are in."""
        assert self._so_far is not None, "a softmax is over at least one piece"
        assert self._of_answers is not None
        top, total = self._so_far
        return (self._of_answers.double() - top).exp() / total


def answer_probabilities(end_logits: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """Softmax over all V logits at END, at the answer tokens: (N, V) and (A,) to float64 (N, A)."""
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
