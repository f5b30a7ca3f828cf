from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from path_patching.bootstrap import Estimate
from path_patching.files import ROOT
from path_patching.gpt2.model import Architecture, random_model
from reproduction.run import start_run
from reproduction.settings import Settings
from tests.helpers.scripts import output, run_script

HISTOGRAM = "appendix/random-circuits"
TINY = Architecture(n_layers=2, n_heads=4, d_model=8, d_head=2, d_mlp=8, n_positions=16, vocab_size=32)


def publish_random(folder: Path, shares: torch.Tensor, own: float, nothing: float) -> None:
    run = start_run("random_circuit_ablation", Settings(out=folder), random_model(TINY), "torch", "cpu")
    run.save("random_circuits.pt", shares, kind="shares_of_clean")
    run.note("circuit/name", "a circuit of a test", "circuit")
    own_share = Estimate(own, own, own, 97)
    run.note("late_half/probability_difference/share_of_clean", own_share, "circuit's share of clean")
    run.note("corrupted/probability_difference/share_of_clean", nothing, "share of clean with all on 01 data")
    run.publish()


@pytest.fixture
def draw(tmp_path):
    """Runs the script on `tmp_path / "artifacts"`, into `tmp_path / "plots"`, HTML alone."""

    def run() -> subprocess.CompletedProcess[str]:
        flags = ["--artifacts", str(tmp_path / "artifacts"), "--out", str(tmp_path / "plots")]
        return run_script(ROOT / "appendix_plots.py", *flags, images=False)

    return run


def drawn(folder: Path) -> set[str]:
    return {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.html")}


def test_the_histogram_names_the_model_and_the_circuit(tmp_path, draw):
    publish_random(tmp_path / "artifacts", torch.linspace(-0.6, 0.4, 200, dtype=torch.float64), 0.9, -0.7)
    assert "figures of sequence_generalization.py, which was not run" in output(draw())
    text = (tmp_path / "plots" / f"{HISTOGRAM}.html").read_text()
    for said in ("random (seed 0)", "a circuit of a test", "90 %"):
        assert said in text


@pytest.mark.parametrize(("own", "nothing", "spread"), [(1.0, 1.0, 0.0), (1.0, 1.0004, 1e-4), (-3.5e4, 12.0, 7e5)])
def test_shares_of_any_size_are_drawn(tmp_path, draw, own, nothing, spread):
    publish_random(tmp_path / "artifacts", own + spread * torch.randn(20, dtype=torch.float64), own, nothing)
    assert "figures of sequence_generalization.py, which was not run" in output(draw())
    assert drawn(tmp_path / "plots") == {HISTOGRAM}


def test_damaged_artifacts_are_refused_before_anything_is_drawn(tmp_path, draw):
    publish_random(tmp_path / "artifacts", torch.zeros(5), 0.9, -0.7)
    torch.save(torch.ones(5), tmp_path / "artifacts" / "random_circuits.pt")
    failed = draw()
    assert failed.returncode == 1
    assert "run python random_circuit_ablation.py again" in failed.stderr
    assert drawn(tmp_path / "plots") == set()


def test_no_runs_are_one_line(tmp_path, draw):
    failed = draw()
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: ")
    assert len(failed.stderr.splitlines()) == 1
    assert "run python sequence_generalization.py" in failed.stderr
