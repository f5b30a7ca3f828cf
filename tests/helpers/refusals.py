"""For tests that try anything: it works, or it is refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from path_patching.errors import UserError

T = TypeVar("T")


def unless_refused(make: Callable[[], T]) -> T | None:
    """What `make` gives; `None` if it raised a `UserError`, whose message has to be one line."""
    try:
        return make()
    except UserError as error:
        message = str(error)
    assert message
    assert "\n" not in message
    return None
