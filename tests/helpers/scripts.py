"""Running the repository's scripts, and pieces of Python, as a user would: in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from path_patching.files import ROOT


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
