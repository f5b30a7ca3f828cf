"""GPT-2 small's checkpoint from the Hugging Face hub, or from its cache on this machine."""

from __future__ import annotations

import threading
from pathlib import Path

from path_patching.errors import UserError, first_line
from path_patching.gpt2.checkpoint import CONFIG, WEIGHTS

REPOSITORY = "openai-community/gpt2"
NAMES_IN_THE_CACHE = (REPOSITORY, "gpt2")  # the second is the first one's older name
FILES = (CONFIG, WEIGHTS)

# Seconds that one step of a request may take, and all of them: the library's own retries would take minutes.
STEP_TIMEOUT = 5.0
DEADLINE = 10.0


class ModelUnavailable(UserError):  # noqa: N818 - it names a state of affairs, which a run may go on from
    """GPT-2's weights are not on this machine and cannot be downloaded."""


def gpt2_checkpoint() -> Path:
    """A folder with GPT-2 small's `config.json` and `model.safetensors`, downloaded if need be.

    HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE and the rest of the hub's own settings hold. Raises `ModelUnavailable`, with
    the reason alone as its message, within `DEADLINE` seconds if the hub does not answer.
    """
    return _cached_checkpoint() or _downloaded_checkpoint()


def _cached_checkpoint() -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for repository in NAMES_IN_THE_CACHE:
        found = [path for file in FILES if isinstance(path := try_to_load_from_cache(repository, file), str)]
        if len(found) == len(FILES):
            return Path(found[0]).parent
    return None


def _downloaded_checkpoint() -> Path:
    from huggingface_hub import hf_hub_download

    _check_that_the_hub_answers()
    try:
        paths = [Path(hf_hub_download(REPOSITORY, file)) for file in FILES]
    except Exception as error:  # whatever the hub's library and its transport raise, the reason is in the message
        raise ModelUnavailable(first_line(error)) from error
    return paths[0].parent


def _check_that_the_hub_answers() -> None:
    """Ask for the first byte of the weights, in a thread: not even a name server that hangs can hold us longer."""
    from huggingface_hub import get_session, hf_hub_url

    url = hf_hub_url(REPOSITORY, WEIGHTS)
    answers: list[str | None] = []

    def ask() -> None:
        try:
            get_session().get(url, headers={"Range": "bytes=0-0"}, timeout=STEP_TIMEOUT).raise_for_status()
            answers.append(None)
        except Exception as error:  # as above
            answers.append(first_line(error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    reason = answers[0] if answers else f"no answer within {DEADLINE:.0f} s"
    if reason is not None:
        raise ModelUnavailable(f"{url}: {reason}")
