"""Getting checkpoints of the Hugging Face hub: from its library's cache on this machine, or by download.

The hub is asked once for the list of files, and has `ANSWER_SECONDS` to answer. Its library then downloads them into a
folder of ours. A download has no time limit while data arrive. If the connection breaks or is silent for 10 s (or
HF_HUB_DOWNLOAD_TIMEOUT), the library continues where it stopped, and gives up after six attempts without a new byte.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from path_patching.errors import UserError, first_line
from path_patching.gpt2.checkpoint import CONFIG, INDEX, PART, WEIGHTS, read_architecture, source_files
from path_patching.gpt2.names import OWNERS
from path_patching.gpt2.tokenizer import VOCABULARIES
from path_patching.progress import bars_of_downloads

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

BESIDE_A_VOCABULARY = ("merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
ANSWER_SECONDS = 10.0


class ModelUnavailable(UserError):  # noqa: N818 - it names a state of affairs, which a run may go on from
    """A model's weights are not on this machine and cannot be downloaded."""


def hub_checkpoint(repository: str, revision: str | None, downloads: Path) -> Path:
    """A folder with a GPT-2 checkpoint of the hub, downloaded into `downloads` if it is not on this machine yet.

    Without a `revision` it is the newest one; once downloaded, it is not looked up again. The hub's own settings hold:
    HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and the rest. Raises `ModelUnavailable`, whose message is only the
    reason, and `UserError` for a model that is no GPT-2; its weights are not downloaded.
    """
    return found_here(repository, revision, downloads) or _downloaded(repository, revision, downloads)


def found_here(repository: str, revision: str | None, downloads: Path) -> Path | None:
    """The folder of a checkpoint on this machine; None if it is not here. The hub is not asked."""
    folders = (*_cached(repository, revision), _own_folder(repository, revision, downloads))
    return next((folder for folder in folders if _is_whole(folder)), None)


def to_be_deleted(folder: Path) -> Path:
    """What to delete before a damaged checkpoint is downloaded again: its folder, or all that the hub's cache has."""
    return folder.parents[1] if folder.parent.name == "snapshots" else folder


def _own_folder(repository: str, revision: str | None, downloads: Path) -> Path:
    whole = f"{repository}@{revision}" if revision else repository
    return downloads / whole.replace("/", "+")


def _cached(repository: str, revision: str | None) -> Iterator[Path]:
    """Where the hub's own cache has a repository's config, under its name or, for some, an older name."""
    from huggingface_hub import try_to_load_from_cache

    owner, _, model = repository.partition("/")
    for name in (repository, model) if OWNERS.get(model) == owner else (repository,):
        if isinstance(path := try_to_load_from_cache(name, CONFIG, revision=revision), str):
            yield Path(path).parent


def _is_whole(folder: Path) -> bool:
    """Whether all files of a checkpoint are there; their content is checked when they are read."""
    try:
        return bool(source_files(folder))
    except UserError:
        return False


def _downloaded(repository: str, revision: str | None, downloads: Path) -> Path:
    """Download a checkpoint with its tokenizer, the weights last. Raises like `hub_checkpoint`."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return _download(repository, revision, _own_folder(repository, revision, downloads))
    except UserError:
        raise
    except GatedRepoError as error:
        reason = "its page asks for consent: give it there, then log in with `hf auth login`, or set HF_TOKEN"
        raise ModelUnavailable(reason) from error
    except RepositoryNotFoundError as error:
        reason = "there is no such model, or it is private: then log in with `hf auth login`, or set HF_TOKEN"
        raise ModelUnavailable(reason) from error
    except RevisionNotFoundError as error:
        raise ModelUnavailable(f"{repository} has no revision {revision}") from error
    except Exception as error:  # whatever the hub's library and its transport raise, the reason is in the message
        raise ModelUnavailable(first_line(error)) from error


def _download(repository: str, revision: str | None, folder: Path) -> Path:
    from huggingface_hub import HfApi, hf_hub_download

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # else it passes on the hub's advice, as to log in
    info = HfApi().model_info(repository, revision=revision, timeout=ANSWER_SECONDS, files_metadata=True)
    files = {file.rfilename: file for file in info.siblings or ()}

    def bring(name: str) -> None:
        how = {"revision": info.sha, "local_dir": folder, "etag_timeout": ANSWER_SECONDS, **bars_of_downloads()}
        path = str(hf_hub_download(repository, name, **how))
        _check_content(Path(path), files[name])

    weights = _weights_among(files, repository)
    bring(CONFIG)
    read_architecture(folder)  # before gigabytes are downloaded that are no GPT-2
    for name in (*VOCABULARIES, *BESIDE_A_VOCABULARY):
        if name in files:
            bring(name)
    for name in weights:
        bring(name)
    return folder


def _weights_among(files: Mapping[str, object], repository: str) -> list[str]:
    """The files of a repository that hold the weights. Raises `UserError` if it is no checkpoint that can be read."""
    parts = sorted(name for name in files if PART.fullmatch(name) and name != WEIGHTS)
    weights = [WEIGHTS] if WEIGHTS in files else [*parts, INDEX] if INDEX in files else []
    if CONFIG not in files or not weights:
        missing = WEIGHTS if CONFIG in files else CONFIG
        raise UserError(f"{repository} has no {missing} on the hub; save it with transformers and give its folder")
    return weights


def _check_content(path: Path, told: RepoSibling) -> None:
    """Delete a file and raise `ModelUnavailable` if its hash is not the one that the hub gives.

    For a large file that is the SHA-256, for others git's hash.
    """
    with path.open("rb") as file:
        expected: str | None
        if told.lfs:
            expected, found = told.lfs.sha256, hashlib.file_digest(file, "sha256").hexdigest()
        else:
            git_s = hashlib.sha1(b"blob %d\0" % path.stat().st_size + file.read())
            expected, found = told.blob_id, git_s.hexdigest()
    if expected not in (None, found):
        path.unlink()
        raise ModelUnavailable(f"{path.name} arrived damaged and was deleted; try again")
