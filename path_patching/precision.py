"""Float32 as PyTorch has it by itself, whatever the caller's settings: path patching lives on small differences.

>>> with torch.autocast("cpu"), full_precision():
...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
torch.float32
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

# What may round a float32 matrix product, on a GPU and on a CPU.
PRODUCTS = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]  # it has one
FULL = ("ieee", "none")  # by name, and by not having been told otherwise


@contextmanager
def full_precision() -> Iterator[None]:
    """Within it, matrix products are not rounded below float32, nothing is cast, and new tensors are float32.

    The caller's settings hold again after it.
    """
    rounded = [product for product in PRODUCTS if product.fp32_precision not in FULL]
    with ExitStack() as stack:
        for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            stack.enter_context(torch.autocast(device, enabled=False))
        for product in rounded:
            stack.callback(setattr, product, "fp32_precision", product.fp32_precision)
            product.fp32_precision = FULL[0]
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float32)
        yield
