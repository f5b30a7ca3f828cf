"""`neuron_investigations.py` and `neuron_plots.py`, as a user runs them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from path_patching.engine import Request
from path_patching.files import ROOT
from path_patching.paths import Node, PathSet
from reproduction.run import read_artifacts
from tests.helpers.checkpoints import save_checkpoint
from tests.helpers.scripts import output, run_script
from utils import start_experiment

N = 97
FIGURES = {
    "top3-neurons", "top3-neurons-directeffects", "top10-neurons-logitlenssum", "top10-neurons-directeffects",
    "top100-neurons", "appendix/neurons", "appendix/neuron-ranking",
}  # fmt: skip


def investigate(folder: Path, model: str | Path, *more: str):
    flags = ("--model", str(model), "--n", str(N), "--engine", "torch", "--out", str(folder / "out"))
    settings = {"TENSORS_CACHE_DIR": str(folder / "tensors")}
    return run_script(ROOT / "neuron_investigations.py", *flags, *more, settings=settings)


def plot(folder: Path, *more: str):
    flags = ("--artifacts", str(folder / "out"), "--out", str(folder / "plots"), *more)
    return run_script(ROOT / "neuron_plots.py", *flags, images=False)


def drawn(folder: Path) -> set[str]:
    plots = folder / "plots"
    return {path.relative_to(plots).with_suffix("").as_posix() for path in plots.rglob("*.html")}


@pytest.fixture(scope="module")
def two_layers(tmp_path_factory):
    """A random model with fewer neurons than the figures sum."""
    folder = tmp_path_factory.mktemp("two-layers")
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 8, "n_positions": 13, "vocab_size": 50257}
    save_checkpoint(folder / "model", **sizes)
    assert "strongest neurons of m0" in output(investigate(folder, folder / "model"))
    return folder


def check_artifacts(folder: Path, n_neurons: int) -> None:
    artifacts = read_artifacts(folder, "neuron_investigations")
    order, effects = artifacts.load("order.pt"), artifacts.load("neuron_effects.pt")
    assert sorted(order.tolist()) == list(range(n_neurons))
    assert (effects[order].abs().diff() <= 0).all()
    assert effects.abs().max() > 1e-7
    data = artifacts.load("neuron_dataset.pt")
    assert set(data) == {"good_toks", "bad_toks", "years", "nouns"}
    lens, alone = artifacts.load("t10-logitlens.pt"), artifacts.load("t10-direct_effects.pt")
    together = artifacts.load("t10-t10patched.pt")
    assert lens.shape == (min(200, n_neurons), N, 100)
    assert alone.shape == (11, N, 100)
    assert together.shape == (N, 100)
    assert (alone[..., 0] == 0).all()
    assert (together[:, 0] == 0).all()
    summed = alone[:10].sum(0)
    # Not equal, since the final LayerNorm's scale changes too, but nearly the same picture.
    assert torch.corrcoef(torch.stack([summed.flatten(), together.flatten()]))[0, 1] > 0.9
    assert not torch.equal(summed, together)
    # A neuron's lens is its activation times one vector: all sentences of a neuron are multiples of each other.
    assert torch.linalg.matrix_rank(lens[0], rtol=1e-5) == 1


def test_artifacts_of_the_stand_in(standin_made):
    made = standin_made("neuron_investigations")
    check_artifacts(made.folder, 480)
    assert made.number("mlp/name") == "m10"


def test_another_layer_has_a_folder_of_its_own(two_layers):
    assert "strongest neurons of m1" in output(investigate(two_layers, two_layers / "model", "--layer", "1"))
    check_artifacts(two_layers / "out" / "m1", 32)
    names = [read_artifacts(two_layers / out, "neuron_investigations").number("mlp/name") for out in ("out", "out/m1")]
    assert names == ["m0", "m1"]


def test_a_layer_that_was_not_investigated_is_one_line(two_layers):
    failed = plot(two_layers, "--layer", "3")
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: no ")
    assert len(failed.stderr.splitlines()) == 1


def test_a_small_model_uses_its_last_layer_but_one_and_sums_no_more_neurons_than_it_has(two_layers):
    check_artifacts(two_layers / "out", 32)
    lines = output(plot(two_layers)).splitlines()
    assert lines[1:] == [f"left out: the sum of the top {count} neurons; m0 has 32" for count in (100, 200)]
    assert drawn(two_layers) == FIGURES - {"top100-neurons"}


def test_with_few_sentences_the_ranking_alone_is_drawn(two_layers, tmp_path):
    settings = {"TENSORS_CACHE_DIR": str(two_layers / "tensors")}
    flags = ("--model", str(two_layers / "model"), "--n", "5", "--engine", "torch", "--out", str(tmp_path / "out"))
    output(run_script(ROOT / "neuron_investigations.py", *flags, settings=settings))
    flags = ("--artifacts", str(tmp_path / "out"), "--out", str(tmp_path / "plots"))
    drawn = output(run_script(ROOT / "neuron_plots.py", *flags, images=False)).splitlines()
    assert drawn[0].startswith("left out: results by YY; of 5 sentences")
    assert len(drawn) == 2, "and that only HTML is written"
    assert [path.stem for path in (tmp_path / "plots").rglob("*.html")] == ["neuron-ranking"]


def test_a_layer_that_the_model_lacks_is_one_line(two_layers):
    failed = investigate(two_layers, two_layers / "model", "--layer", "2")
    assert failed.returncode == 1
    assert failed.stderr == "error: --layer 2: model has the layers 0 to 1\n"
    assert not (two_layers / "out" / "m2").exists()


def test_every_artifact_is_of_what_its_name_says(two_layers, monkeypatch):
    monkeypatch.setenv("TENSORS_CACHE_DIR", str(two_layers / "tensors"))
    experiment = start_experiment(model=str(two_layers / "model"), n=N, engine="torch")
    made, engine, end = read_artifacts(two_layers / "out", "neuron_investigations"), experiment.engine, experiment.END

    def direct(*nodes: Node) -> Request:
        return Request.patch(PathSet.at(Node.logits(end)).extend(nodes))

    neurons = [Node.neuron(0, neuron, end) for neuron in range(32)]
    clean, whole, *alone = engine.evaluate([Request.clean(), direct(Node.mlp(0, end)), *map(direct, neurons)])
    changes = torch.stack([(experiment.metric(each) - experiment.metric(clean)).mean() for each in [whole, *alone]])
    effects, order = made.load("neuron_effects.pt"), made.load("order.pt").tolist()
    torch.testing.assert_close(effects, changes[1:], rtol=0, atol=1e-6)
    assert order == sorted(range(32), key=lambda neuron: -abs(effects[neuron].item()))
    assert made.number("m0/direct_effect").value == pytest.approx(changes[0].item(), abs=1e-6)
    assert made.number("neurons/direct_effects_summed").value == pytest.approx(changes[1:].sum().item(), abs=1e-5)
    strongest = made.number("neurons/strongest")
    assert [*strongest] == [f"m0.n{neuron}" for neuron in order[:10]]

    def lost(patched: torch.Tensor) -> torch.Tensor:  # of logits relative to year 00's, which need no softmax
        return (clean / clean[:, :1]).log() - (patched / patched[:, :1]).log()

    expected = torch.stack([lost(alone[neuron]) for neuron in order[:11]])
    torch.testing.assert_close(made.load("t10-direct_effects.pt"), expected, rtol=0, atol=1e-5)
    together = lost(engine.evaluate([direct(*(neurons[neuron] for neuron in order[:10]))])[0])
    torch.testing.assert_close(made.load("t10-t10patched.pt"), together, rtol=0, atol=1e-5)
    years = experiment.model.tensors["t.w.unembed_arr"][engine.sentences.answers]  # (100, D)
    lens = engine.writes([neurons[neuron] for neuron in order]) @ years.T
    torch.testing.assert_close(made.load("t10-logitlens.pt"), lens, rtol=1e-4, atol=1e-6)
