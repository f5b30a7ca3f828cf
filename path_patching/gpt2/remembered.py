"""What `transformers` answers, kept in the tensor cache: importing it takes longer than a whole question does.

Answers are kept for models out of the tensor cache alone, whose fingerprint is a hash of their content, by all that
they depend on: the fingerprint, the checkpoint's config, the sentences, and the versions of the libraries. Nothing is
concluded from what is kept but that an engine agrees with it: whoever finds a difference asks `transformers` again.

    >>> remembered(model, sentences) is None  # a model of random numbers has no such fingerprint
    True
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from path_patching.errors import UserError
from path_patching.files import regular, written_whole
from path_patching.gpt2.model import Model
from path_patching.gpt2.tensor_cache import FINGERPRINT_DIGITS, cache_folder

if TYPE_CHECKING:
    from path_patching.engine import Sentences

OF_CONTENT = re.compile(rf"[0-9a-f]{{{FINGERPRINT_DIGITS}}}\+\w+")
DEPENDENCIES = ("torch", "transformers")


def remembered(model: Model, sentences: Sentences) -> dict[str, torch.Tensor] | None:
    """The probabilities (N, A) on clean and on corrupted sentences, if they are kept and can be read."""
    path = _path_of(model, sentences)
    if path is None:
        return None
    with suppress(Exception):  # a damaged file can break any part of the reader
        kept = torch.load(regular(path), map_location="cpu", weights_only=True)
        shape = (len(sentences), len(sentences.answers))
        if all(kept[data].shape == shape for data in ("clean", "corrupted")):
            return {data: kept[data] for data in ("clean", "corrupted")}
    return None


def remember(model: Model, sentences: Sentences, answers: dict[str, torch.Tensor]) -> None:
    """Keep the probabilities (N, A) on clean and on corrupted sentences, where that can be done."""
    path = _path_of(model, sentences)
    if path is not None:
        with suppress(OSError), written_whole(path) as partial:
            torch.save(answers, partial)


def _path_of(model: Model, sentences: Sentences) -> Path | None:
    if not OF_CONTENT.fullmatch(model.fingerprint):
        return None
    tokens = [each.tolist() for each in (sentences.clean, sentences.corrupted, sentences.answers)]
    versions = [metadata.version(name) for name in DEPENDENCIES]
    config = None if model.config is None else dict(model.config)
    key = json.dumps([model.fingerprint, config, tokens, versions], sort_keys=True)
    with suppress(UserError):  # there is no folder for it
        return cache_folder() / "answers" / f"{sha256(key.encode()).hexdigest()}.pt"
    return None
