"""Which token comes next? A model run in `transformers`, for scripts that patch nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from path_patching.batches import in_parts, placing
from path_patching.errors import UserError
from path_patching.gpt2.model import end_logits
from path_patching.progress import progress

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

SENTENCES_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class NextToken:
    """The next token after N sentences; probabilities are float64, from the softmax over all V tokens."""

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
    model, or have tokens that the model does not have.
    """
    _check_fits(hf_model, torch.cat([tokens.flatten(), answers]), tokens.shape[1])
    with placing("the model's weights", device):
        hf_model.to(device)

    def of_batch(batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        probabilities = end_logits(hf_model, batch.to(device)).double().softmax(-1)  # (B, V)
        found = probabilities[:, answers.to(device)], *probabilities.topk(k), probabilities.sum(0)
        return tuple(each.cpu() for each in found)

    batches, total = [], torch.zeros(hf_model.config.vocab_size, dtype=torch.float64)
    parts = in_parts(torch.arange(len(tokens)), SENTENCES_AT_ONCE, "sentences", device)
    for part in progress(parts, "next tokens", -(-len(tokens) // SENTENCES_AT_ONCE)):
        with part:
            *of_sentences, summed = of_batch(tokens[part.rows])
            batches.append(of_sentences)
            total += summed
    asked, top, top_tokens = (torch.cat(found) for found in zip(*batches, strict=True))
    return NextToken(asked, top, top_tokens, mean=total / len(tokens))


def _check_fits(hf_model: GPT2LMHeadModel, used: torch.Tensor, length: int) -> None:
    if length > hf_model.config.n_positions:
        raise UserError(
            f"sentences of {length} tokens; the model takes at most {hf_model.config.n_positions}: choose another"
        )
    n_tokens = hf_model.config.vocab_size
    if used.max() >= n_tokens:
        raise UserError(
            f"the sentences use token {int(used.max())} of GPT-2's tokenizer; the model has {n_tokens} tokens: choose "
            "one with GPT-2's vocabulary"
        )
