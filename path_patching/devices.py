"""Which device a name means, and what is done where its memory is too small.

    >>> resolve_device("auto")  # CUDA where there is some, else the CPU; "cuda" is PyTorch's current CUDA device
    '...'
    >>> resolve_device("cuda:99")
    Traceback (most recent call last):
    path_patching.errors.UserError: device cuda:99: PyTorch sees ...; give ...

What does not fit at once is tried again in halves, and a line says so:

    >>> def sums(rows):  # stands for what needs memory for each of its sentences
    ...     if len(rows) > 50:
    ...         raise torch.OutOfMemoryError
    ...     return engine.clean()[rows].sum(1)
    >>> [len(rows) for rows, _ in in_parts(sums, torch.arange(97), 97, fewer("sentences", "cpu"), "cpu")]
    out of memory on cpu with 97 sentences at a time: trying 48
    [33, 32, 32]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch

from path_patching.errors import UserError

Found = TypeVar("Found")

# What PyTorch says, in a RuntimeError of no class of its own, if the CPU's memory or cuBLAS's is too small.
SIGNS = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory", "STATUS_ALLOC_FAILED")


def resolve_device(device: str | torch.device) -> str:
    """`device` ("auto", "cpu", "cuda", "cuda:i") as "cpu" or "cuda:i", which is how results and records name it.

    Raises `UserError` if it is unknown or not on this machine.
    """
    match = re.fullmatch(r"auto|cpu|cuda(?::([0-9]{1,3}))?", str(device))
    if match is None:
        raise UserError(f"device {device}: give auto, cpu, cuda or cuda:i")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if match[0] == "cpu" or (match[0] == "auto" and not count):
        return "cpu"
    if not count:
        raise UserError(f"device {device}: PyTorch sees no CUDA device; give cpu")
    index = torch.cuda.current_device() if match[1] is None else int(match[1])
    if index >= count:
        seen = "cuda:0 alone" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise UserError(f"device {device}: PyTorch sees {seen}; give one that it sees, or cpu")
    return f"cuda:{index}"


def in_parts(
    compute: Callable[[torch.Tensor], Found], rows: torch.Tensor, at_once: int, halve: Callable[[int], int], device: str
) -> Iterator[tuple[torch.Tensor, Found]]:
    """`rows` (n,) in parts of about one size, up to `at_once` rows, and what `compute` gives for each, not None.

    If the memory of `device` is too small for one, `halve` is told its size, and says how many to try from then on.
    """
    left = rows
    while len(left):
        part = left.tensor_split(-(-len(left) // at_once))[0]
        found = _unless_out_of_memory(partial(compute, part))
        if found is None:
            at_once = halve(len(part))
            if torch.device(device).type == "cuda":
                torch.cuda.empty_cache()
        else:
            left = left[len(part) :]
            yield part, found


def fewer(what: str, device: str) -> Callable[[int], int]:
    """Half as many for `in_parts`, which a line says. Raises `UserError` where there was but one."""

    def halve(tried: int) -> int:
        if tried == 1:
            raise too_small(f"one of the {what}", device)
        print(f"out of memory on {device} with {tried} {what} at a time: trying {tried // 2}")
        return tried // 2

    return halve


def too_small(needed: str, device: str) -> UserError:
    """The error that says that nothing smaller can be tried."""
    return UserError(f"out of memory on {device} with {needed}: free some of it, or give another device")


@contextmanager
def placing(what: str, device: str) -> Iterator[None]:
    """Within it, `what` is brought to a device at once. Raises `UserError` if it does not fit there."""
    try:
        yield
        return
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    raise too_small(what, device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of a GPU or a CPU is too small."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(sign in str(error) for sign in SIGNS)


def _unless_out_of_memory(compute: Callable[[], Found]) -> Found | None:
    """What `compute` gives; None if memory was too small for it. Tensors of the attempt go with the error, here."""
    try:
        return compute()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    return None
