"""Figures are published together, with a record; never of a model that was not asked for, nor of two."""

from __future__ import annotations

import json
from dataclasses import replace

import plotly.graph_objects as go
import pytest
import torch

from path_patching.circuits.papers_shape import varied
from path_patching.errors import UserError
from path_patching.files import ROOT
from path_patching.gpt2.model import Architecture, random_model
from reproduction import figures
from reproduction.figures import lines, years
from reproduction.paper import PAPER
from reproduction.plots import check_up_to_date, start_plots
from reproduction.publication import intact, record_path, sha256
from reproduction.run import read_artifacts, start_run
from reproduction.settings import PlotSettings, Settings

MODEL = random_model(Architecture(1, 1, 4, 4, 8, 16, 10))


@pytest.fixture(autouse=True)
def _html_alone(monkeypatch):
    monkeypatch.setattr(figures, "renderer_starts", lambda: False)


def published(folder, script="circuit_discovery", model=MODEL, name="standin"):
    run = start_run(script, Settings(model=name, out=folder), model, "torch", "cpu")
    run.save("probs.pt", torch.rand(3), kind="probabilities")
    run.publish()
    return read_artifacts(folder, script)


def a_figure(title="A title") -> go.Figure:
    return lines({"": torch.rand(97)}, title, years("YY", 2, 98), "share")


def test_figures_and_their_record_are_published_together(tmp_path):
    source = published(tmp_path / "artifacts")
    plots = start_plots("pca_plots", PlotSettings(out=tmp_path / "plots"), source)
    plots.write(a_figure(), "one", {"a &amp; b": "probs.pt"})
    plots.write(a_figure("Another"), "appendix/two")
    assert not (tmp_path / "plots" / "one.html").exists()
    plots.publish()
    path = record_path(tmp_path / "plots", "pca_plots")
    record = json.loads(path.read_text())
    assert record["figures"] == {"one": "A title", "appendix/two": "Another"}
    assert record["shows"] == {"one": {"a & b": "probs.pt"}, "appendix/two": {}}, "in words, not as plotly reads them"
    assert record["read"] == {"circuit_discovery.json": sha256(tmp_path / "artifacts" / "circuit_discovery.json")}
    assert record["model"]["fingerprint"] == MODEL.fingerprint
    assert intact(path)
    assert (tmp_path / "plots" / "plotly.min.js").stat().st_size > 1_000_000


def test_an_old_plotly_js_is_replaced(tmp_path):
    source = published(tmp_path / "artifacts")
    (tmp_path / "plotly.min.js").write_text("old")
    plots = start_plots("pca_plots", PlotSettings(out=tmp_path), source)
    plots.write(a_figure(), "one")
    plots.publish()
    assert (tmp_path / "plotly.min.js").stat().st_size > 1_000_000


def test_a_figure_that_cannot_be_rendered_leaves_the_earlier_ones(tmp_path, monkeypatch):
    def broken(figure, kind):
        raise ValueError("the renderer has died")

    source = published(tmp_path / "artifacts")
    earlier = start_plots("pca_plots", PlotSettings(out=tmp_path / "plots"), source)
    earlier.write(a_figure("earlier"), "one")
    earlier.publish()
    monkeypatch.setattr(figures, "renderer_starts", lambda: True)
    monkeypatch.setattr(figures, "render", broken)
    plots = start_plots("pca_plots", PlotSettings(out=tmp_path / "plots"), source)
    with pytest.raises(ValueError, match="died"):
        plots.write(a_figure("later"), "one")
    assert "earlier" in (tmp_path / "plots" / "one.html").read_text()
    assert intact(record_path(tmp_path / "plots", "pca_plots"))


def test_another_model_s_artifacts_than_asked_for_are_refused_by_name(tmp_path):
    source = published(tmp_path)
    with pytest.raises(UserError, match=r"--model gpt2 was asked for, but .* is of random \(seed 0\)"):
        start_plots("pca_plots", PlotSettings(model="gpt2", artifacts=tmp_path), source)
    start_plots("pca_plots", PlotSettings(model="standin", artifacts=tmp_path, out=tmp_path / "plots"), source)


def test_without_a_model_figures_go_to_that_of_the_artifacts(tmp_path, monkeypatch):
    monkeypatch.setattr("reproduction.settings.ROOT", tmp_path)
    plots = start_plots("pca_plots", PlotSettings(artifacts=tmp_path), published(tmp_path))
    assert plots.publication.folder == tmp_path / "paper-plots" / "standin"
    assert plots.publication.folder != ROOT / "paper-plots" / "standin"


@pytest.mark.parametrize("other", [random_model(MODEL.architecture, seed=1), MODEL.with_activation("gelu")])
def test_artifacts_of_two_models_are_refused_naming_both(tmp_path, other):
    one = published(tmp_path)
    two = published(tmp_path, "big_ds_experiments", replace(other, name="the other"))
    with pytest.raises(UserError, match=r"is of random \(seed 0\) .* but big_ds_experiments\.json of the other"):
        start_plots("pca_plots", PlotSettings(out=tmp_path / "plots"), one, two)
    assert not (tmp_path / "plots").exists()


def test_artifacts_of_two_circuits_are_refused_naming_both(tmp_path):
    made = []
    for script, heads in {"circuit_discovery": PAPER.heads, "big_ds_experiments": PAPER.heads[1:]}.items():
        run = start_run(script, Settings(model="standin", out=tmp_path), MODEL, "torch", "cpu")
        run.note_circuit(varied(PAPER, heads=heads))
        run.publish()
        made.append(read_artifacts(tmp_path, script))
    with pytest.raises(UserError, match=r"circuit_discovery\.json .* but big_ds_experiments\.json .* differ in a5\.h1"):
        start_plots("circuit_discovery_plotting", PlotSettings(out=tmp_path / "plots"), *made)
    assert not (tmp_path / "plots").exists()


def test_what_was_not_there_to_be_drawn_is_known_once_it_is(tmp_path):
    source = published(tmp_path)
    might = ("circuit_discovery", "big_ds_experiments")
    start_plots("pca_plots", PlotSettings(out=tmp_path / "plots"), source, might_read=might).publish()
    drawn = read_artifacts(tmp_path / "plots", "pca_plots")
    assert drawn.record["read"]["big_ds_experiments.json"] is None
    check_up_to_date(drawn, tmp_path)
    published(tmp_path, "big_ds_experiments")
    with pytest.raises(UserError, match=r"another run than .*big_ds_experiments\.json; run python pca_plots\.py again"):
        check_up_to_date(drawn, tmp_path)


def test_figures_of_an_earlier_run_are_known(tmp_path):
    source = published(tmp_path)
    plots = start_plots("pca_plots", PlotSettings(out=tmp_path / "plots"), source)
    plots.publish()
    drawn = read_artifacts(tmp_path / "plots", "pca_plots")
    check_up_to_date(drawn, tmp_path)
    published(tmp_path)
    with pytest.raises(UserError, match=r"run python pca_plots\.py again"):
        check_up_to_date(drawn, tmp_path)
