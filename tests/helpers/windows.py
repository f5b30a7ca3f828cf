"""Cells of code in a Jupyter kernel, as an editor's interactive window runs them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager

TIME_LIMIT = 120  # seconds for a cell


@dataclass(frozen=True)
class Window:
    """An interactive window; `run` gives what a cell printed and showed, by mime type, and fails if it raised."""

    client: BlockingKernelClient

    def run(self, cell: str) -> list[str]:
        said, error = self._executed(cell)
        if error:
            pytest.fail(f"{cell.splitlines()[0]}: {error['ename']}: {error['evalue']}")
        return said

    def lines_of_error(self, cell: str) -> list[str]:
        """What is shown of the error that a cell raises."""
        _, error = self._executed(cell)
        return error["traceback"]

    def _executed(self, cell: str) -> tuple[list[str], dict]:
        said: list[str] = []
        error: dict = {}

        def hear(message: dict) -> None:
            content = message["content"]
            if message["msg_type"] == "error":
                error.update(content)
            else:
                said.extend([content["text"]] if "text" in content else content.get("data", {}))

        self.client.execute_interactive(cell, output_hook=hear, timeout=TIME_LIMIT)
        return said, error


@contextmanager
def open_window(folder: Path) -> Iterator[Window]:
    """A window whose kernel runs in a folder, with the environment of this process."""
    manager = KernelManager()
    manager.start_kernel(cwd=str(folder))
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(TIME_LIMIT)
    yield Window(client)
    client.stop_channels()
    manager.shutdown_kernel(now=True)
