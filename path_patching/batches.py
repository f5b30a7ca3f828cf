"""Everything about memory: cutting into batches that fit, halving what does not, keeping activations.

What does not fit at once is tried again in halves, and a line says so:

    >>> found = []
    >>> for part in in_parts(torch.arange(97), 97, "sentences", "cpu"):
    ...     with part:  # in full precision
    ...         if len(part.rows) > 50:  # stands for a memory that is too small
    ...             raise torch.OutOfMemoryError
    ...         found.append(len(part.rows))
    out of memory on cpu with 97 sentences at a time: trying 48
    >>> found
    [33, 32, 32]

An engine works on its distinct pairs of sentences, in as few batches as half of its memory allows:

    >>> batches = Batches(sentences, Memory("cpu", gigabytes=4.0))
    >>> [len(part.rows) for part in batches.parts(needed=3e9)]
    [49, 48]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import RLock
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import torch

from path_patching.defaults import LEAST_GB, MOST_GB
from path_patching.errors import UserError
from path_patching.gpt2.model import Architecture
from path_patching.precision import full_precision
from path_patching.prefixes import distinct_prefixes
from path_patching.progress import progress

if TYPE_CHECKING:
    from path_patching.engine import Sentences

BYTES = 4  # of a float32
PROBABILITY_BYTES = 8  # of a float64

# What PyTorch says, in a RuntimeError of no class of its own, if the CPU's memory or cuBLAS's is too small.
SIGNS = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory", "STATUS_ALLOC_FAILED")

Value = TypeVar("Value")


class LruCache:
    """An LRU cache with a memory limit: when a new value does not fit, the least recently used ones go.

    It has one value for each key, and drops it when nobody else refers to the key. Threads may share the cache.
    """

    def __init__(self) -> None:
        self._values: WeakKeyDictionary[Hashable, tuple[Any, int]] = WeakKeyDictionary()
        self._lock = RLock()

    def get(self, key: Hashable) -> Any:
        """The value of a key; None if it has none."""
        with self._lock:
            if key not in self._values:
                return None
            self._values[key] = found = self._values.pop(key)  # now the most recently used
            return found[0]

    def put(self, key: Hashable, value: object, n_bytes: int, at_most: float) -> None:
        """Keep a value, and drop the least recently used others until all take at most `at_most` bytes."""
        with self._lock:
            self._values.pop(key, None)
            for other in list(self._values):
                if n_bytes + sum(size for _, size in self._values.values()) <= at_most:
                    break
                del self._values[other]
            self._values[key] = value, n_bytes

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._values.clear()


class Memory:
    """How much memory batches may take on a device, and the cache of their activations.

    Raises `UserError` for an impossible amount.
    """

    def __init__(self, device: str, gigabytes: float) -> None:
        if not LEAST_GB <= gigabytes <= MOST_GB:  # NaN fails too
            raise UserError(f"{gigabytes} gigabytes of memory for batches: give a number, as 4.0")
        self.device, self.gigabytes = device, gigabytes
        self.kept = LruCache()

    @property
    def for_activations(self) -> float:
        """Bytes for the activations and the results of a batch: half of the memory."""
        return self.gigabytes * 1e9 / 2

    def halve(self, tried: int, bytes_a_pair: float) -> int:
        """How many pairs to try after `tried` pairs did not fit.

        Lowers `gigabytes` to what so many pairs should need. Everything that is sized by it shrinks too.
        """
        self.kept.clear()
        half = max(1, tried // 2)
        needed = half * bytes_a_pair * 2 / 1e9
        if tried == 1 and self.gigabytes <= needed:
            raise too_small("one pair of sentences", self.device)
        self.gigabytes = min(self.gigabytes / 2, needed)
        print(
            f"out of memory on {self.device} with {tried} pairs of sentences at a time: trying {half}; memory_gb "
            f"{self.gigabytes:.3g} avoids this"
        )
        return half


class Part:
    """Some `rows` (n,) that are tried at once. What is computed from them stands within `with part:`.

    Within it, precision is full and no gradients are kept. If memory runs out, the results are dropped, `fits` is
    False, and the same rows come again in smaller parts. Give tensors no names there: a named tensor would stay in
    memory while smaller parts are tried.
    """

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows
        self.fits = True
        self._within = ExitStack()

    def __enter__(self) -> None:
        self._within.enter_context(full_precision())
        self._within.enter_context(torch.no_grad())

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> bool:
        self._within.close()
        self.fits = error is None or not is_out_of_memory(error)
        return not self.fits


def in_parts(rows: torch.Tensor, at_once: int, what: str | Callable[[int], int], device: str) -> Iterator[Part]:
    """`rows` (n,) in parts of about equal size, at most `at_once` rows each. Each is computed within `with part:`.

    If a part does not fit in the memory of `device`, later parts are half as large, and a line says so: `what` names
    the rows there. Where `what` is a function, it takes the number of rows tried and returns how many to try next.
    Raises `UserError` if a single row does not fit.
    """
    halve = partial(_half, what=what, device=device) if isinstance(what, str) else what
    left = rows
    while len(left):
        part = Part(left.tensor_split(-(-len(left) // at_once))[0])
        yield part
        if part.fits:
            left = left[len(part.rows) :]
            continue
        at_once = halve(len(part.rows))
        if torch.device(device).type == "cuda":
            torch.cuda.empty_cache()


def _half(tried: int, what: str, device: str) -> int:
    if tried == 1:
        raise too_small(f"one of the {what}", device)
    print(f"out of memory on {device} with {tried} {what} at a time: trying {tried // 2}")
    return tried // 2


class Batches:
    """The P distinct pairs of N clean sentences and their twins, in batches whose activations fit in the memory.

    `pairs` (P, 2, T) are sorted, so that the pairs of a batch begin alike. `of_sentence` (N,) is the number of each
    sentence's pair.
    """

    def __init__(self, sentences: Sentences, memory: Memory) -> None:
        pairs = torch.stack([sentences.clean, sentences.corrupted], 1)
        self.pairs, self.of_sentence = pairs.unique(dim=0, return_inverse=True)
        self._memory = memory

    def parts(self, needed: float, bytes_each: int = 0) -> Iterator[Part]:
        """The pairs' numbers, batch by batch.

        The activations of all pairs take `needed` bytes, the results of each pair `bytes_each`. Raises `UserError` if a
        single pair does not fit.
        """
        needed += bytes_each * len(self.pairs)
        n_batches = min(len(self.pairs), math.ceil(needed / self._memory.for_activations))
        at_once = math.ceil(len(self.pairs) / n_batches)
        halve = partial(self._memory.halve, bytes_a_pair=needed / len(self.pairs))
        parts = in_parts(torch.arange(len(self.pairs)), at_once, halve, self._memory.device)
        return progress(parts, f"{n_batches} batches of sentences", n_batches)

    def activations(self, part: Part, compute: Callable[[torch.Tensor, torch.Tensor], Value], n_bytes: int) -> Value:
        """`compute` of clean and corrupted tokens (B, T). The cache keeps the result if the batch is all pairs."""
        is_whole = len(part.rows) == len(self.pairs)
        found: Value | None = self._memory.kept.get(self) if is_whole else None
        if found is None:
            found = compute(*self.pairs[part.rows].unbind(1))
            if is_whole:
                self._memory.kept.put(self, found, n_bytes, self._memory.for_activations)
        return found

    def joined(self, found: list[torch.Tensor]) -> torch.Tensor:
        """The results of all batches, (any, B, ...) each, as one tensor with a row for each sentence: (any, N, ...)."""
        return torch.cat(found, 1)[:, self.of_sentence]

    def sentences_of(self, part: Part) -> torch.Tensor:
        """The numbers (n,) of the sentences whose pairs are in a batch."""
        rows: torch.Tensor = ((self.of_sentence >= part.rows[0]) & (self.of_sentence <= part.rows[-1])).nonzero()[:, 0]
        return rows


def activation_bytes(pairs: torch.Tensor, sizes: Architecture) -> int:
    """How many bytes a forward pass over the prefixes of pairs (P, 2, T) takes for their activations."""
    n_prefixes = len(distinct_prefixes(pairs.flatten(0, 1).unique(dim=0)).tokens)
    widths_each = 3 * sizes.n_layers + 1 + 16  # kept, and at work in one layer
    return BYTES * n_prefixes * sizes.d_model * widths_each


@contextmanager
def placing(what: str, device: str) -> Iterator[None]:
    """Within it, all of `what` is moved to a device. Raises `UserError` if it does not fit there."""
    try:
        yield
        return
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    raise too_small(what, device)


def too_small(needed: str, device: str) -> UserError:
    """The error that says that nothing smaller can be tried."""
    return UserError(f"out of memory on {device} with {needed}: free some of it, or give another device")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of a GPU or a CPU is too small."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(sign in str(error) for sign in SIGNS)
