"""A progress bar for what takes long: in a terminal, and in a notebook without widgets."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeVar

from tqdm import TqdmWarning, tqdm

T = TypeVar("T")
SECONDS_BEFORE_A_BAR = 2.0

# In a notebook, the libraries that we import later ask for ipywidgets, which nothing here needs.
warnings.filterwarnings("ignore", "IProgress not found", TqdmWarning)


def progress(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate over `items` with a bar once the loop has taken two seconds.

    There is none for a single item, and none where the output is neither a terminal nor a notebook.
    """
    length = len(items) if total is None and isinstance(items, Sized) else total
    if length == 1:
        return iter(items)
    # A notebook cannot move up a line: a bar within a bar takes its line for as long as it is there.
    where: dict[str, Any] = {"position": 0, "disable": False} if _in_notebook() else {"disable": None}
    bar = tqdm(items, desc=description, total=total, delay=SECONDS_BEFORE_A_BAR, leave=False, **where)
    return iter(bar)


def bars_of_downloads() -> dict[str, Any]:
    """What the Hugging Face hub has to be told so that its bars show: in a notebook it has none without widgets."""
    return {"tqdm_class": tqdm} if _in_notebook() else {}


def _in_notebook() -> bool:
    """Whether a bar is printed in a notebook, which says that it is no terminal."""
    kernel = sys.modules.get("ipykernel.iostream")
    return kernel is not None and isinstance(sys.stderr, kernel.OutStream)
