"""What a model says next, through `transformers`: softmaxes over the whole vocabulary, kept where they are asked for.

N sentences, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import GPT2LMHeadModel

from transformers_model import end_logits
from utils import UserError, progress

SENTENCES_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class NextToken:
    """The next token after N sentences; probabilities are float64, of the softmax over all V tokens."""

    answers: torch.Tensor
    """Probabilities of the tokens asked for, (N, A)."""
    top: torch.Tensor
    """Probabilities of the k likeliest tokens of each sentence, (N, k), falling."""
    top_tokens: torch.Tensor
    """Their ids, int64 (N, k)."""
    mean: torch.Tensor
    """Mean probability of every token, (V,)."""


def predict_next(
    hf_model: GPT2LMHeadModel, tokens: torch.Tensor, answers: torch.Tensor, k: int, device: str = "cpu"
) -> NextToken:
    """The next token after tokens (N, T), at `answers` (A,) and at the `k` likeliest of each sentence, on the CPU.

    Only a few sentences' softmaxes are in memory at a time. Raises `UserError` if the sentences are too long for the
    model, or it has not all of GPT-2's tokens that occur.
    """
    _check_fits(hf_model, torch.cat([tokens.flatten(), answers]), tokens.shape[1])
    hf_model = hf_model.to(device)
    batches, total = [], torch.zeros(hf_model.config.vocab_size, dtype=torch.float64)
    for batch in progress(tokens.split(SENTENCES_AT_ONCE), "next tokens"):
        probabilities = end_logits(hf_model, batch.to(device)).double().softmax(-1)  # (B, V)
        top, top_tokens = probabilities.topk(k)
        batches.append((probabilities[:, answers.to(device)].cpu(), top.cpu(), top_tokens.cpu()))
        total += probabilities.sum(0).cpu()
    return NextToken(*(torch.cat(parts) for parts in zip(*batches, strict=True)), mean=total / len(tokens))


def _check_fits(hf_model: GPT2LMHeadModel, used: torch.Tensor, length: int) -> None:
    if length > hf_model.config.n_positions:
        raise UserError(f"sentences of {length} tokens; the model takes {hf_model.config.n_positions}: choose another")
    n_tokens = hf_model.config.vocab_size
    if used.max() >= n_tokens:
        raise UserError(
            f"the sentences use token {int(used.max())} of GPT-2's tokenizer; the model has {n_tokens} tokens: choose "
            "one with GPT-2's vocabulary"
        )
