"""Running the repository's scripts, and pieces of Python, as a user would: in this process or in one of their own."""

from __future__ import annotations

import atexit
import io
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

import pytest

from path_patching.errors import UserError
from path_patching.files import ROOT
from reproduction import figures, rendering


def run_python(
    *arguments: str,
    settings: dict[str, str] | None = None,
    cwd: Path | None = None,
    preexec_fn: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run Python with the repository's modules at hand, on one core.

    The caller's hub settings and proxies are left out; `settings` are environment variables to add.
    """
    kept = {n: v for n, v in os.environ.items() if not n.startswith("HF_") and not n.lower().endswith("_proxy")}
    return subprocess.run(
        [sys.executable, *arguments],
        env=kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | (settings or {}),
        cwd=cwd,
        preexec_fn=preexec_fn,
        capture_output=True,
        text=True,
        check=False,
    )


def run_script(
    script: Path, *arguments: str, settings: dict[str, str] | None = None, images: bool = True
) -> subprocess.CompletedProcess[str]:
    """A script in this process, which has imported already what it needs; with what it printed and its exit status.

    What it does at the end of its process is done. `settings` are environment variables to add, and the caller's hub
    settings are left out. Without `images`, kaleido does not start: PDF and PNG take longer than all else.
    """
    printed, complained, at_exit = io.StringIO(), io.StringIO(), []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", [str(script), *arguments])
        patched.setattr(sys, "excepthook", sys.excepthook)  # scripts set it
        patched.setattr(atexit, "register", lambda call, *args, **named: at_exit.append(partial(call, *args, **named)))
        for name in [name for name in os.environ if name.startswith("HF_")]:
            patched.delenv(name)
        for name, value in (settings or {}).items():
            patched.setenv(name, value)
        if not images:
            # Where it is looked up: figures holds the renderer that it found when it was first imported.
            for module in (rendering, figures):
                patched.setattr(module, "render", _no_renderer)
        rendering.renderer_starts.cache_clear()
        with redirect_stdout(printed), redirect_stderr(complained):
            status = _run_as_main(script)
            for call in reversed(at_exit):
                call()
    rendering.renderer_starts.cache_clear()
    return subprocess.CompletedProcess([str(script), *arguments], status, printed.getvalue(), complained.getvalue())


def _no_renderer(*_: object) -> bytes:
    raise UserError("no renderer is wanted; ask for images")


def _run_as_main(script: Path) -> int:
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except Exception:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def output(run: subprocess.CompletedProcess[str]) -> str:
    """What a run that must succeed printed."""
    assert run.returncode == 0, run.stderr
    return run.stdout


def error_line(run: subprocess.CompletedProcess[str]) -> str:
    """The one line with which a run that must fail ended, having printed nothing else."""
    assert run.returncode == 1, run.stderr
    assert run.stdout == ""
    lines = run.stderr.splitlines()
    assert len(lines) == 1, run.stderr
    assert lines[0].startswith("error: ")
    return lines[0]
