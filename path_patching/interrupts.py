"""Delaying Ctrl-C and requests to end (SIGTERM) while something must not be interrupted."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Within it, Ctrl-C and SIGTERM wait; they take effect at its end."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals go to the main thread
        return
    came: list[int] = []
    handlers = {held: signal.getsignal(held) for held in (signal.SIGINT, signal.SIGTERM)}
    earlier = {held: handler for held, handler in handlers.items() if handler is not None}  # None: not Python's
    for held in earlier:
        signal.signal(held, lambda which, _: came.append(which))
    try:
        yield
    finally:
        for held, handler in earlier.items():
            signal.signal(held, handler)
        for which in dict.fromkeys(came):
            signal.raise_signal(which)
