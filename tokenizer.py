"""GPT-2's tokenizer without a network, and the ids of the 100 year tokens.

`cache/tokenizer/` holds OpenAI's own `encoder.json` and `vocab.bpe` byte for byte, under the names that Hugging Face
gives them (origin and licence: `cache/README.md`). `python tokenizer.py` makes `cache/logit_indices.pt` from them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

import torch
from transformers import GPT2TokenizerFast

from utils import ROOT, UserError, exit_on_user_error, written_whole

CACHE = ROOT / "cache"
TOKENIZER_FOLDER = CACHE / "tokenizer"
YEAR_TOKEN_IDS_FILE = CACHE / "logit_indices.pt"
EOS = "<|endoftext|>"
SHA256 = {
    "vocab.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "merges.txt": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}


def load_tokenizer(folder: Path = TOKENIZER_FOLDER) -> GPT2TokenizerFast:
    """GPT-2's byte-level BPE (50,257 tokens) from the repository's own files; no network, any working directory.

    Raises UserError if a file is missing or is not OpenAI's.
    """
    vocab = json.loads(_verified(folder / "vocab.json"))
    lines = _verified(folder / "merges.txt").decode("utf-8").splitlines()
    merges = [tuple(line.split()) for line in lines[1:] if line]  # the first line is a version comment
    # transformers 5 ignores `vocab_file=` and `merges_file=` silently and makes an empty tokenizer of them.
    return GPT2TokenizerFast(vocab=vocab, merges=merges)


def find_year_token_ids(tokenizer: GPT2TokenizerFast) -> torch.Tensor:
    """Token ids of "00" ... "99" without a leading space, int64 (100,)."""
    return torch.tensor([tokenizer.convert_tokens_to_ids(f"{yy:02d}") for yy in range(100)])


def write_year_token_ids(path: Path = YEAR_TOKEN_IDS_FILE) -> None:
    """Make `cache/logit_indices.pt`, whole or not at all."""
    with written_whole(path) as partial:
        torch.save(find_year_token_ids(load_tokenizer()), partial)


def _verified(path: Path) -> bytes:
    """The bytes of a tokenizer file, if they are OpenAI's."""
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != SHA256[path.name]:
        state = "is damaged" if content else "is missing or empty"
        raise UserError(f"{path} {state}; restore it with `git checkout -- cache/tokenizer`")
    return content


if __name__ == "__main__":
    sys.excepthook = exit_on_user_error
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    write_year_token_ids()
    print(f"wrote {YEAR_TOKEN_IDS_FILE}")
