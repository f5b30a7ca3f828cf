"""GPT-2 small's checkpoint: from the Hugging Face hub's cache on this machine, or downloaded from the hub.

A download goes into a folder of ours, under names of ours: no answer can say where a file goes, how long to wait or how
much to store. It may take as long as it moves; silence has a deadline.
"""

from __future__ import annotations

import threading
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm import tqdm

from path_patching.errors import UserError, first_line
from path_patching.files import written_whole
from path_patching.gpt2.checkpoint import CONFIG, WEIGHTS

REPOSITORY = "openai-community/gpt2"
NAMES_IN_THE_CACHE = (REPOSITORY, "gpt2")  # the second is the first one's older name
FILES = {CONFIG: 10**5, WEIGHTS: 10**9}  # with the most bytes that are taken; GPT-2 small's weights have 5.5e8

# Seconds that one step of a request, or the next bytes, may take, and all steps until the first bytes.
STEP_TIMEOUT = 5.0
DEADLINE = 10.0
PARTIAL_CONTENT = 206
BAR = {"unit": "B", "unit_scale": True, "leave": False, "disable": None}


class ModelUnavailable(UserError):  # noqa: N818 - it names a state of affairs, which a run may go on from
    """GPT-2's weights are not on this machine and cannot be downloaded."""


def gpt2_checkpoint(downloads: Path) -> Path:
    """A folder with GPT-2 small's `config.json` and `model.safetensors`, one in `downloads` if they are not cached.

    HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE and the rest of the hub's own settings hold. Raises `ModelUnavailable`, with
    the reason alone as its message, within `DEADLINE` seconds if the hub does not answer.
    """
    return _cached_checkpoint() or _downloaded_checkpoint(downloads / REPOSITORY.replace("/", "+"))


def to_be_deleted(folder: Path) -> Path:
    """What has to go before a damaged checkpoint is downloaded anew: its folder, or all that the hub's cache has."""
    return folder.parents[1] if folder.parent.name == "snapshots" else folder


def _cached_checkpoint() -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for repository in NAMES_IN_THE_CACHE:
        found = [path for file in FILES if isinstance(path := try_to_load_from_cache(repository, file), str)]
        if len(found) == len(FILES):
            return Path(found[0]).parent
    return None


def _downloaded_checkpoint(folder: Path) -> Path:
    try:
        for file, most in FILES.items():
            if not (folder / file).is_file():
                _download(file, folder / file, most)
    except ModelUnavailable:
        raise
    except Exception as error:  # whatever the hub's library and its transport raise, the reason is in the message
        raise ModelUnavailable(first_line(error)) from error
    return folder


def _download(file: str, path: Path, most: int) -> None:
    """Download a file; where a connection breaks, go on from there with another, as long as each brings more."""
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(REPOSITORY, file)
    answer = _ask(url, 0)
    with written_whole(path) as partial:
        while not _receive(answer, partial, most, f"downloading {file}"):
            answer = _ask(url, partial.stat().st_size)


def _ask(url: str, start: int) -> Any:
    """The hub's answer, a response that is still to be read, from the byte `start` on if the hub can do that.

    It is asked in a thread: not even a name server that hangs can hold us longer than the deadline.
    """
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented as being there

    answers: list[Any] = []

    def ask() -> None:
        try:
            session = get_session()
            headers = {**build_hf_headers(), "Accept-Encoding": "identity", "Range": f"bytes={start}-"}
            request = session.build_request("GET", url, headers=headers, timeout=STEP_TIMEOUT)
            answers.append(session.send(request, stream=True).raise_for_status())
        except Exception as error:  # as above
            answers.append(ModelUnavailable(f"{url}: {first_line(error)}"))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    answer = answers[0] if answers else ModelUnavailable(f"{url}: no answer within {DEADLINE:.0f} s")
    if isinstance(answer, ModelUnavailable):
        raise answer
    return answer


def _receive(answer: Any, partial: Path, most: int, words: str) -> bool:
    """Put the bytes of an answer into a file. True once all are there, False if the connection broke after new ones."""
    before = partial.stat().st_size
    start = before if answer.status_code == PARTIAL_CONTENT else 0
    size = start + int(answer.headers.get("Content-Length", 0))
    with partial.open("r+b") as file, tqdm(total=size, initial=start, desc=words, **BAR) as bar:
        file.truncate(start)
        file.seek(start)
        try:
            for piece in chain([b""], answer.iter_bytes()):  # a size that is too large is refused before any byte
                if max(size, file.tell() + len(piece)) > most:
                    raise ModelUnavailable(f"{answer.url} sends more than the {most} bytes that are taken")
                bar.update(file.write(piece))
        except (ModelUnavailable, OSError):
            raise
        except Exception:  # of the transport
            if file.tell() <= before:
                raise
            return False
        finally:
            answer.close()
    return True
