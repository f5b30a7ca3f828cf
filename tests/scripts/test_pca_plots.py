from __future__ import annotations

import json
import runpy
import sys
from itertools import count as count_from
from pathlib import Path

import numpy as np
import pytest
import torch

from dataset import NOUNS_FILE, YearDataset, get_valid_years
from path_patching.edits import EditedRuns
from path_patching.errors import UserError
from path_patching.files import ROOT
from path_patching.gpt2.tokenizer import load_tokenizer
from path_patching.paths import Node, PathSet
from reproduction.figures import YY, scatter
from reproduction.figures import named as drawn_axis
from reproduction.run import read_artifacts
from tests.helpers.checkpoints import save_checkpoint
from tests.helpers.drawn import Axis, axes_read, bar_title, check_titles, draw, named, panels, publish, subtitle, told
from tests.helpers.experiments import random_gpt2
from tests.helpers.scripts import output, run_script
from utils import collate, prob_diff, start_experiment

EDITS = [*(f"PCA, top {rank}" for rank in (1, 2, 3, 5, 10)), "LEACE, YY as a number", "LEACE, YY as classes"]
WHOLE = ["all, by its mean", "all, by 01 data"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> dict[str, str]:
    return {"TENSORS_CACHE_DIR": str(tmp_path_factory.mktemp("tensors"))}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A random model of 2 layers of 2 heads, which has none of the paper's nodes."""
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 16, "vocab_size": 50257}
    return save_checkpoint(tmp_path_factory.mktemp("random") / "two-layers", **sizes)


