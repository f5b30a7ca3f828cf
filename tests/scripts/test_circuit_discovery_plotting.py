from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from path_patching.errors import UserError
from path_patching.gpt2.model import Architecture, random_model
from reproduction.run import start_run
from reproduction.settings import Settings
from tests.helpers.scripts import run_script

SCRIPT = Path(__file__).parents[2] / "circuit_discovery_plotting.py"
PROMPT = ["<|endoftext|>", "The", "NOUN", "lasted", "from", "the", "year", "XX1", "YY", "to", "the", "year", "XX2"]
FIGURES = {
    "probability-heatmap", "probability-slice", "logits-ipp", "mlps-ipp", "attn-patterns", "all-attention-patterns",
    "attn-logitlens", "mlps-logitlens", "late-half-probability-heatmap", "appendix/full-circuit-probability-heatmap",
    "appendix/m8-ipp", "appendix/m9-ipp", "appendix/m10-ipp", "appendix/m11-ipp", "appendix/low-mlps-ipp",
    "appendix/attn_q", "appendix/attn_k", "appendix/attn_v", "appendix/attn_proportion",
}  # fmt: skip
OF_MANY = {
    "patched-probability-heatmap",
    "appendix/full-patched-probability-heatmap",
    "appendix/complement-probability-heatmap",
}
TINY = Architecture(n_layers=2, n_heads=4, d_model=8, d_head=2, d_mlp=8, n_positions=16, vocab_size=32)


def publish(folder: Path, tensors: dict[str, tuple[tuple[int, ...], dict]], n_layers: int, n_heads: int) -> None:
    """A run of circuit discovery with artifacts of these shapes, of which this is said, and what every run has."""
    generator = torch.Generator().manual_seed(0)
    of_every_run = {
        "probs.pt": ((97, 100), {"kind": "probabilities", "evaluation": "clean"}),
        "ipp_logits.pt": ((n_layers, n_heads + 1), {"kind": "sweep", "of": "logits", "position": "END"}),
    }
    run = start_run("circuit_discovery", Settings(out=folder), random_model(TINY), "torch", "cpu")
    for name, (shape, about) in (of_every_run | tensors).items():
        values = torch.rand(shape, generator=generator) - 0.5 * (about["kind"] == "sweep")
        run.save(name, values, **about)
    patterns = torch.rand(n_layers, n_heads, 20, len(PROMPT), len(PROMPT), generator=generator)
    run.save("attn_patterns_all.pt", {"patterns": patterns.tril(), "prompt": PROMPT}, kind="attention_of_all_heads")
    run.save("dataset.pt", {"years": torch.arange(3)}, kind="sentences")
    run.note("circuit/name", "a circuit of a test", "circuit")
    run.publish()


def publish_big(folder: Path, heatmaps: bool = True) -> None:
    """A run on many sentences, with or without enough of them for heatmaps."""
    generator = torch.Generator().manual_seed(0)
    run = start_run("big_ds_experiments", Settings(out=folder), random_model(TINY), "torch", "cpu")
    run.note("circuit/name", "a circuit of a test", "circuit")
    for evaluation in ("clean", "late_half", "late_half/without", "full_circuit") if heatmaps else ():
        probs = torch.rand(97, 100, generator=generator) / 50
        run.save(f"{evaluation.replace('/', '_')}_probs.pt", probs, kind="probabilities", evaluation=evaluation)
    run.publish()


def publish_gpt2(folder: Path) -> None:
    """All artifacts of spec section 3, at GPT-2 small's numbers of layers and heads. Names of files say nothing."""
    about: list[tuple[tuple[int, ...], dict]] = []
    for layer in range(8, 12):
        about.append(((12, 13), {"kind": "sweep", "of": "mlp", "receiver": f"m{layer}", "position": "END"}))
        about.append(((97, 100), {"kind": "logit_lens", "of": "mlp", "node": f"m{layer}"}))
    for layer in range(4):
        early = {"kind": "sweep", "of": "mlp", "receiver": f"m{layer}", "through": "v", "position": "YY"}
        about.append(((12, 13), early))
    for via, position in {"q": "END", "k": "YY", "v": "YY"}.items():
        about.append(((12, 13), {"kind": "sweep", "of": "heads", "through": via, "position": position}))
    for head in ("a7.h10", "a8.h11", "a9.h1"):
        about.append(((97, 100), {"kind": "logit_lens", "of": "head", "node": head}))
    for head in ("a7.h10", "a8.h11"):
        about.append(((13, 13), {"kind": "attention", "node": head}))
    about.append(((97, 13, 13), {"kind": "attention_by_yy", "node": "a7.h10"}))
    for evaluation in ("late_half", "full_circuit"):
        about.append(((97, 100), {"kind": "probabilities", "evaluation": evaluation}))
    publish(folder, {f"{number}.pt": each for number, each in enumerate(about)}, 12, 12)


