"""GPT-2's tokenizer without a network.

`cache/tokenizer/` holds OpenAI's own `encoder.json` and `vocab.bpe` byte for byte, under the names that Hugging Face
gives them (origin and licence: `cache/README.md`).

    >>> tokenizer = load_tokenizer()
    >>> tokenizer(" 1732")["input_ids"]
    [1596, 2624]
    >>> token_texts(tokenizer, [1596, 2624])
    [' 17', '32']
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from path_patching.errors import UserError
from path_patching.files import ROOT

if TYPE_CHECKING:
    from transformers import GPT2Tokenizer

CACHE = ROOT / "cache"
TOKENIZER_FOLDER = CACHE / "tokenizer"
EOS = "<|endoftext|>"
SHA256 = {
    "vocab.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "merges.txt": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}


def load_tokenizer(folder: Path = TOKENIZER_FOLDER) -> GPT2Tokenizer:
    """GPT-2's byte-level BPE (50,257 tokens) from the repository's own files; no network, any working directory.

    Raises UserError if a file is missing or is not OpenAI's.
    """
    from transformers import GPT2Tokenizer  # here, since a reader of probabilities alone need not wait for it

    vocab = json.loads(_verified(folder / "vocab.json"))
    lines = _verified(folder / "merges.txt").decode("utf-8").splitlines()
    merges = [tuple(line.split()) for line in lines[1:] if line]  # the first line is a version comment
    # transformers 5 ignores `vocab_file=` and `merges_file=` silently and makes an empty tokenizer of them.
    return GPT2Tokenizer(vocab=vocab, merges=merges)  # type: ignore[arg-type]  # pairs are right, its hint is not


def token_texts(tokenizer: GPT2Tokenizer, tokens: Sequence[int] | torch.Tensor) -> list[str]:
    """Tokens (n,) as the text that each stands for: “ 17”, not the vocabulary's own “Ġ17”."""
    return [tokenizer.decode([token]) for token in torch.as_tensor(tokens).tolist()]


def _verified(path: Path) -> bytes:
    """The bytes of a tokenizer file, if they are OpenAI's."""
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != SHA256[path.name]:
        state = "is damaged" if content else "is missing or empty"
        raise UserError(f"{path} {state}; restore it with `git checkout -- cache/tokenizer`")
    return content
