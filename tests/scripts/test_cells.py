"""The scripts as an editor's interactive window runs them: cell by cell in a Jupyter kernel, some of them again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager

from path_patching.files import ROOT
from reproduction.run import read_artifacts
from tests.helpers.experiments import random_gpt2

TIME_LIMIT = 120  # seconds for a cell


@dataclass(frozen=True)
class Window:
    """An interactive window; `run` gives what a cell printed and showed, by mime type, and fails if it raised."""

    client: BlockingKernelClient

    def run(self, cell: str) -> list[str]:
        said: list[str] = []

        def hear(message: dict) -> None:
            content = message["content"]
            if message["msg_type"] == "error":
                pytest.fail(f"{cell.splitlines()[0]}: {content['ename']}: {content['evalue']}")
            said.extend([content["text"]] if "text" in content else content.get("data", {}))

        self.client.execute_interactive(cell, output_hook=hear, timeout=TIME_LIMIT)
        return said


@pytest.fixture
def window(tmp_path, monkeypatch) -> Iterator[Window]:
    monkeypatch.setenv("TENSORS_CACHE_DIR", str(tmp_path / "tensors"))
    manager = KernelManager()
    manager.start_kernel(cwd=str(ROOT))
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(TIME_LIMIT)
    yield Window(client)
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def cells_of(script: str, settings: str, changed: str) -> list[str]:
    """A script's cells, with its settings changed as a user would."""
    text = (ROOT / f"{script}.py").read_text()
    assert text.count(settings) == 1
    return re.split(r"(?m)^(?=# %%)", text.replace(settings, changed))[1:]


def test_the_cells_of_an_experiment_and_of_its_figures_run_in_a_window(tmp_path, window):
    model, out, plots = random_gpt2(tmp_path / "mine"), tmp_path / "out", tmp_path / "plots"
    window.run("from pathlib import Path")
    settings = f"DiscoverySettings(model={str(model)!r}, n=97, out=Path({str(out)!r}))"
    cells = cells_of("circuit_discovery", "DiscoverySettings(n=490)", settings)
    for cell in [*cells[:2], *cells]:  # the first ones once more, as after a change of the settings
        window.run(cell)
    made = read_artifacts(out, "circuit_discovery")
    assert made.record["settings"]["n"] == 97
    assert "ipp_logits.pt" in made.record["artifacts"]

    settings = f"PlotSettings(artifacts=Path({str(out)!r}), out=Path({str(plots)!r}))"
    first, *others = cells_of("circuit_discovery_plotting", "PlotSettings()", settings)
    window.run(first)
    shown = [said for cell in others[:3] for said in window.run(cell)]
    assert shown.pop(0) == "left out: the figures of big_ds_experiments.py, which was not run\n"
    assert shown == 2 * ["application/vnd.plotly.v1+json"]
    window.run(others[-1])
    assert (plots / "probability-heatmap.html").is_file()


@pytest.mark.parametrize("script", [path.stem for path in sorted(ROOT.glob("*.py")) if "\n# %%" in path.read_text()])
def test_a_script_begins_with_a_cell_so_that_its_imports_are_in_one(script):
    before, *_ = re.split(r"(?m)^(?=# %%)", (ROOT / f"{script}.py").read_text())
    assert re.fullmatch(r'""".*"""\s*', before, re.DOTALL)
