"""Plain sentences without a task: how far does the next token's distribution move without a circuit?

>>> data = plain_sentences(tokenizer)
>>> data.good_toks.shape  # 13 tokens each: as many as a year span has
torch.Size([50, 13])
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dataset import CACHE
from path_patching.errors import UserError
from path_patching.files import lines_of
from path_patching.gpt2.tokenizer import EOS, Tokenizer

PLAIN_FILE = CACHE / "plain_sentences.txt"
PLAIN_TOKENS = 13  # of a plain sentence, with `<|endoftext|>`: as many as a year span has


@dataclass(frozen=True, eq=False)
class PlainDataset:
    """N plain sentences, each cut after T tokens, to see how far the next token's distribution moves.

    They have no twins (each is its own), so patching uses mean or zero data. The metric is `divergence_from`
    (`path_patching.circuits.validation.faithfulness`) the clean probabilities.
    """

    good_toks: torch.Tensor
    """Token ids, int64 (N, T)."""
    good_sentences: tuple[str, ...]
    answers: torch.Tensor
    """All tokens, int64 (A,)."""

    @property
    def bad_toks(self) -> torch.Tensor:
        """The sentences themselves, int64 (N, T)."""
        return self.good_toks

    @property
    def bad_sentences(self) -> tuple[str, ...]:
        """The sentences themselves."""
        return self.good_sentences

    @property
    def end(self) -> int:
        """Position of END, the last token."""
        return self.good_toks.shape[1] - 1


def plain_sentences(tokenizer: Tokenizer) -> PlainDataset:
    """The sentences of `cache/plain_sentences.txt`, cut after 12 tokens. Raises `UserError` for a shorter one."""
    texts = [f"{EOS} {line}" for line in lines_of(PLAIN_FILE, "sentence")]
    rows = tokenizer(texts)["input_ids"]
    for text, row in zip(texts, rows, strict=True):
        if len(row) < PLAIN_TOKENS:
            raise UserError(f"{text!r} is {len(row)} tokens; a plain sentence needs at least {PLAIN_TOKENS}")
    tokens = torch.tensor([row[:PLAIN_TOKENS] for row in rows])
    return PlainDataset(tokens, tuple(map(tokenizer.decode, tokens)), torch.arange(len(tokenizer)))
