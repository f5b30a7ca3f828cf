"""A progress bar for what takes long."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
SECONDS_BEFORE_A_BAR = 2.0


def progress(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate over `items` with a bar once the loop has taken two seconds; none where the output is not a terminal."""
    return iter(tqdm(items, desc=description, total=total, delay=SECONDS_BEFORE_A_BAR, leave=False, disable=None))
