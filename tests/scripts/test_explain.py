"""`reproduce.py explain FIGURE CELL`: what a cell shows is what the artifact, the engine and the reference have."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from path_patching.files import ROOT
from reproduction.publication import sha256
from reproduction.run import read_artifacts
from tests.helpers.experiments import random_gpt2, run_experiment
from tests.helpers.made import edit_record
from tests.helpers.scripts import error_line, output, run_script
from tests.scripts.test_circuit_discovery import OF_THREE_LAYERS

APART = re.compile(r"artifact and engine (\S+), engine and reference (\S+)$")
FLOAT32 = 2e-6  # how far sums of float32 in another order may be from those of float64, in a probability or a logit


class Whole(NamedTuple):
    """The folders of a run on a tiny model, with its figures."""

    artifacts: Path
    figures: Path
    tensors: Path

    def explain(self, *words: str):
        flags = ["--artifacts", str(self.artifacts), "--figures", str(self.figures)]
        settings = {"TENSORS_CACHE_DIR": str(self.tensors)}
        return run_script(ROOT / "reproduce.py", "explain", *words, *flags, settings=settings)

    def shown(self, figure: str, panel: int, row: int, column: int) -> float:
        """What a figure shows in a cell of one of its panels."""
        data = json.loads((self.figures / "plotly" / f"{figure}.json").read_text())["data"][panel]
        return values(data["z"])[row, column]


def values(z: object) -> np.ndarray:
    """The cells of a heatmap as plotly writes them."""
    if isinstance(z, dict):
        import base64

        shape = tuple(map(int, z["shape"].split(",")))
        return np.frombuffer(base64.b64decode(z["bdata"]), z["dtype"]).reshape(shape)
    return np.asarray(z, float)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Whole:
    folder = tmp_path_factory.mktemp("three layers")
    (folder / "circuit.json").write_text(json.dumps(OF_THREE_LAYERS))
    model = random_gpt2(folder / "model", n_layer=3, seed=2)
    flags = ("--engine", "torch", "--circuit", str(folder / "circuit.json"))
    output(run_experiment("circuit_discovery", folder, model, 97, *flags))
    found = Whole(folder / "out", folder / "plots", folder / "tensors")
    drawn = ["--artifacts", str(found.artifacts), "--out", str(found.figures)]
    output(run_script(ROOT / "circuit_discovery_plotting.py", *drawn, images=False))
    return found


CELLS = [  # what is asked; which artifact, cell of the figure, unit of what is shown there; one of the paths
    ("logits-ipp a2.h1", "ipp_logits.pt", ("logits-ipp", 0, 2, 1), "points", "a2.h1@END → logits@END"),
    ("mlps-ipp m1 a0.h0", "ipp_mlp1.pt", ("mlps-ipp", 1, 0, 0), "points", "a0.h0@END → m1@END → m2@END → logits@END"),
    ("attn_v m0", "attn_v.pt", ("appendix/attn_v", 0, 0, 2), "points", "m0@YY →v a1.h0@END → logits@END"),
    ("attn_q m0", "attn_q.pt", ("appendix/attn_q", 0, 0, 2), "points", "m0@END →q a1.h0@END → logits@END"),
    ("low-mlps-ipp m1 m0", "results_mlp1.pt", ("appendix/low-mlps-ipp", 0, 0, 2), "points", "m0@YY → m1@YY →v a2.h1"),
    ("probability-heatmap 41 50", "probs.pt", ("probability-heatmap", 0, 39, 50), "%", None),
    ("late-half-probability-heatmap 41 50", "late_half_probs.pt", ("late-half-probability-heatmap", 0, 39, 50), "%",
     "a1.h0@END → logits@END"),
    ("full-circuit-probability-heatmap 2 99", "full_circuit_probs.pt",
     ("appendix/full-circuit-probability-heatmap", 0, 0, 99), "%", "embeds"),
    ("attn-patterns a2.h1 END YY", "attn_patterns_a2.h1.pt", ("attn-patterns", 1, 12, 8), "%", None),
    ("all-attention-patterns a1.h0 YY NOUN", "attn_patterns_all.pt", ("all-attention-patterns", 0, 22, 2), "%", None),
    ("attn-logitlens a1.h0 41 50", "logit_lens_a1.h0.pt", ("attn-logitlens", 0, 39, 50), "", None),
    ("mlps-logitlens m1 41 50", "logit_lens_mlp1.pt", ("mlps-logitlens", 1, 39, 50), "", None),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "artifact", "cell", "unit", "path"), CELLS, ids=[each[0] for each in CELLS])
def test_a_cell_is_the_same_in_figure_artifact_engine_and_reference(whole, asked, artifact, cell, unit, path):
    lines = output(whole.explain(*asked.split())).splitlines()
    said = dict(re.findall(r"^  (\S.{8,9}) (\S.*)$", "\n".join(lines), re.MULTILINE))
    said = {name.strip(): what for name, what in said.items()}
    number = float(said["artifact"].split()[0].replace("−", "-"))
    pixel = whole.shown(*cell) * (100 if unit == "%" else 1)
    assert number == pytest.approx(pixel, rel=5.1e-3, abs=5.1e-5), "three digits, however small it is"
    of_engine, of_reference = map(float, APART.search(said["apart"]).groups())
    assert of_engine < FLOAT32
    assert of_reference < FLOAT32
    made = read_artifacts(whole.artifacts, "circuit_discovery")
    assert said["made by"] == made.record["index"][artifact]["cell"]
    assert said["file"] == str(whole.artifacts / artifact)
    assert said["SHA-256"] == sha256(whole.artifacts / artifact)
    assert any(path in line for line in lines) if path else "paths" not in said
    if unit == "points":
        assert said["engine"].startswith(said["artifact"]), "with the same interval"
        assert "[" in said["artifact"]


def test_what_no_path_leads_to_has_no_effect(whole):
    printed = output(whole.explain("mlps-ipp", "m1", "m2"))
    assert "artifact   0.0 points [0.0, 0.0]" in printed
    assert "\n  paths" not in printed


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (
            "nothing m8",
            "no figure 'nothing' has cells to explain; these have: probability-heatmap, probability-slice, ",
        ),
        ("circuit m8", "the figure circuit has no cells to explain; these have: probability-heatmap"),
        (
            "success-ipps m8",
            "this run of 97 sentences has no figure success-ipps: its plotting script was not run, or left ",
        ),
        ("mlps-ipp", "mlps-ipp has the panels m2, m1; name one of them"),
        ("mlps-ipp m8 a0.h0", "mlps-ipp has the panels m2, m1; name one of them"),
        ("mlps-ipp m1", "a cell of mlps-ipp m1 is named NODE; 0 words are given"),
        ("logits-ipp a2.h7", "a2.h7@0: the model has 3 layers of 2 heads"),
        ("logits-ipp embeds", "embeds has no cell; name a head or an MLP"),
        ("logits-ipp nothing", "'nothing' is not a node"),
        ("probability-heatmap 41", "is named YY YEAR; 1 words are given"),
        ("probability-heatmap 1 50", "YY '1': give two digits, 02 to 98"),
        ("probability-heatmap 41 1850", "YEAR '1850': give two digits, 00 to 99"),
        ("attn-patterns a2.h1 END the", "'the' is no position: give END, 0 to 12, or one of <|endoftext|> The NOUN"),
        ("all-attention-patterns m1 END YY", "m1 has no attention"),
        ("logits-ipp a2.h1 --sentences 0", "--sentences 0: give one or more"),
    ],
)
def test_a_figure_or_cell_that_is_none_is_one_line(whole, words, complaint):
    assert complaint in error_line(whole.explain(*words.split()))


def test_a_wrong_artifact_in_shows_is_seen(whole, tmp_path):
    # The figure's pixel is another than the artifact that is named has: the first test of this file would fail.
    record = json.loads((whole.figures / "circuit_discovery_plotting.json").read_text())
    wrong = record["shows"] | {"logits-ipp": {"": "attn_q.pt"}}
    path = tmp_path / "circuit_discovery_plotting.json"
    path.write_text(json.dumps(record))
    edit_record(path, shows=wrong)
    lines = output(whole._replace(figures=tmp_path).explain("logits-ipp", "a0.h0"))
    number = float(re.search(r"artifact   (\S+) points", lines)[1].replace("−", "-"))
    assert abs(number - whole.shown("logits-ipp", 0, 0, 0)) > 0.05
