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
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers
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


class Encoded(dict[str, Any]):
    """Tokens of a text, or of several, as `transformers` gives them: under the name `input_ids`."""

    @property
    def input_ids(self) -> Any:
        """Token ids, a list for each text."""
        return self["input_ids"]


class Tokenizer:
    """GPT-2's byte-level BPE (50,257 tokens) by the library below `transformers`, which is imported at once.

    It has what is needed here, named as in `transformers`, whose own does as well wherever a tokenizer is asked for.
    """

    __slots__ = ("_bpe",)

    def __init__(self, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> None:
        self._bpe = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
        self._bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._bpe.decoder = tokenizers.decoders.ByteLevel()
        self._bpe.add_special_tokens([EOS])

    def __len__(self) -> int:
        return int(self._bpe.get_vocab_size())

    def __call__(self, text: str | Sequence[str]) -> Encoded:
        """The token ids of a text, or a list of those of several."""
        if isinstance(text, str):
            return Encoded(input_ids=self._bpe.encode(text).ids)
        return Encoded(input_ids=[each.ids for each in self._bpe.encode_batch([*text])])

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text, as the vocabulary writes them: “Ġ17”."""
        return list(self._bpe.encode(text).tokens)

    def convert_tokens_to_ids(self, token: str) -> int | None:
        """The id of a token, as the vocabulary writes it; None if there is no such token."""
        id_: int | None = self._bpe.token_to_id(token)
        return id_

    def decode(self, tokens: Sequence[int] | torch.Tensor) -> str:
        """The text of token ids (n,)."""
        return str(self._bpe.decode(torch.as_tensor(tokens).tolist(), skip_special_tokens=False))


def load_tokenizer(folder: Path = TOKENIZER_FOLDER) -> Tokenizer:
    """GPT-2's tokenizer from the package's own files; no network, any working directory.

    Raises UserError if a file is missing or is not OpenAI's.
    """
    return _made_of(*_read(folder))


def transformers_tokenizer() -> GPT2Tokenizer:
    """The same tokenizer as `transformers` has it, for other tools. Raises like `load_tokenizer`."""
    from transformers import GPT2Tokenizer  # imported here: it takes longer than a question

    vocabulary, merges = _parsed(*_read(TOKENIZER_FOLDER))
    # transformers 5 silently ignores `vocab_file=` and `merges_file=` and makes an empty tokenizer. Other libraries,
    # such as TransformerLens, ask a tokenizer for its name.
    return GPT2Tokenizer(vocab=vocabulary, merges=merges, name_or_path=NAME)


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


def token_texts(tokenizer: Tokenizer, tokens: Sequence[int] | torch.Tensor) -> list[str]:
    """Tokens (n,) as the text that each stands for: “ 17”, not the vocabulary's own “Ġ17”."""
    return [tokenizer.decode([token]) for token in torch.as_tensor(tokens).tolist()]


def _read(folder: Path) -> tuple[bytes, bytes]:
    """The vocabulary and the merges, as bytes that are OpenAI's."""
    return _verified(folder / "vocab.json"), _verified(folder / "merges.txt")


@cache  # by content: the files are read and checked each time
def _made_of(vocabulary: bytes, merges: bytes) -> Tokenizer:
    return Tokenizer(*_parsed(vocabulary, merges))


def _parsed(vocabulary: bytes, merges: bytes) -> tuple[dict[str, int], list[tuple[str, str]]]:
    lines = merges.decode("utf-8").splitlines()[1:]  # the first line is a version comment
    return json.loads(vocabulary), [(one, other) for one, other in map(str.split, filter(None, lines))]


def _verified(path: Path) -> bytes:
    """The bytes of a tokenizer file, if they are OpenAI's."""
    mend = "install path_patching again, or restore the file with git"
    with reading(path, mend):
        content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256[path.name]:
        raise UserError(f"{path} is damaged; {mend}")
    return content
