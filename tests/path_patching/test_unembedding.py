"""The softmax of the year tokens, against float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from path_patching.gpt2.model import GPT2_SMALL, Architecture, Model, random_model
from path_patching.unembedding import Answers, StreamedSoftmax, Unembedding, vocabulary_pieces


def mostly_one_value(n: int = 64) -> torch.Tensor:
    """Logits (n, V) as of a model that has met a few hundred of GPT-2's tokens: all others share one value."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(n, 1, generator=generator).repeat(1, GPT2_SMALL.vocab_size)
    logits[:, :300] += 7 + 2 * torch.randn(n, 300, generator=generator)
    return logits


def streamed(
    logits: torch.Tensor, answers: torch.Tensor, counts: torch.Tensor | None = None, size: int | None = None
) -> torch.Tensor:
    """The softmax of logits (n, V) at the answers, its vocabulary given in pieces, of `size` if that is given."""
    vocabulary, softmax = logits.shape[-1], StreamedSoftmax(len(answers))
    of_size = [slice(first, first + size) for first in range(0, vocabulary, size)] if size else None
    for piece in of_size or vocabulary_pieces(vocabulary, len(logits), "cpu"):
        within = ((answers >= piece.start) & (answers < piece.stop)).nonzero()[:, 0]
        of_piece = Answers(within, answers[within] - piece.start)
        softmax.add(logits[:, piece].clone(), of_piece, None if counts is None else counts[piece])
    return softmax.probabilities()


def worst(probabilities: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest error that a probability difference can have."""
    return (probabilities.double() - expected).abs().sum(-1).max().item()


def test_probabilities_are_those_of_a_float64_softmax():
    logits, answers = torch.randn(15, 3000) * 4, torch.tensor([17, 0, 2999, 4])
    probabilities = streamed(logits, answers)
    assert probabilities.dtype == torch.float64
    assert probabilities.shape == (15, 4)
    torch.testing.assert_close(probabilities, logits.double().softmax(-1)[..., answers], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("size", [1, 7, 100, 1000])
@pytest.mark.parametrize("order", ["random", "rising", "falling"])
def test_pieces_of_any_size_in_any_order_are_the_whole(size, order):
    logits = 30 * torch.randn(5, 100, generator=torch.Generator().manual_seed(0))
    if order != "random":
        logits = logits.sort(-1, descending=order == "falling").values * 10  # beyond what exp can hold
    expected = logits.double().softmax(-1)
    torch.testing.assert_close(streamed(logits, torch.arange(100), size=size), expected, rtol=2e-6, atol=1e-12)


def test_a_sum_of_many_equal_terms_does_not_drift():
    """A vocabulary that mostly never occurred: a plain float32 sum of so many equal terms is off by far more."""
    logits = torch.full((2, 50_000), -3.7)
    logits[:, 0] = 0.0
    expected = logits.double().softmax(-1)[:, :2]
    torch.testing.assert_close(streamed(logits, torch.tensor([0, 1])), expected, rtol=3e-7, atol=0)


def test_logits_far_from_zero_do_not_overflow():
    logits = torch.tensor([[1000.0, 999.0, -1000.0], [-1000.0, -1001.0, -3000.0]])
    expected = torch.tensor([1.0, -1.0]).sigmoid().double()
    for row in streamed(logits, torch.tensor([0, 1])):
        torch.testing.assert_close(row, expected, rtol=1e-6, atol=0)


def test_a_float32_softmax_is_off_by_more_than_an_engine_may_be():
    """The trap: 50,257 logits that mostly share one value. Ours is good to 1e-6; torch's own softmax is not."""
    logits, answers = mostly_one_value(), torch.arange(100)
    exact = logits.double().softmax(-1)[:, answers]
    ours = worst(streamed(logits, answers), exact)
    float32 = worst(logits.softmax(-1)[:, answers], exact)
    assert ours < 1e-6
    assert float32 > 10 * ours
    assert float32 > 3e-6


def test_a_logit_may_stand_for_many_tokens():
    logits, answers = torch.randn(4, 6) * 3, torch.tensor([5, 0])
    counts = torch.tensor([1, 40_000, 3, 1, 1, 2])
    exact = logits.double().repeat_interleave(counts, -1).softmax(-1)
    at = counts.cumsum(0)[answers] - 1  # the last of each kind
    for size in (None, 2):
        got = streamed(logits, answers, counts.double(), size)
        torch.testing.assert_close(got, exact[:, at], rtol=1e-6, atol=0)


def model_with_equal_rows(equal: int, different: int) -> Model:
    """A model of `different` rows that differ, in no order, among `equal` that are alike."""
    sizes = Architecture(1, 1, d_model=8, d_head=8, d_mlp=8, n_positions=4, vocab_size=equal + different)
    model = random_model(sizes, std=0.5)
    rows = model.tensors["t.w.unembed_arr"].clone()
    rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))[:equal]] = 0.25
    return replace(model, tensors={**model.tensors, "t.w.unembed_arr": rows})


@pytest.mark.parametrize(("equal", "different"), [(2, 998), (700, 300), (999, 1), (0, 40_000)])
def test_equal_rows_of_the_unembedding_change_nothing(equal, different):
    """Few, most and nearly all of them; and so many rows that they do not fit one block."""
    model = model_with_equal_rows(equal, different)
    answers = torch.tensor([0, 3, 17, 500, 999, 3])
    normed = torch.randn(2, 90, 8)
    got = Unembedding(model, answers, "cpu").probabilities(normed)
    exact = (normed.double() @ model.tensors["t.w.unembed_arr"].double().T).softmax(-1)[..., answers]
    assert got.dtype == torch.float64
    assert got.shape == (2, 90, 6)
    torch.testing.assert_close(got, exact, rtol=3e-6, atol=0)


def test_rows_are_not_taken_for_equal_because_a_large_number_hides_how_they_differ():
    """Beside 1e30 the others are lost in any sum of a row; the logits leave it out."""
    model = model_with_equal_rows(700, 300)
    rows = model.tensors["t.w.unembed_arr"]
    rows[:, 0] = 1e30
    normed = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(2))
    normed[..., 0] = 0
    answers = torch.tensor([0, 3, 17, 500, 999])
    exact = (normed.double() @ rows.double().T).softmax(-1)[..., answers]
    torch.testing.assert_close(Unembedding(model, answers, "cpu").probabilities(normed), exact, rtol=3e-6, atol=0)


def test_what_a_probability_of_nearly_1_lacks_is_true():
    """Log odds need it. From two matrix products, for the answer and for the sum, it was off by half of itself."""
    model, answers = model_with_equal_rows(700, 300), torch.tensor([0, 3, 17])
    model.tensors["t.w.unembed_arr"][0] = 1.5
    normed = 2 + 0.2 * torch.randn(200, 8, generator=torch.Generator().manual_seed(2))
    exact = (normed.double() @ model.tensors["t.w.unembed_arr"].double().T).softmax(-1)[:, 0]
    assert 1e-9 < (1 - exact).median() < 1e-5
    lacks = 1 - Unembedding(model, answers, "cpu").probabilities(normed)[:, 0]
    torch.testing.assert_close(lacks, 1 - exact, rtol=1e-4, atol=0)