def draw(folder: Path, images: bool = False) -> subprocess.CompletedProcess[str]:
    """Run the script on `folder / "artifacts"`, into `folder / "plots"`."""
    flags = ["--artifacts", str(folder / "artifacts"), "--out", str(folder / "plots")]
    return run_script(SCRIPT, *flags, images=images)


def figures_in(folder: Path, kind: str) -> set[str]:
    return {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob(f"*.{kind}")}


def test_every_figure_of_circuit_discovery_is_drawn(tmp_path):
    publish_gpt2(tmp_path / "artifacts")
    publish_big(tmp_path / "artifacts")
    run = draw(tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    assert run.stdout.startswith("only HTML is written")
    assert len(run.stdout.splitlines()) == 1
    assert figures_in(tmp_path / "plots", "html") == FIGURES | OF_MANY
    assert figures_in(tmp_path / "plots", "pdf") == figures_in(tmp_path / "plots", "png") == set()
    for name in FIGURES | OF_MANY:
        text = (tmp_path / "plots" / f"{name}.html").read_text()
        assert "random (seed 0)" in text, f"{name} does not name the model"
        assert "http" not in text
    for name in OF_MANY:
        assert "a circuit of a test" in (tmp_path / "plots" / f"{name}.html").read_text()


@pytest.mark.parametrize(
    ("run", "said"),
    [(None, "the figures of big_ds_experiments.py, which was not run"), (publish_big, "the heatmaps, for")],
)
def test_heatmaps_of_many_sentences_that_were_not_made_are_left_out(tmp_path, run, said):
    publish(tmp_path / "artifacts", {}, 2, 4)
    if run:
        run(tmp_path / "artifacts", heatmaps=False)
    drawn = draw(tmp_path)
    assert drawn.returncode == 0, drawn.stderr
    assert f"left out: {said}" in drawn.stdout
    assert figures_in(tmp_path / "plots", "html") & OF_MANY == set()


def test_figures_of_nodes_that_a_small_model_lacks_are_left_out(tmp_path):
    pytest.importorskip("kaleido", reason="kaleido 0.2.1 is not installed")
    to_m1 = {"kind": "sweep", "of": "mlp", "receiver": "m1", "position": "END"}
    lens = {"kind": "logit_lens", "of": "head", "node": "a1.h3"}
    publish(tmp_path / "artifacts", {"ipp_mlp1.pt": ((2, 5), to_m1), "lens.pt": ((97, 100), lens)}, 2, 4)
    run = draw(tmp_path, images=True)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    drawn = {"probability-heatmap", "probability-slice", "logits-ipp", "mlps-ipp", "appendix/m1-ipp"}
    drawn |= {"all-attention-patterns", "attn-logitlens"}
    for kind in ("html", "pdf", "png"):
        assert figures_in(tmp_path / "plots", kind) == drawn
    left_out = [line for line in run.stdout.splitlines() if line.startswith("left out")]
    assert len(left_out) == len(run.stdout.splitlines())
    assert any("logit lens of MLPs" in line for line in left_out)


def missing(artifacts: Path) -> None:
    (artifacts / "probs.pt").unlink()


def damaged(artifacts: Path) -> None:
    path = artifacts / "attn_patterns_all.pt"
    path.write_bytes(path.read_bytes()[:-10])


def of_another_run(artifacts: Path) -> None:
    torch.save(torch.zeros(2, 5), artifacts / "ipp_logits.pt")


def without_a_record(artifacts: Path) -> None:
    (artifacts / "circuit_discovery.json").unlink()


@pytest.fixture
def earlier(tmp_path):
    """The folder of a run, with a figure of an earlier one beside it."""
    publish(tmp_path / "artifacts", {}, 2, 4)
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "probability-heatmap.html").write_text("earlier")
    yield tmp_path
    assert [path.name for path in (tmp_path / "plots").rglob("*")] == ["probability-heatmap.html"]
    assert (tmp_path / "plots" / "probability-heatmap.html").read_text() == "earlier"


@pytest.mark.parametrize("spoil", [missing, damaged, of_another_run, without_a_record])
def test_spoiled_artifacts_are_refused_and_earlier_figures_stay(earlier, spoil, monkeypatch):
    spoil(earlier / "artifacts")
    arguments = [SCRIPT, "--artifacts", earlier / "artifacts", "--out", earlier / "plots"]
    monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # the script sets it
    with pytest.raises(UserError, match=r"run python circuit_discovery\.py"):
        runpy.run_path(str(SCRIPT))


def test_an_error_is_one_line(earlier):
    missing(earlier / "artifacts")
    run = draw(earlier)
    assert run.returncode != 0
    assert run.stdout == ""
    assert run.stderr.startswith("error: ")
    assert len(run.stderr.splitlines()) == 1
