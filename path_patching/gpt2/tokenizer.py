"""GPT-2's tokenizer without a network.

`data/tokenizer/` holds OpenAI's own `encoder.json` and `vocab.bpe` byte for byte, under the names that Hugging Face
gives them (origin and licence: `data/README.md`).

    >>> tokenizer = load_tokenizer()
    >>> tokenizer(" 1732")["input_ids"]
    [1596, 2624]
    >>> token_texts(tokenizer, [1596, 2624])
    [' 17', '32']
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from path_patching.errors import UserError, in_one_line
from path_patching.files import reading
from path_patching.gpt2 import DATA

if TYPE_CHECKING:
    from transformers import GPT2Tokenizer

TOKENIZER_FOLDER = DATA / "tokenizer"
EOS = "<|endoftext|>"
NAME = "gpt2"
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")  # of any tokenizer
SHA256 = {
    "vocab.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "merges.txt": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}


def load_tokenizer(folder: Path = TOKENIZER_FOLDER) -> GPT2Tokenizer:
    """GPT-2's byte-level BPE (50,257 tokens) from the package's own files; no network, any working directory.

    Raises UserError if a file is missing or is not OpenAI's.
    """
    from transformers import GPT2Tokenizer  # imported here, since it is slow and not always needed

    lines = _verified(folder / "merges.txt").decode("utf-8").splitlines()
    merges = [tuple(line.split()) for line in lines[1:] if line]  # the first line is a version comment
    # transformers 5 silently ignores `vocab_file=` and `merges_file=` and makes an empty tokenizer. Other libraries,
    # such as TransformerLens, ask a tokenizer for its name.
    return GPT2Tokenizer(vocab=load_vocabulary(folder), merges=merges, name_or_path=NAME)  # type: ignore[arg-type]


def load_vocabulary(folder: Path = TOKENIZER_FOLDER) -> dict[str, int]:
    """GPT-2's tokens with their ids, without waiting for a tokenizer. Raises `UserError` like `load_tokenizer`."""
    vocabulary: dict[str, int] = json.loads(_verified(folder / "vocab.json"))
    return vocabulary


def check_reads_alike(
    folder: Path, texts: Sequence[str], tokens: Sequence[Sequence[int]], answers: Mapping[str, int]
) -> None:
    """Raise `UserError` if a checkpoint's folder has a tokenizer with other ids for these texts or answers."""
    brought = [folder / name for name in VOCABULARIES if os.path.lexists(folder / name)]
    if not brought:
        return
    mend = "mend it, or delete it if the model's tokens are GPT-2's"
    for path in (path for path in folder.iterdir() if path.suffix in (".json", ".txt", ".model")):
        with reading(path, mend):  # reading a pipe could wait for ever
            pass
    try:
        found = _read_by_own(folder, texts, answers)
    except Exception as error:  # a damaged or unknown tokenizer can break any part of the reader
        raise UserError(f"{brought[0]} is not a tokenizer that can be read ({in_one_line(error)}); {mend}") from error
    expected = {**dict(zip(texts, tokens, strict=True)), **{token: [id_] for token, id_ in answers.items()}}
    for text in expected:
        for one, other in zip_longest(found[text], expected[text]):
            if one != other:
                raise UserError(
                    f"{brought[0]} reads {text!r} with token {one} where GPT-2's tokenizer has {other}; give a model "
                    "with GPT-2's vocabulary"
                )


def _read_by_own(folder: Path, texts: Sequence[str], answers: Iterable[str]) -> dict[str, list[int | None]]:
    """The ids that a checkpoint's own tokenizer gives for texts and for single tokens; none of its code is run."""
    from transformers import AutoTokenizer

    own = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    read = own(list(texts), add_special_tokens=False)["input_ids"]
    single = {token: [own.convert_tokens_to_ids(token)] for token in answers}
    return {**dict(zip(texts, read, strict=True)), **single}


def token_texts(tokenizer: GPT2Tokenizer, tokens: Sequence[int] | torch.Tensor) -> list[str]:
    """Tokens (n,) as the text that each stands for: “ 17”, not the vocabulary's own “Ġ17”."""
    return [str(tokenizer.decode([token])) for token in torch.as_tensor(tokens).tolist()]


def _verified(path: Path) -> bytes:
    """The bytes of a tokenizer file, if they are OpenAI's."""
    mend = "install path_patching again, or restore the file with git"
    with reading(path, mend):
        content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256[path.name]:
        raise UserError(f"{path} is damaged; {mend}")
    return content
