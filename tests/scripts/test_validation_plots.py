"""Every figure of a validation is drawn of what circuit_validation.py left; tests that were not made have none."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from path_patching.files import ROOT
from path_patching.gpt2.model import GPT2_SMALL
from reproduction.run import read_artifacts
from tests.helpers.edge_patching import all_edges
from tests.helpers.experiments import made_by, random_gpt2
from tests.helpers.scripts import output, run_script

FIGURES = {
    "sizes", "minimality-late-half", "minimality-full-circuit", "completeness-late-half", "completeness-full-circuit",
    "random-late-half-any-layers", "random-late-half-same-layers", "random-full-circuit-any-layers",
    "random-full-circuit-same-layers", "counterfactuals", "strength", "specificity", "interactions", "membership",
    "circuit",
}  # fmt: skip
CIRCUIT = {
    "name": "by <hand>",
    "mlps": ["m1", "m2"],
    "heads": ["a1.h0"],
    "heads_feed": ["m1", "m2"],
    "first_below": ["m0", "a0.h1"],
    "further_below": [],
}


@pytest.fixture(scope="module")
def validated(tmp_path_factory):
    """The folder of a validation of a circuit given by hand in a random model of three layers."""
    folder = tmp_path_factory.mktemp("validated")
    (folder / "circuit.json").write_text(json.dumps(CIRCUIT))
    flags = ("--engine", "torch", "--circuit", str(folder / "circuit.json"), "--quick", "--circuits", "30")
    return made_by("circuit_validation", folder, random_gpt2(folder / "mine", n_layer=3), 97, *flags)


def draw(artifacts, folder) -> list[str]:
    """Draw the figures, HTML alone; the lines printed."""
    flags = ("--artifacts", str(artifacts.folder), "--out", str(folder))
    return output(run_script(ROOT / "validation_plots.py", *flags, images=False)).splitlines()


def test_every_figure_is_drawn_with_the_model_in_its_title(validated, tmp_path):
    assert not any(line.startswith("left out") for line in draw(validated, tmp_path))
    titles = read_artifacts(tmp_path, "validation_plots").record["figures"]
    assert {name.removeprefix("validation/") for name in titles} == FIGURES
    assert all("mine" in title for title in titles.values())
    assert len({*titles.values()}) == len(titles) - 2, "of four titles of random circuits, two and two are alike"


def test_a_circuit_without_places_is_held_against_searches_without_theirs(tmp_path):
    """It has every edge of the model, so that there is no random circuit beside it."""
    file = tmp_path / "theirs.txt"
    file.write_text("\n".join(all_edges(replace(GPT2_SMALL, n_layers=2, n_heads=2))))
    tests = ("minimality", "stability", "specificity")
    flags = ("--engine", "torch", "--circuit", str(file), "--quick", "--only", *tests)
    made = made_by("circuit_validation", tmp_path, random_gpt2(tmp_path / "mine"), 97, *flags)
    nodes, found = made.load("validation_nodes.csv"), made.load("validation_membership.csv")
    assert {*nodes[nodes["part"] == "full circuit"]["node"]} == {"a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1"}
    assert {*found["node"]} <= {*nodes[nodes["part"] == "full circuit"]["node"]}
    draw(made, tmp_path / "plots")
    shown = json.loads((tmp_path / "plots" / "plotly" / "validation" / "circuit.json").read_text())["layout"]
    texts = [note["text"] for note in shown["annotations"]]
    assert "at every position" in texts
    judged = found[found["threshold"] == made.number("stability/threshold")]
    assert sorted(text for text in texts if text.endswith("%")) == sorted(f"{share:.0%}" for share in judged["share"])


def test_tests_that_were_not_made_leave_their_figures_out(validated, tmp_path):
    flags = ("--engine", "torch", "--circuit", str(validated.folder.parent / "circuit.json"), "--only", "strength")
    few = made_by("circuit_validation", tmp_path, validated.folder.parent / "mine", 97, *flags)
    assert sum(line.startswith("left out: the figure of") for line in draw(few, tmp_path / "plots")) == 9
    assert list(read_artifacts(tmp_path / "plots", "validation_plots").record["figures"]) == ["validation/strength"]
