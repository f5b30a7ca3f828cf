"""Holding Ctrl-C off while what it would interrupt must not be."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Within it, Ctrl-C waits until all is done."""
    earlier = signal.getsignal(signal.SIGINT)
    if earlier is None or threading.current_thread() is not threading.main_thread():
        yield  # interrupts are somebody else's
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda which, _: came.append(which))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, earlier)
        if came:
            signal.raise_signal(signal.SIGINT)