@pytest.fixture
def in_process(checkpoint, cache, tmp_path, monkeypatch):
    """Runs the experiments of the random model in this process, into `tmp_path`."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # the script sets it
    monkeypatch.setenv("TENSORS_CACHE_DIR", cache["TENSORS_CACHE_DIR"])

    def run(*arguments: str) -> None:
        given = ["--model", str(checkpoint), "--engine", "torch", "--out", str(tmp_path), *arguments]
        monkeypatch.setattr(sys, "argv", ["pca_experiments.py", *given])
        runpy.run_path(str(ROOT / "pca_experiments.py"))

    return run


def check_run(folder: Path, activations: list[str]) -> dict[str, dict[str, list[float]]]:
    """That a run in `folder` left what it should of these activations. Returns its probability differences."""
    artifacts = read_artifacts(folder, "pca_experiments")
    pca, ablation = artifacts.load("pca.pt"), artifacts.load("pca_ablation.pt")
    assert pca["activations"] == list(ablation["differences"]) == activations
    assert pca["points"].shape == (len(activations), 97, 2)
    torch.testing.assert_close(pca["points"].mean(1), torch.zeros(len(activations), 2, dtype=torch.float64))
    assert (pca["shares"][:, 0] >= pca["shares"][:, 1]).all()
    for by_edit in ablation["differences"].values():
        assert set(by_edit) <= {*EDITS, *WHOLE}
        assert set(by_edit) >= {"PCA, top 1", *EDITS[-2:], *WHOLE}
        controls = {edit: len(differences) - 1 for edit, differences in by_edit.items() if edit in EDITS}
        assert controls.pop("LEACE, YY as classes") == 0, "each YY is fitted on one sentence"
        assert {*controls.values()} == {5}
        assert all(-1 <= each <= 1 for differences in by_edit.values() for each in differences)
    assert ablation["clean"] == artifacts.number("clean/probability_difference").value
    assert artifacts.number("leace_classes/control").startswith("none. Each YY is there once in the ")
    return ablation["differences"]


def drawn(folder: Path, plots: Path) -> None:
    assert output(run_script(ROOT / "pca_plots.py", "--artifacts", str(folder), "--out", str(plots))) == ""
    for name in ("pca", "appendix/pca-ablation"):
        assert all((plots / f"{name}.{kind}").stat().st_size > 1000 for kind in ("html", "pdf", "png"))


def test_a_two_layer_model_by_default(checkpoint, cache, tmp_path):
    folder = tmp_path / "artifacts"
    arguments = ("--model", str(checkpoint), "--n", "97", "--out", str(folder))
    output(run_script(ROOT / "pca_experiments.py", *arguments, settings=cache))
    looked_at = read_artifacts(folder, "pca_experiments").number("looked_at/nodes")
    assert looked_at, "the circuit found automatically has heads"
    kinds = {True: "input of {} at END", False: "output of {} at END"}
    check_run(folder, [*(kinds[name[0] == "m"].format(name) for name in looked_at), "embedding of YY"])
    pytest.importorskip("kaleido", reason="kaleido 0.2.1 is not installed")
    drawn(folder, tmp_path / "plots")


def test_nodes_of_a_circuit(in_process, tmp_path):
    links = {"heads_feed": ["logits", "m1"], "first_below": ["m0"], "further_below": []}
    circuit = {"name": "by hand", "mlps": ["m1"], "heads": ["a0.h0", "a0.h1", "a1.h1"], "studied": ["a0.h1"], **links}
    path = tmp_path / "by-hand.json"
    path.write_text(json.dumps(circuit))
    in_process("--n", "97", "--circuit", str(path))
    check_run(tmp_path, ["input of m1 at END", "output of a0.h1 at END", "embedding of YY"])


def test_every_edit_is_fitted_on_one_half_of_the_sentences_and_measured_on_the_other(in_process, checkpoint, tmp_path):
    in_process("--n", "97", "--nodes", "m1,a1.h0")
    differences = check_run(tmp_path, ["input of m1 at END", "output of a1.h0 at END", "embedding of YY"])
    assert "PCA, top 5" in differences["output of a1.h0 at END"]
    assert "PCA, top 10" not in differences["output of a1.h0 at END"], "a head of 8 dimensions"
    made = read_artifacts(tmp_path, "pca_experiments")
    pca, ablation = made.load("pca.pt"), made.load("pca_ablation.pt")
    experiment = start_experiment(model=str(checkpoint), n=97, engine="torch")
    years = get_valid_years(load_tokenizer(), 1700, 1800)
    dataset = YearDataset(years, 97, NOUNS_FILE, load_tokenizer(), seed=0)
    engine, end, start_yy = experiment.engine_for(dataset), dataset.end, dataset.years_YY
    read = {
        "input of m1 at END": (Node.mlp(1, end), engine.residual(Node.mlp(1, end))),
        "output of a1.h0 at END": (Node.head(1, 0, end), engine.writes([Node.head(1, 0, end)])[0]),
        "embedding of YY": (Node.embeds(experiment.YY), engine.writes([Node.embeds(experiment.YY)])[0]),
    }
    assert pca["activations"] == [*ablation["differences"]] == [*read]
    fitted, held_out = slice(0, None, 2), slice(1, None, 2)
    runs = EditedRuns(experiment.model, dataset.good_toks[held_out], engine.sentences.answers)
    table = made.load("pca_experiments_sentences.csv")
    assert [*table[table["evaluation"] == "clean"]["year"]] == dataset.years[held_out].tolist()

    def measured(probabilities: torch.Tensor) -> float:
        return prob_diff(probabilities, start_yy[held_out]).mean().item()

    clean = measured(engine.clean()[held_out])
    assert ablation["clean"] == pytest.approx(clean, abs=1e-6)
    by_01 = {name: engine.corrupted() for name in read}  # nothing else reaches the logits, but for the head
    head = PathSet.parse("a1.h0 → logits; a1.h0 → m1 → logits", end=end)
    by_01["output of a1.h0 at END"] = engine.patch(head)
    for place, (name, (node, activation)) in enumerate(read.items()):
        known, rest = activation[fitted].double(), activation[held_out].double()
        means = torch.stack([known[start_yy[fitted] == yy].mean(0) for yy in start_yy[fitted].unique()])
        _, _, directions = torch.linalg.svd(means - means.mean(0), full_matrices=False)
        along = (rest - means.mean(0)) @ directions[:1].T @ directions[:1]
        by_mean, without_first = runs.probabilities(node, torch.stack([known.mean(0) - rest, -along]))
        expected = {
            "all, by its mean": measured(by_mean),
            "PCA, top 1": measured(without_first),
            "all, by 01 data": measured(by_01[name][held_out]),
        }
        found = {edit: ablation["differences"][name][edit][0] for edit in expected}
        assert found == pytest.approx(expected, abs=1e-5), name
        change = made.number(f"edited/{node.name}/by_mean/change").value
        assert change == pytest.approx(expected["all, by its mean"] - clean, abs=1e-5)
        by_yy = collate(activation, start_yy).double()
        _, _, directions = torch.linalg.svd(by_yy - by_yy.mean(0), full_matrices=False)
        shown = (by_yy - by_yy.mean(0)) @ directions[:2].T
        torch.testing.assert_close(pca["points"][place].abs(), shown.abs(), rtol=1e-4, atol=1e-5, msg=name)


def test_heads_of_one_dimension_vary_in_one_component(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORS_CACHE_DIR", str(tmp_path / "tensors"))
    model = random_gpt2(tmp_path / "narrow", n_embd=2, n_head=2)
    flags = ("--model", str(model), "--n", "97", "--engine", "torch", "--nodes", "a0.h0", "--out", str(tmp_path / "a"))
    output(run_script(ROOT / "pca_experiments.py", *flags))
    pca = read_artifacts(tmp_path / "a", "pca_experiments").load("pca.pt")
    assert pca["shares"][0].tolist() == [1, 0]
    assert pca["points"][0, :, 1].tolist() == [0] * 97
    output(run_script(ROOT / "pca_plots.py", "--artifacts", str(tmp_path / "a"), "--out", str(tmp_path), images=False))


def test_equal_runs_are_identical(in_process, tmp_path):
    found = []
    for _ in range(2):
        in_process("--n", "97", "--nodes", "m0", "--seed", "3")
        found.append(read_artifacts(tmp_path, "pca_experiments").load("pca_ablation.pt"))
    assert found[0] == found[1]


@pytest.mark.slow
def test_the_paper_s_nodes_on_the_standin(standin_made):
    folder = standin_made("pca_experiments").folder
    names = ["input of m8 at END", "output of a7.h10 at END", "output of a7.h8 at END", "embedding of YY"]
    differences = check_run(folder, names)
    clean = read_artifacts(folder, "pca_experiments").load("pca_ablation.pt")["clean"]
    assert clean > 0.8
    assert differences["input of m8 at END"]["all, by 01 data"][0] < -0.5
    assert differences["embedding of YY"]["all, by its mean"][0] < clean - 0.2
    control = differences["embedding of YY"]["PCA, top 1"][1:]
    assert differences["embedding of YY"]["PCA, top 1"][0] < min(control), "the first component must matter"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--nodes", "m8"), r"m8@12: the model has 2 layers of 2 heads"),
        (("--nodes", "m1,a0.h7"), r"a0\.h7@12: the model has 2 layers of 2 heads"),
        (("--nodes", "m1,logits"), r"--nodes logits: give MLPs and heads"),
        (("--nodes", "embeds"), r"--nodes embeds: give MLPs and heads"),
        (("--nodes", "mlp"), r"'mlp' is not a node; nodes are called m10"),
        (("--nodes", "m01"), r"'m01' is not a node"),
        (("--nodes", "m1,m1"), "--nodes m1,m1: name each node once"),
        (("--circuit", "paper"), r"the paper's circuit has m8, but two-layers has 2 layers of 2 heads"),
        (("--nodes", "m1", "--n", "50"), r"use a balanced data set of at least 97 sentences"),
    ],
)
def test_what_a_user_can_mend_is_a_user_error(in_process, tmp_path, arguments, complaint):
    with pytest.raises(UserError, match=complaint) as raised:
        in_process("--n", "97", *arguments)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.glob("*.pt"))


# The figures


ACTIVATIONS = ["input of m8 at END", "output of a7.h10 at END", "output of a7.h8 at END", "embedding of YY",
               "input of m0 at END"]  # fmt: skip


def publish_pca(folder: Path, count: int, numbers: dict | None = None) -> tuple[dict, dict]:
    """A run that looked at so many activations, the last of them of too few dimensions for one edit."""
    names, number = ACTIVATIONS[:count], count_from(1)
    pca = {"activations": names, "points": told(7, count, 97, 2), "shares": told(30, count, 2, least=0.1)}
    differences = {
        name: {edit: [next(number) / 1000, *(0.8125 - next(number) / 1e5 for _ in range(5))] for edit in EDITS}
        for name in names
    }
    acting = differences[names[0]]["LEACE, YY as classes"]  # whose control acts as the edit itself does
    acting[1:] = [acting[0] - next(number) / 1e5 for _ in range(5)]
    differences = {name: edits | {edit: [next(number) / 1000] for edit in WHOLE} for name, edits in differences.items()}
    del differences[names[-1]]["PCA, top 10"]
    ablation = {"differences": differences, "clean": 0.8125}
    artifacts = {"pca.pt": (pca, {"kind": "pca"}), "pca_ablation.pt": (ablation, {"kind": "edits"})}
    publish("pca_experiments", folder, artifacts, numbers or {})
    return pca, ablation


def test_the_figure_says_where_an_edit_has_no_control(tmp_path):
    why = "none. Each YY is there once"
    publish_pca(tmp_path, 1, {"leace_classes/control": why})
    said = subtitle(draw("pca_plots", tmp_path).figures["appendix/pca-ablation"])
    assert said.endswith(f"; control of “LEACE, YY as classes”: {why}")


@pytest.mark.parametrize("count", [1, 2, 5])
def test_figures_show_each_activation_in_a_panel_of_its_own(tmp_path, count):
    pca, ablation = publish_pca(tmp_path, count)
    figures = draw("pca_plots", tmp_path).figures
    dots = "each dot is the mean of one start year, 1702 … 1798, and labelled with YY where there is room"
    control = "control: as many random dimensions, or YY shuffled before it is erased; dashed: nothing edited"
    control += f"; the control of “LEACE, YY as classes” does as much ({ACTIVATIONS[0]}): the change is no sign of YY"
    check_titles(figures, {
        "pca": ("First two principal components", dots),
        "appendix/pca-ablation": ("Probability difference after an edit", control),
    })  # fmt: skip

    figure, of_pca = figures["pca"], panels(figures["pca"])
    shares = [f"({100 * first:.1f} + {100 * second:.1f} % of variance)" for first, second in pca["shares"].tolist()]
    assert [title for title, _ in of_pca] == [" ".join(each) for each in zip(pca["activations"], shares, strict=True)]
    for (title, trace), points in zip(of_pca, pca["points"].tolist(), strict=True):
        assert [*zip(trace.x, trace.y, strict=True)] == [tuple(point) for point in points], title
        assert [*trace.marker.color] == [*range(2, 99)], "dots are coloured by YY"
        x, y = axes_read(figure, trace)
        assert (x.title, y.title) == ("component 1", "component 2")
    bar = figure.layout.coloraxis
    assert (bar.cmin, bar.cmax, bar_title(figure)) == (2, 98, "YY")

    figure, of_edits = figures["appendix/pca-ablation"], panels(figures["appendix/pca-ablation"])
    groups = [(name, group) for name in pca["activations"] for group in ("edited", "control")]
    assert [(title, trace.name) for title, trace in of_edits] == groups
    assert [trace.showlegend for _, trace in of_edits] == [True, True, *[False] * (2 * count - 2)]
    edits = [edit for edit in (*EDITS, *WHOLE) if count > 1 or edit != "PCA, top 10"]
    rows = {edit: row for row, edit in enumerate(edits)}
    for title, trace in of_edits:
        which, found = slice(1) if trace.name == "edited" else slice(1, None), ablation["differences"][title]
        expected = [(100 * each, rows[edit]) for edit, of_edit in found.items() for each in of_edit[which]]
        np.testing.assert_allclose(np.column_stack([trace.x, trace.y]), expected, err_msg=title)
        assert trace.marker.symbol == ("circle" if trace.name == "edited" else "circle-open")
        assert axes_read(figure, trace) == (
            Axis("probability difference (percentage points)", {}),
            named("", list(rows)),
        )
    assert {(line.x0, line.x1, line.line.dash) for line in figure.layout.shapes} == {(81.25, 81.25, "dash")}
    assert len(figure.layout.shapes) == count


def test_dots_carry_the_years_they_stand_for():
    grid = torch.stack(torch.meshgrid(torch.arange(10.0), torch.arange(10.0), indexing="ij"), -1).reshape(100, 2)[:97]
    figure = scatter({"grid": {"": grid}}, "title", "x", "y", of=YY)
    (dots,) = figure.data
    assert list(dots.text) == [f"{year:02d}" for year in range(2, 99)]
    assert list(dots.marker.color) == list(range(2, 99))
    assert np.array_equal(dots.x, grid[:, 0].numpy())
    bar = figure.layout.coloraxis
    assert (bar.cmin, bar.cmax) == (2, 98)
    assert bar.colorbar.ticktext[0] == "02"


def test_labels_without_room_are_left_out():
    crowd = 0.01 * torch.randn(97, 2, generator=torch.Generator().manual_seed(0))
    crowd[0], crowd[-1] = torch.tensor([-5.0, -5.0]), torch.tensor([5.0, 5.0])
    figure = scatter({"crowd": {"": crowd}}, "title", "x", "y", of=YY)
    labelled = [text for text in figure.data[0].text if text]
    assert {"02", "98"} <= set(labelled)
    assert len(labelled) < 20


def test_rows_of_dots_share_both_axes_and_name_their_groups_once():
    dots = torch.tensor([[1.0, 0.0], [torch.nan, 1.0]])
    panels = {"a": {"edited": dots, "control": dots}, "b": {"edited": dots, "control": dots}}
    figure = scatter(panels, "title", "x", drawn_axis("", ["first", "second"]))
    assert [trace.showlegend for trace in figure.data] == [True, True, False, False]
    assert list(figure.layout.yaxis.ticktext) == ["first", "second"]
    assert figure.layout.yaxis.range == figure.layout.yaxis2.range == (1.5, -0.5)
    assert figure.layout.xaxis2.matches == "x"
