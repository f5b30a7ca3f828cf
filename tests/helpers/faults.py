"""Trouble in the middle of file operations: an error, Ctrl-C or the end of the process, before whichever is chosen.

Python announces each of its file operations to audit hooks, wherever in a library it is; a hook that raises stops it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

OPERATIONS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.listdir", "os.scandir"}
OPERATIONS |= {"shutil.rmtree", "tempfile.mkstemp", "tempfile.mkdtemp", "fcntl.flock"}


@dataclass
class Trouble:
    """What happens before the operation of a number, counted from one; `has_come` once it has happened."""

    at: int
    come: Callable[[], None]
    has_come: bool = False
    counted: int = 0


_waiting: list[Trouble] = []  # one at most; a hook cannot be taken out again, so it stays and looks here
_is_hooked: list[bool] = []


def _announced(event: str, arguments: tuple[object, ...]) -> None:
    if not _waiting or event not in OPERATIONS:
        return
    trouble = _waiting[0]
    trouble.counted += 1
    if trouble.counted == trouble.at:
        _waiting.clear()
        trouble.has_come = True
        trouble.come()


@contextmanager
def trouble_before(at: int, come: Callable[[], None]) -> Iterator[Trouble]:
    """Within it, `come` is called before the file operation of this number."""
    if not _is_hooked:
        sys.addaudithook(_announced)
        _is_hooked.append(True)
    trouble = Trouble(at, come)
    _waiting.append(trouble)
    try:
        yield trouble
    finally:
        _waiting.clear()
