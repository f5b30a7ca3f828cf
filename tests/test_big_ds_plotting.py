from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from artifacts import start_run
from gpt2 import Architecture, random_model
from settings import Settings
from tests.scripts import error_line, output, run_python
from utils import ROOT

HEATMAPS = {
    "patched-probability-heatmap",
    "appendix/full-patched-probability-heatmap",
    "appendix/complement-probability-heatmap",
}
HISTOGRAM = "appendix/random-circuits"
TINY = Architecture(n_layers=2, n_heads=4, d_model=8, d_head=2, d_mlp=8, n_positions=16, vocab_size=32)


def publish_big(folder: Path, heatmaps: bool = True) -> None:
    generator = torch.Generator().manual_seed(0)
    run = start_run("big_ds_experiments", Settings(out=folder), random_model(TINY), "torch", "cpu")
    run.note("circuit", "a circuit of a test")
    for name in ("clean", "patched", "complement", "full_patched") if heatmaps else ():
        run.save(f"{name}_probs.pt", torch.rand(97, 100, generator=generator) / 50)
    run.publish()


def publish_random(folder: Path, shares: torch.Tensor, own: float, nothing: float) -> None:
    run = start_run("random_circuit_ablation", Settings(out=folder), random_model(TINY), "torch", "cpu")
    run.save("random_circuits.pt", shares)
    run.note("circuit", "a circuit of a test")
    run.note("circuit's share of clean", {"value": own, "low": own, "high": own})
    run.note("share of clean with all on 01 data", nothing)
    run.publish()


@pytest.fixture
def draw(tmp_path):
    """Runs the script on `tmp_path / "artifacts"`, into `tmp_path / "plots"`, without kaleido, which takes longer."""
    (tmp_path / "hiding" / "kaleido").mkdir(parents=True)
    (tmp_path / "hiding" / "kaleido" / "__init__.py").write_text("raise ImportError('hidden')\n")

    def run() -> subprocess.CompletedProcess[str]:
        flags = ["--artifacts", str(tmp_path / "artifacts"), "--out", str(tmp_path / "plots")]
        path = f"{tmp_path / 'hiding'}:{ROOT}"
        return run_python(str(ROOT / "big_ds_plotting.py"), *flags, settings={"PYTHONPATH": path}, cwd=tmp_path)

    return run


def drawn(folder: Path) -> set[str]:
    return {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.html")}


def test_every_figure_is_drawn_and_names_the_model_and_the_circuit(tmp_path, draw):
    publish_big(tmp_path / "artifacts")
    publish_random(tmp_path / "artifacts", torch.linspace(-0.6, 0.4, 200, dtype=torch.float64), 0.9, -0.7)
    assert "left out" not in output(draw())
    assert drawn(tmp_path / "plots") == {*HEATMAPS, HISTOGRAM}
    for name in (*HEATMAPS, HISTOGRAM):
        text = (tmp_path / "plots" / f"{name}.html").read_text()
        assert "random (seed 0)" in text, f"{name} does not name the model"
        assert "a circuit of a test" in text
    assert "90 %" in (tmp_path / "plots" / f"{HISTOGRAM}.html").read_text()


@pytest.mark.parametrize(("own", "nothing", "spread"), [(1.0, 1.0, 0.0), (1.0, 1.0004, 1e-4), (-3.5e4, 12.0, 7e5)])
def test_shares_of_any_size_are_drawn(tmp_path, draw, own, nothing, spread):
    publish_random(tmp_path / "artifacts", own + spread * torch.randn(20, dtype=torch.float64), own, nothing)
    assert "figures of big_ds_experiments.py, which was not run" in output(draw())
    assert drawn(tmp_path / "plots") == {HISTOGRAM}


def test_too_few_sentences_for_heatmaps_are_said(tmp_path, draw):
    publish_big(tmp_path / "artifacts", heatmaps=False)
    printed = output(draw())
    assert "left out: the heatmaps" in printed
    assert "figures of random_circuit_ablation.py, which was not run" in printed
    assert drawn(tmp_path / "plots") == set()


def test_damaged_artifacts_are_refused_before_anything_is_drawn(tmp_path, draw):
    publish_big(tmp_path / "artifacts")
    publish_random(tmp_path / "artifacts", torch.zeros(5), 0.9, -0.7)
    torch.save(torch.ones(5), tmp_path / "artifacts" / "random_circuits.pt")
    assert "run python random_circuit_ablation.py again" in error_line(draw())
    assert drawn(tmp_path / "plots") == set()


def test_no_runs_are_one_line(tmp_path, draw):
    failed = draw()
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: ")
    assert len(failed.stderr.splitlines()) == 1
    assert "run python big_ds_experiments.py" in failed.stderr
