"""Full float32 precision, whatever the caller's settings: path patching measures small differences.

>>> with torch.autocast("cpu"), full_precision():
...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
torch.float32
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock

import torch

# What may round a float32 matrix product, on a GPU and on a CPU.
PRODUCTS = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]  # it has one
FULL = ("ieee", "none")  # set to full, and not set


class _Settings:
    """The settings that all threads share: full while a thread needs it, then the caller's again."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._needed_by = 0
        self._callers = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._needed_by:
                self._make_full()
            self._needed_by += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._needed_by -= 1
            if not self._needed_by:
                self._callers.close()

    def _make_full(self) -> None:
        for product in PRODUCTS:
            if product.fp32_precision not in FULL:
                self._callers.callback(setattr, product, "fp32_precision", product.fp32_precision)
                product.fp32_precision = FULL[0]
        self._callers.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float32)


_SETTINGS = _Settings()


@contextmanager
def full_precision() -> Iterator[None]:
    """Within it, matrix products are not rounded below float32, nothing is cast, and new tensors are float32.

    The caller's settings hold again when the last thread has left it.
    """
    with ExitStack() as stack:
        for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(_SETTINGS)
        yield
