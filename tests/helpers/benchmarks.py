"""Running a benchmark's command in the test's process: to start one for each measurement takes longer than all else."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from types import ModuleType

import pytest


def run_here(
    main: Callable[[list[str]], None],
    flags: tuple[str, ...],
    measuring: tuple[ModuleType, ...],
    capsys: pytest.CaptureFixture[str],
) -> str:
    """What `main` of a benchmark prints, where these modules measure in this process."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "excepthook", sys.excepthook)  # a command replaces it
        for module in measuring:
            patched.setattr(module, "in_own_process", _measured_here)
        main([*flags])
    return capsys.readouterr().out


def _measured_here(measure: Callable[..., object], *arguments: object, **_: object) -> object:
    with contextlib.redirect_stdout(sys.stderr):
        return measure(*arguments)


def rows_of(printed: str, header: str) -> dict[str, list[str]]:
    """The cells of a printed table by their row's first cell; the table is the one whose header begins so."""
    lines = printed[printed.index(f"| {header} |") :].split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {first: rest for first, *rest in cells[2:]}
