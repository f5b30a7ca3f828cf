"""PDF and PNG of a figure by kaleido 0.2.1, which has its own renderer: a process that makes each picture."""

from __future__ import annotations

import atexit
import concurrent.futures
import math
import os
import re
import shutil
import tempfile
import threading
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import plotly.io

from path_patching.errors import UserError

PNG_SCALE = 2
SECONDS_TO_ANSWER = 60.0  # a figure takes a few
TIMES_ASKED = 2  # sometimes a renderer stops answering; a new one then works


@cache
def renderer_starts() -> bool:
    """Whether PDF and PNG can be rendered here; if not, one line says why, once."""
    # The default is a script on a CDN: no figure needs it, and a machine without a network would wait for it.
    plotly.io.defaults.mathjax = None
    is_kaleido_0 = hasattr(plotly.io.kaleido.scope, "executable_path")
    if is_kaleido_0 and os.name == "posix":
        with suppress(OSError, ValueError):  # rendering will say what is wrong
            _avoid_spaces()
    try:
        render(go.Figure(), "png")
    except UserError as error:
        why, _, _ = str(error).partition(";")
        reason = why if is_kaleido_0 else "PDF and PNG need pip install kaleido==0.2.1"
        print(f"only HTML is written: {reason} (those there may be of earlier runs)")
        return False
    return True


def render(figure: go.Figure, kind: str) -> bytes:
    """The figure as "pdf" or "png" bytes. Raises `UserError` if the renderer fails or does not answer."""
    with warnings.catch_warnings():
        # For every figure, plotly 6 says that kaleido 0 is deprecated; kaleido 1 would need a browser on the machine.
        warnings.simplefilter("ignore", DeprecationWarning)
        if kind != "pdf":
            return _image(figure, format=kind, scale=PNG_SCALE)
        # At many sizes kaleido rounds the page too small, and an empty page follows; rarely at multiples of 4 pixels.
        width, height = (math.ceil(side / 4) * 4 for side in (figure.layout.width, figure.layout.height))
        for more in range(0, 40, 4):
            pdf = _image(figure, format=kind, width=width, height=height + more)
            if n_pages(pdf) == 1:
                break
        return pdf


def n_pages(pdf: bytes) -> int:
    """The number of pages of a PDF whose page objects are not compressed, like Chromium's."""
    return len(re.findall(rb"/Type\s*/Page\b", pdf))


def _avoid_spaces() -> None:
    """Start kaleido through links without spaces: its shell script splits paths at spaces."""
    scope = plotly.io.kaleido.scope
    program, script = Path(scope.executable_path()), Path(scope.plotlyjs)
    if " " not in f"{program}{script}":
        return
    links = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, links, ignore_errors=True)
    (links / "kaleido").symlink_to(program.parent)
    (links / "plotly").symlink_to(script.parent)
    scope.executable_path = lambda: str(links / "kaleido" / program.name)
    plotly.io.defaults.plotlyjs = str(links / "plotly" / script.name)


def _image(figure: go.Figure, **options: Any) -> bytes:
    """kaleido's picture of a figure; a renderer that does not answer is ended, and a new one is asked."""
    for _ in range(TIMES_ASKED):
        with suppress(concurrent.futures.TimeoutError):
            return _asked(figure, **options)
        _end_renderer()
    raise _no_image(f"no answer in {SECONDS_TO_ANSWER:.0f} s")


def _asked(figure: go.Figure, **options: Any) -> bytes:
    """kaleido's picture of a figure, asked for in a thread, which is abandoned if there is no answer."""
    answer: concurrent.futures.Future[bytes] = concurrent.futures.Future()

    def ask() -> None:
        try:
            answer.set_result(figure.to_image(**options))
        except Exception as error:  # the class depends on what is missing: its program, a shared library, a browser
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answer.result(SECONDS_TO_ANSWER)
    except Exception as error:
        if not answer.done():  # it timed out
            raise
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        # The renderer's own words are last, below a heading.
        raise _no_image(lines[-1] if lines[0].endswith(":") else lines[0]) from None


def _end_renderer() -> None:
    """End the process that does not answer, so that kaleido starts another one next time.

    The thread that waits for it still holds kaleido's lock, so a new lock replaces it.
    """
    scope = plotly.io.kaleido.scope
    process = getattr(scope, "_proc", None)
    if process is not None:
        process.kill()
        scope._proc, scope._proc_lock = None, threading.Lock()


def _no_image(reason: str) -> UserError:
    return UserError(f"kaleido renders no PDF and PNG ({reason}); run again, or uninstall it to have HTML alone")
