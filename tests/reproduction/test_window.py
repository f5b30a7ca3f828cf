"""After each cell of a window come the figures of what it has saved, and only there."""

from __future__ import annotations

import pytest
import torch

from path_patching.gpt2.model import Architecture, random_model
from reproduction import window
from reproduction.run import Run, start_run
from reproduction.settings import Settings

MODEL = random_model(Architecture(1, 1, 4, 4, 8, 16, 10))


@pytest.fixture
def cells(tmp_path, monkeypatch):
    """A run, what ends a cell of it, and the figures that were shown."""
    ends, shown = [], []
    monkeypatch.setattr(window, "after_each_cell", ends.append)
    monkeypatch.setattr(window, "show", shown.append)
    run = start_run("circuit_discovery", Settings(model="standin", out=tmp_path), MODEL, "torch", "cpu")
    window.show_what_cells_make(run)
    return run, ends[0], shown


def sweep(run: Run, receiver: str, **about: object) -> None:
    run.save(f"{receiver}.pt", torch.rand(1, 2), kind="sweep", position="END", receiver=receiver, **about)


def test_a_cell_shows_what_it_has_saved_a_figure_for_each_kind(cells):
    run, end_cell, shown = cells
    sweep(run, "logits")
    run.save("order.pt", torch.rand(2), kind="ranking")
    end_cell(True)
    assert [each.layout.title.text for each in shown] == [
        "Path patching: node at END → logits, random (seed 0) (not GPT-2 small)"
    ]
    shown.clear()
    run.publish()
    end_cell(True)
    assert shown == [], "it was shown before"

    sweep(run, "m1")
    sweep(run, "m0")
    run.save("lens.pt", torch.rand(97, 100), kind="logit_lens", of="head", node="a0.h0")
    end_cell(True)
    sweeps, lens = shown
    assert [each.text for each in sweeps.layout.annotations[:2]] == ["node at END → m1", "node at END → m0"]
    assert "Logit lens: a0.h0" in lens.layout.title.text


def test_a_script_that_is_run_in_a_window_shows_nothing(cells, monkeypatch):
    run, end_cell, shown = cells
    monkeypatch.setattr("reproduction.run._cell_of", lambda file: {"cell": f"{file}:1"})
    sweep(run, "logits")
    end_cell(True)
    assert shown == []
