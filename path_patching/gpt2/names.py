"""What a model's name means: GPT-2 small, the stand-in, another GPT-2 of the Hugging Face hub, or a folder.

`gpt2` and `standin` always mean these two. Any other name means the folder of that name if it exists. A name of the hub
may end in a revision: a branch, a tag or a commit.

    >>> named("distilgpt2").repository
    'distilbert/distilgpt2'
    >>> named("owner/name@v2").revision
    'v2'
    >>> named("./distilgpt2").folder.name
    'distilgpt2'
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from path_patching.errors import one_line
from path_patching.files import checkpoint_folder, told_apart
from path_patching.gpt2 import DATA

A_MODEL = (
    "gpt2, standin, gpt2-medium, gpt2-large, gpt2-xl, distilgpt2, owner/name[@revision] of a GPT-2 on the hub, or a "
    "checkpoint's folder"
)
GPT2_NAME, STANDIN_NAME = "GPT-2 small", "stand-in"
STANDIN_FOLDER = DATA / "standin"

OWNERS = {  # of models whose name needs none
    "gpt2": "openai-community",
    "gpt2-medium": "openai-community",
    "gpt2-large": "openai-community",
    "gpt2-xl": "openai-community",
    "distilgpt2": "distilbert",
}
WORD = r"[A-Za-z0-9][\w.-]*"
ON_THE_HUB = re.compile(
    rf"(?=.{{1,200}}$)(?:(?P<owner>{WORD})/)?(?P<model>{WORD})(?:@(?P<revision>\w[\w./-]*))?", re.ASCII
)


@dataclass(frozen=True)
class Named:
    """A model by its name. It is in a `folder`, or in a `repository` of the hub, at a `revision` or the newest one."""

    name: str
    """The name in records: a model of the hub always has the same one, a folder its absolute path."""
    title: str
    """The name in figures and texts."""
    folder: Path | None = None
    repository: str | None = None
    revision: str | None = None

    def file_name(self, digits: int) -> str:
        """The name of its files and folders; a folder's has some hash digits, since another may have the same name."""
        if self.folder is None or self.name == "standin":
            return self.name.replace("/", "+")
        return told_apart(self.folder, digits)


def named(model: str | Path) -> Named:
    """What the name of a model means. Raises `UserError` for a name that no model can have."""
    name = str(model)
    if name == "standin":
        return Named(name, STANDIN_NAME, folder=STANDIN_FOLDER)
    on_the_hub = _on_the_hub(name)
    if on_the_hub and (name == "gpt2" or not os.path.isdir(name)):
        return on_the_hub
    folder = checkpoint_folder(name)
    return Named(str(folder), one_line(folder.name), folder=folder)


def _on_the_hub(name: str) -> Named | None:
    """The model of the hub that has this name; None if none can have it."""
    found = ON_THE_HUB.fullmatch(name)
    if found is None or not (found["owner"] or found["model"] in OWNERS):
        return None
    model, revision = found["model"], found["revision"]
    owner = found["owner"] or OWNERS[model]
    called = model if OWNERS.get(model) == owner else f"{owner}/{model}"
    whole = f"{called}@{revision}" if revision else called
    return Named(whole, GPT2_NAME if whole == "gpt2" else whole, None, f"{owner}/{model}", revision)
