"""`neuron_investigations.py` and `neuron_plots.py`, as a user runs them."""

from __future__ import annotations

import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch

from dataset import NOUNS_FILE, YearDataset, get_valid_years
from path_patching.files import ROOT
from path_patching.gpt2.model import Architecture, random_model
from path_patching.gpt2.tokenizer import CACHE, load_tokenizer
from reproduction.plots import Plots
from reproduction.run import read_artifacts, start_run
from reproduction.settings import Settings
from tests.helpers.checkpoints import save_checkpoint
from tests.helpers.scripts import output, run_script

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
def standin(standin_made, tmp_path_factory):
    """The default layer, and the stand-in's last one."""
    folder = tmp_path_factory.mktemp("standin")
    shutil.copytree(standin_made("neuron_investigations").folder, folder / "out")
    assert "strongest neurons of m11" in output(investigate(folder, "standin", "--layer", "11"))
    return folder


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


def test_artifacts_of_the_stand_in(standin):
    check_artifacts(standin / "out", 480)
    check_artifacts(standin / "out" / "m11", 480)
    named = {
        folder: read_artifacts(standin / folder, "neuron_investigations").number("mlp/name")
        for folder in ("out", "out/m11")
    }
    assert named == {"out": "m10", "out/m11": "m11"}


def test_every_figure_of_the_stand_in_is_drawn_and_named_by_layer_where_it_is_not_the_default(standin):
    assert "left out" not in output(plot(standin)) + output(plot(standin, "--layer", "11"))
    assert drawn(standin) == FIGURES | {f"appendix/m11-{Path(name).name}" for name in FIGURES}
    for name in drawn(standin):
        text = (standin / "plots" / f"{name}.html").read_text()
        assert "stand-in (not GPT-2 small)" in text
        assert ("m11" if "m11" in name else "m10") in text


def test_a_layer_that_was_not_investigated_is_one_line(standin):
    failed = plot(standin, "--layer", "3")
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
    assert drawn[0].startswith("left out: what is made for each YY; of 5 sentences")
    assert len(drawn) == 2, "and that only HTML is written"
    assert [path.stem for path in (tmp_path / "plots").rglob("*.html")] == ["neuron-ranking"]


def test_a_layer_that_the_model_lacks_is_one_line(two_layers):
    failed = investigate(two_layers, two_layers / "model", "--layer", "2")
    assert failed.returncode == 1
    assert failed.stderr == "error: --layer 2: model has the layers 0 to 1\n"
    assert not (two_layers / "out" / "m2").exists()


def test_no_ranking_but_gpt2_s_goes_to_cache(standin, two_layers):
    assert not (CACHE / "order.pt").exists() or len(torch.load(CACHE / "order.pt", weights_only=True)) == 3072


@pytest.fixture
def figures_of_counted_neurons(tmp_path, monkeypatch):
    """The figures of neurons each of which writes y to year y and, patched, loses 2 y; the eleventh, and those after
    the two-hundredth, are never part of a sum, and write a thousand times as much."""
    dataset = YearDataset(get_valid_years(load_tokenizer()), N, NOUNS_FILE, load_tokenizer())
    run = start_run(
        "neuron_investigations", Settings(out=tmp_path), random_model(Architecture(1, 1, 4, 4, 4, 4, 4)), "torch", "cpu"
    )
    years = torch.arange(100.0)
    lens, alone = years.repeat(210, N, 1), 2 * years.repeat(11, N, 1)
    lens[200:] *= 1000
    alone[10:] *= 1000
    run.save("neuron_dataset.pt", dataset.as_artifact(), kind="test")
    run.save("order.pt", torch.arange(300).flip(0), kind="test")
    run.save("neuron_effects.pt", torch.linspace(0, -1, 300, dtype=torch.float64), kind="test")
    run.save("t10-logitlens.pt", lens, kind="test")
    run.save("t10-direct_effects.pt", alone, kind="test")
    run.save("t10-t10patched.pt", 15 * years.repeat(N, 1), kind="test")
    run.note("mlp/name", "m10", "mlp")
    run.publish()
    found = {}
    monkeypatch.setattr(Plots, "write", lambda plots, figure, name: found.update({name: figure}))
    monkeypatch.setattr(
        sys, "argv", ["neuron_plots.py", "--artifacts", str(tmp_path), "--out", str(tmp_path / "plots")]
    )
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # the script sets it
    runpy.run_path(str(ROOT / "neuron_plots.py"))
    return found


def panels(figure) -> dict[str, torch.Tensor]:
    """A figure's heatmaps by their titles."""
    titles = [note.text for note in figure.layout.annotations][: len(figure.data)]
    return {title: torch.as_tensor(trace.z) for title, trace in zip(titles, figure.data, strict=True)}


def test_each_figure_sums_exactly_as_many_neurons_as_its_title_says(figures_of_counted_neurons):
    expected = {
        "top10-neurons-logitlenssum": {"sum of the top 10": 10},
        "top100-neurons": {"sum of the top 100": 100, "sum of the top 200": 200},
        "top10-neurons-directeffects": {"sum of the top 10, each patched alone": 20, "top 10 patched together": 15},
    }
    for name, sums in expected.items():
        found = panels(figures_of_counted_neurons[name])
        assert found.keys() == sums.keys()
        for title, count in sums.items():
            assert torch.equal(found[title], count * torch.arange(100.0, dtype=found[title].dtype).repeat(97, 1)), title


def test_neurons_are_drawn_in_the_order_of_their_ranks(figures_of_counted_neurons):
    assert list(panels(figures_of_counted_neurons["top3-neurons"])) == ["m10.n299", "m10.n298", "m10.n297"]
    assert list(panels(figures_of_counted_neurons["appendix/neurons"])) == [
        f"m10.n{299 - rank}" for rank in range(3, 11)
    ]
    ranking = figures_of_counted_neurons["appendix/neuron-ranking"]
    lowered, raised = (torch.as_tensor(trace.y) for trace in ranking.data)
    assert (lowered[:-1].diff() < 0).all()
    assert torch.isnan(raised).all()
    assert ranking.layout.yaxis.type == "log"
