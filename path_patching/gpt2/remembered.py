"""A cache of what `transformers` answers, because importing it takes longer than a whole question.

Only models from the tensor cache are cached, for their fingerprint is a hash of their content. The key has all that an
answer depends on: the fingerprint, the checkpoint's config, the sentences, the versions of the libraries, and our code
that calls `transformers`. The cache only confirms that an engine agrees: if it does not, `transformers` is run again.

    >>> remembered(model, sentences) is None  # a random model has no such fingerprint
    True
"""

from __future__ import annotations

import json
import re
import sys
from contextlib import suppress
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from path_patching.errors import UserError
from path_patching.files import regular, written_whole
from path_patching.gpt2.model import Model, end_logits, to_transformers
from path_patching.gpt2.tensor_cache import FINGERPRINT_DIGITS, cache_folder
from path_patching.precision import full_precision
from path_patching.unembedding import answer_probabilities

if TYPE_CHECKING:
    from path_patching.engine import Sentences

OF_CONTENT = re.compile(rf"[0-9a-f]{{{FINGERPRINT_DIGITS}}}\+\w+")
DEPENDENCIES = ("torch", "transformers")
OUR_CODE = (to_transformers, end_logits, full_precision, answer_probabilities)


def remembered(model: Model, sentences: Sentences) -> dict[str, torch.Tensor] | None:
    """The cached probabilities (N, A) on clean and on corrupted sentences; None if there are none."""
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
    """Cache the probabilities (N, A) on clean and on corrupted sentences, if possible."""
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
    with suppress(UserError, OSError):  # there is no cache folder, or our code cannot be read
        files = dict.fromkeys(str(sys.modules[each.__module__].__file__) for each in OUR_CODE)
        code = [sha256(Path(file).read_bytes()).hexdigest() for file in files]
        key = json.dumps([model.fingerprint, config, tokens, versions, code], sort_keys=True)
        return cache_folder() / "answers" / f"{sha256(key.encode()).hexdigest()}.pt"
    return None
