"""What is kept of several owners up to an amount of memory together, that of the one asked longest ago let go first.

>>> kept = Kept()
>>> kept.keep(engine, "its activations", n_bytes=600, at_most=1000)
>>> kept.of(engine)
'its activations'
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")


class Holding(NamedTuple, Generic[T]):
    """What is kept of one owner, and how much memory it takes."""

    what: T
    n_bytes: int


class Kept(Generic[T]):
    """One thing of each owner, in the order in which they were asked for; an owner that is gone leaves nothing."""

    def __init__(self) -> None:
        self._of: WeakKeyDictionary[object, Holding[T]] = WeakKeyDictionary()

    def of(self, owner: object) -> T | None:
        """What is kept of an owner; None if nothing is."""
        found = self._of.pop(owner, None)
        if found is None:
            return None
        self._of[owner] = found  # the latest from now on
        return found.what

    def keep(self, owner: object, what: T, n_bytes: int, at_most: float) -> None:
        """Keep this too, and let go of others until all takes `at_most` bytes together."""
        self._of.pop(owner, None)
        for other in list(self._of):
            if n_bytes + sum(each.n_bytes for each in self._of.values()) <= at_most:
                break
            del self._of[other]
        self._of[owner] = Holding(what, n_bytes)

    def clear(self) -> None:
        """Let go of everything."""
        self._of.clear()
