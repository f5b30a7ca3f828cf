from __future__ import annotations

import pytest
import torch

from path_patching.errors import UserError
from path_patching.gpt2.model import Architecture, random_model, to_transformers
from reproduction.next_token import SENTENCES_AT_ONCE, predict_next

SIZES = Architecture(n_layers=2, n_heads=2, d_model=8, d_head=4, d_mlp=12, n_positions=9, vocab_size=40)
N = 2 * SENTENCES_AT_ONCE + 3


@pytest.fixture(scope="module")
def twin():
    return to_transformers(random_model(SIZES, std=0.5))


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(40, (N, 7), generator=torch.Generator().manual_seed(0))


def test_it_is_the_softmax_of_the_last_position(twin, tokens):
    answers = torch.tensor([7, 3, 39])
    said = predict_next(twin, tokens, answers, k=4)
    with torch.no_grad():
        probabilities = twin(tokens).logits[:, -1].double().softmax(-1)
    torch.testing.assert_close(said.answers, probabilities[:, answers], rtol=0, atol=1e-7)
    torch.testing.assert_close(said.mean, probabilities.mean(0), rtol=0, atol=1e-7)
    ordered = probabilities.sort(descending=True)
    torch.testing.assert_close(said.top, ordered.values[:, :4], rtol=0, atol=1e-7)
    assert torch.equal(said.top_tokens, ordered.indices[:, :4])
    assert said.answers.dtype == said.top.dtype == said.mean.dtype == torch.float64
    assert said.mean.sum().item() == pytest.approx(1, abs=1e-12)


def test_what_the_model_cannot_take_is_one_line(twin, tokens):
    with pytest.raises(UserError, match="sentences of 14 tokens; the model takes at most 9"):
        predict_next(twin, torch.cat([tokens, tokens], 1), torch.tensor([1]), k=1)
    with pytest.raises(UserError, match="token 40 of GPT-2's tokenizer; the model has 40"):
        predict_next(twin, tokens, torch.tensor([40]), k=1)
