"""How a script behaves in a terminal: errors are one line, and a character that cannot be printed does not stop it.

This module imports nothing that takes long or may be missing.
"""

from __future__ import annotations

import atexit
import builtins
import errno
import gc
import io
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = (ROOT, ROOT / "examples", ROOT / "benchmarks")  # the folders of ours
OURS = ("path_patching", "reproduction", "dataset", "utils", "color_utils", "colour_model", "benchmarks")
FULL = (errno.ENOSPC, errno.EDQUOT)
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
REQUIREMENTS = ROOT / "requirements.txt"
INSTALL = f"use the .venv of make figures, or {sys.executable} -m pip install -r {REQUIREMENTS}"
COLLECTED_AFTER = gc.get_threshold()
WHILE_IMPORTING = 100_000  # new objects, which nearly all stay: looking through them takes a fifth of importing PyTorch
STARTED = time.monotonic()  # a script imports this first
INTERRUPTED = "interrupted: what was published before is as it was"


def begin() -> None:
    """`prepare` one of our scripts before its imports; until `imports_are_done`, Ctrl-C ends it at once.

    A library that is interrupted while it is imported may ignore that, or raise another error. Until then
    garbage is rarely looked for. In a window, a cell that is interrupted is one line from here on.
    """
    program = getattr(sys.modules["__main__"], "__file__", None)
    if in_interactive_window():
        _shorten_interrupts()
        return
    if program is None or Path(program).resolve().parent not in SCRIPTS:
        return
    explain_errors()
    gc.set_threshold(WHILE_IMPORTING)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end_at_once)


def prepare() -> None:
    """From here on, after the imports, an error that the user can mend ends the script with one line."""
    imports_are_done()
    explain_errors()


def imports_are_done() -> None:
    """From here on, Ctrl-C lets the script tidy up; what a script calls first after its imports says so.

    What is there now is not looked through for garbage again, neither later nor at the end.
    """
    gc.set_threshold(*COLLECTED_AFTER)
    if not in_interactive_window():
        _keep_what_is_there()
    if signal.getsignal(signal.SIGINT) is _end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@cache
def _keep_what_is_there() -> None:
    """Once in a process. (Asking Python whether it was done takes longer than most of what runs read and write.)"""
    gc.freeze()


def explain_errors() -> None:
    """From here on, an error that the user can mend ends the script with one line."""
    if in_interactive_window() or sys.excepthook is exit_on_user_error:
        return
    sys.excepthook = exit_on_user_error
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
        atexit.register(_flush)


def seconds_so_far() -> float:
    """How long the script, or the window, has been running."""
    return round(time.monotonic() - STARTED, 1)


def in_interactive_window() -> bool:
    """True in a notebook, an editor's interactive window, or at Python's prompt."""
    return hasattr(sys, "ps1") or in_notebook()


def in_notebook() -> bool:
    """True in a notebook or an editor's interactive window, which show figures."""
    kernel = sys.modules.get("ipykernel.kernelapp")  # something else may have imported it
    return kernel is not None and kernel.IPKernelApp.initialized()


def window() -> Any:
    """IPython, if this runs in a notebook or an editor's interactive window; else None."""
    return getattr(builtins, "get_ipython", lambda: None)() if in_interactive_window() else None


def running_cell() -> str:
    """The text of the window's cell that runs now; empty outside of a window."""
    shell = window()
    return shell.user_ns["In"][-1] if shell else ""


def after_each_cell(tell: Callable[[str, bool], None]) -> None:
    """In a window, `tell` the text of each cell, from the present one on, and whether it ran to its end."""
    if shell := window():
        shell.events.register("post_run_cell", lambda result: tell(result.info.raw_cell, result.success))


def arguments_of(script: str) -> list[str] | None:
    """The arguments given to the script of this file; None if `sys.argv` belongs to a kernel.

    In an interactive window they are the script's only after `%run`, or if the editor runs a whole file.
    """
    return None if in_interactive_window() and Path(sys.argv[0]).name != Path(script).name else sys.argv[1:]


def exit_on_user_error(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """An excepthook: a `UserError`, a missing package, a full disk or Ctrl-C is one line instead of a traceback."""
    if isinstance(error, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one does not wait
    if isinstance(error, OSError) and error.filename is None and error.errno in (errno.EPIPE, *FULL):
        _print_no_more()
    line = _in_one_line(error)
    if line is None:
        sys.__excepthook__(kind, error, traceback)
        line = _other_versions()
    if line:
        print(line, file=sys.stderr)


def _in_one_line(error: BaseException) -> str | None:
    """What the user is told about an error, perhaps nothing; None for what may be our own fault."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return ""  # the reader of the output, such as `head`, has closed it
    if hasattr(error, "_render_traceback_"):  # a `UserError`; its module may not have been imported
        return "".join(error._render_traceback_())
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] not in OURS:
        return f"error: {''.join(str(error).splitlines()[:1])}; {INSTALL}"
    if isinstance(error, OSError) and (error.filename is not None or error.errno in FULL):
        place = "" if error.filename is None else f"{error.filename}: "
        return f"error: {place}{error.strerror}{_way_out(error)}"
    return None


def _other_versions() -> str:
    """A note if installed packages differ from requirements.txt; else empty."""
    from importlib import metadata  # imported here, since it takes long

    required = re.findall(r"^([\w-]+)==([\w.]+)", REQUIREMENTS.read_text(encoding="utf-8"), re.MULTILINE)
    others = []
    for name in dict.fromkeys(name for name, _ in required):
        with suppress(metadata.PackageNotFoundError):
            version = metadata.version(name)
            others += [f"{name} {version}"] if (name, version.partition("+")[0]) not in required else []
    return f"note: {', '.join(others)}: not the versions that are needed; {INSTALL}" if others else ""


def _way_out(error: OSError) -> str:
    if error.errno in FULL:
        return "; free space or choose another folder"
    return "; mend its permissions or choose another" if error.errno in NOT_ALLOWED else ""


def _shorten_interrupts() -> None:
    """From here on, a cell of IPython that is interrupted says so in one line instead of a traceback."""

    def show(shell: Any, kind: type[BaseException], error: BaseException, trace: TracebackType, tb_offset: Any) -> None:
        shell._showtraceback(kind, error, [INTERRUPTED])

    if shell := window():
        shell.set_custom_exc((KeyboardInterrupt,), show)


def _end_at_once(signal_number: int, frame: FrameType | None) -> None:
    print(INTERRUPTED, file=sys.stderr)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.raise_signal(signal.SIGINT)


def _flush() -> None:
    """Print what is left before Python does at its end: Python would fail with other words and another status."""
    try:
        sys.stdout.flush()
    except OSError as error:
        exit_on_user_error(type(error), error, None)
        os._exit(1)


def _print_no_more() -> None:
    """Drop what is still to be printed; otherwise Python would try again at its end, and fail in its own words."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
