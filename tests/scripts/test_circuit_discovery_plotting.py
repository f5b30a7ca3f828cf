from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from path_patching.files import ROOT
from tests.helpers.drawn import (
    HEADS,
    LAYERS,
    YEARS,
    YY,
    Axis,
    Drawing,
    axes_read,
    check_curves,
    check_heatmaps,
    check_shows,
    check_titles,
    draw,
    heatmap,
    labels,
    named,
    publish,
    told,
)
from tests.helpers.scripts import error_line, output, run_script

SCRIPT = "circuit_discovery_plotting"
PROMPT = ["<|endoftext|>", "The", "NOUN", "lasted", "from", "the", "year", "XX1", "YY", "to", "the", "year", "XX2"]
OF_MANY = {
    "patched-probability-heatmap",
    "appendix/full-patched-probability-heatmap",
    "appendix/complement-probability-heatmap",
}
POINTS = "change in probability difference (percentage points)"
LINKS = [
    {"reader": "m9@END", "via": "in", "sender": "a7.h10@END", "effect": -0.012},
    {"reader": "logits@END", "via": "in", "sender": "m9@END", "effect": -0.3},
    {"reader": "logits@END", "via": "in", "sender": "a7.h10@END", "effect": 0.05},
    {"reader": "a7.h10@END", "via": "v", "sender": "m0@YY", "effect": -0.2},
    {"reader": "m0@YY", "via": "in", "sender": "embeds@YY", "effect": -0.25},
]


def sweep(number: int, **about: str) -> tuple[torch.Tensor, dict]:
    return told(number, 12, 13, least=-0.9), {"kind": "sweep"} | about


def by_yy(number: int, least: float = -0.5, **about: str) -> tuple[torch.Tensor, dict]:
    return told(number, 97, 100, least=least), about


def probabilities(number: int, evaluation: str) -> tuple[torch.Tensor, dict]:
    return by_yy(number, 0.0, kind="probabilities", evaluation=evaluation)


def of_layers(order: tuple[int, ...], first: int, made) -> dict[str, tuple[torch.Tensor, dict]]:
    """An artifact for each of some MLPs, in an order that is not that of the layers."""
    return {f"{first + layer}.pt": made(first + layer, f"m{layer}") for layer in order}


OF_EVERY_RUN = {
    "probs.pt": probabilities(1, "clean"),
    "ipp_logits.pt": sweep(2, of="logits", receiver="logits", position="END"),
    "attn_patterns_all.pt": (
        {"patterns": told(3, 12, 12, 20, 13, 13, least=0.0), "prompt": PROMPT},
        {"kind": "attention_of_all_heads"},
    ),
}
ARTIFACTS = OF_EVERY_RUN | {  # the names of the others say nothing
    **of_layers((10, 8, 11, 9), 10, lambda number, mlp: sweep(number, of="mlp", receiver=mlp, position="END")),
    **of_layers((10, 8, 11, 9), 20, lambda number, mlp: by_yy(number, kind="logit_lens", of="mlp", node=mlp)),
    **of_layers((2, 0, 3, 1), 5, lambda number, mlp: sweep(number, of="mlp", receiver=mlp, through="v", position="YY")),
    "32.pt": sweep(32, of="heads", through="q", position="END"),
    "33.pt": sweep(33, of="heads", through="k", position="YY"),
    "34.pt": sweep(34, of="heads", through="v", position="YY"),
    "35.pt": by_yy(35, kind="logit_lens", of="head", node="a9.h1"),
    "36.pt": by_yy(36, kind="logit_lens", of="head", node="a7.h10"),
    "37.pt": by_yy(37, kind="logit_lens", of="head", node="a8.h11"),
    "38.pt": (told(38, 13, 13, least=0.0), {"kind": "attention", "node": "a8.h11"}),
    "39.pt": (told(39, 13, 13, least=0.0), {"kind": "attention", "node": "a7.h10"}),
    "40.pt": (told(40, 97, 13, 13, least=0.0), {"kind": "attention_by_yy", "node": "a7.h10"}),
    "41.pt": probabilities(41, "late_half"),
    "42.pt": probabilities(42, "full_circuit"),
    "circuit.json": ({"links": LINKS}, {"kind": "circuit"}),
}
ARTIFACTS_OF_MANY = {
    "43.pt": probabilities(43, "clean"),
    "44.pt": probabilities(44, "late_half"),
    "45.pt": probabilities(45, "late_half/without"),
    "46.pt": probabilities(46, "full_circuit"),
}


def value(number: int) -> np.ndarray:
    """What the artifact of a number holds."""
    return (ARTIFACTS | ARTIFACTS_OF_MANY)[f"{number}.pt"][0].numpy()


@pytest.fixture(scope="module")
def drawing(tmp_path_factory) -> Drawing:
    folder = tmp_path_factory.mktemp("artifacts")
    publish("circuit_discovery", folder, ARTIFACTS, {"circuit/name": "a circuit of a test"})
    publish("big_ds_experiments", folder, ARTIFACTS_OF_MANY, {"circuit/name": "the circuit of many"})
    return draw(SCRIPT, folder)


def test_every_figure_has_its_title_and_nothing_is_left_out(drawing):
    one_by_one = "every head and MLP at END, patched one by one"
    chains = "and any chain of the late MLPs above it"
    expected = {
        "probability-heatmap": ("Probability heatmap", ""),
        "probability-slice": ("Probability of each end year when YY = 41", ""),
        "logits-ipp": ("Path patching: node → logits", one_by_one),
        "mlps-ipp": (
            "Path patching: node → MLP → logits",
            f"nodes at END, through each MLP {chains}",
        ),
        "attn-patterns": ("Mean attention patterns", ""),
        "appendix/attn_proportion": ("Attention of a7.h10 from END to YY", ""),
        "all-attention-patterns": (
            "Attention patterns of all heads",
            "means of 20 sentences; queries run downwards, keys to the right",
        ),
        "attn-logitlens": ("Logit lens of heads at END", ""),
        "mlps-logitlens": ("Logit lens of MLPs at END", ""),
        "appendix/low-mlps-ipp": (
            "Path patching: node → early MLP → values of heads",
            "nodes at YY, through each MLP at YY, then the heads and late MLPs of a circuit of a test",
        ),
        "circuit": (
            "A circuit of a test",
            "links run upwards; a dashed one raises the probability difference when it is patched",
        ),
    }
    expected |= {
        f"appendix/m{layer}-ipp": (
            f"Path patching: node → m{layer} → logits",
            f"nodes at END, through m{layer} {chains}",
        )
        for layer in range(8, 12)
    }
    for via, what, at in (("q", "queries", "END"), ("k", "keys", "YY"), ("v", "values", "YY")):
        through = f"nodes at {at}, through the heads and late MLPs of a circuit of a test"
        expected[f"appendix/attn_{via}"] = (f"Path patching: node → {what} of heads", through)
    for name, part, corrupted, circuit in (
        ("late-half", "the late half", "all but the late half of {}", "a circuit of a test"),
        ("appendix/full-circuit", "the full circuit", "all but {}", "a circuit of a test"),
        ("patched", "the late half", "all but the late half of {}", "the circuit of many"),
        ("appendix/full-patched", "the full circuit", "all but {}", "the circuit of many"),
        ("appendix/complement", "all but the late half", "the late half of {}", "the circuit of many"),
    ):
        below = f"{corrupted.format(circuit)} gets the 01 data"
        expected[f"{name}-probability-heatmap"] = (f"Probability heatmap of {part}", below)
    check_titles(drawing.figures, expected)
    assert [line for line in drawing.lines if "left out" in line] == []


def test_every_panel_shows_the_artifact_that_is_said_of_it(drawing):
    tensors = {name: value for name, (value, _) in (ARTIFACTS | ARTIFACTS_OF_MANY).items() if name.endswith(".pt")}
    tensors["attn_patterns_all.pt"] = tensors["attn_patterns_all.pt"]["patterns"]
    check_shows(drawing, tensors)
    assert {name for name, shows in drawing.shows.items() if not shows} == {"circuit"}, "its links are no cells"
    assert drawing.shows["mlps-ipp"] == {"m11": "21.pt", "m10": "20.pt", "m9": "19.pt", "m8": "18.pt"}


@pytest.mark.parametrize(
    ("name", "number", "clean"),
    [
        ("probability-heatmap", 1, 1),
        ("late-half-probability-heatmap", 41, 1),
        ("appendix/full-circuit-probability-heatmap", 42, 1),
        ("patched-probability-heatmap", 44, 43),
        ("appendix/complement-probability-heatmap", 45, 43),
        ("appendix/full-patched-probability-heatmap", 46, 43),
    ],
)
def test_a_probability_heatmap_is_its_evaluation_s_in_the_colours_of_the_same_run_s_clean_one(
    drawing, name, number, clean
):
    shown, of_clean = (told(each, 97, 100, least=0.0) for each in (number, clean))
    check_heatmaps(drawing.figures[name], {"": heatmap(shown, YEARS, YY, "probability", of=of_clean)})


def test_one_row_of_the_probability_heatmap_is_that_of_41(drawing):
    figure = drawing.figures["probability-slice"]
    row = np.column_stack([range(100), told(1, 97, 100, least=0.0)[39]])
    check_curves(figure, {"": row}, "predicted year", "probability")
    (mark,), (label,) = figure.layout.shapes, figure.layout.annotations
    assert (mark.x0, mark.x1, label.text) == (41, 41, "YY = 41")
    assert labels(figure.layout.xaxis) == YEARS.labels


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("logits-ipp", 2),
        *((f"appendix/m{layer}-ipp", 10 + layer) for layer in range(8, 12)),
        ("appendix/attn_q", 32),
        ("appendix/attn_k", 33),
        ("appendix/attn_v", 34),
    ],
)
def test_a_sweep_is_drawn_in_points(drawing, name, number):
    in_points = 100 * told(number, 12, 13, least=-0.9)
    check_heatmaps(drawing.figures[name], {"": heatmap(in_points, HEADS, LAYERS, POINTS)})


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("mlps-ipp", {f"m{layer}": 10 + layer for layer in (11, 10, 9, 8)}),
        ("appendix/low-mlps-ipp", {f"m{layer}": 5 + layer for layer in (3, 2, 1, 0)}),
    ],
)
def test_sweeps_of_mlps_stand_side_by_side_the_last_first_in_one_range_of_colours(drawing, name, numbers):
    in_points = {mlp: 100 * told(number, 12, 13, least=-0.9) for mlp, number in numbers.items()}
    of_all = [*in_points.values()]
    expected = {mlp: heatmap(values, HEADS, LAYERS, POINTS, of=of_all) for mlp, values in in_points.items()}
    check_heatmaps(drawing.figures[name], expected)


def test_logit_lenses_of_heads_stand_in_the_order_of_layers(drawing):
    numbers = {"a7.h10": 36, "a8.h11": 37, "a9.h1": 35}
    of_all = [value(number) for number in numbers.values()]
    expected = {head: heatmap(value(number), YEARS, YY, "logit", of=of_all) for head, number in numbers.items()}
    check_heatmaps(drawing.figures["attn-logitlens"], expected)


def test_logit_lenses_of_mlps_are_relative_to_year_00_the_last_first(drawing):
    lenses = {f"m{layer}": value(20 + layer) for layer in (11, 10, 9, 8)}
    relative = {mlp: lens - lens[:, [0]] for mlp, lens in lenses.items()}
    bar, of_all = "logit minus year 00's logit", [*relative.values()]
    expected = {mlp: heatmap(each, YEARS, YY, bar, of=of_all) for mlp, each in relative.items()}
    check_heatmaps(drawing.figures["mlps-logitlens"], expected)


def test_mean_attention_patterns_have_queries_downwards_and_the_prompt_at_both_axes(drawing):
    key, query = named("key", PROMPT), named("query", PROMPT)
    of_both = [value(39), value(38)]
    expected = {
        head: heatmap(values, key, query, "attention", of=of_both)
        for head, values in zip(("a7.h10", "a8.h11"), of_both, strict=True)
    }
    check_heatmaps(drawing.figures["attn-patterns"], expected)


def test_attention_from_end_to_yy_is_that_of_each_yy(drawing):
    to_yy = value(40)[:, 12, 8]
    figure = drawing.figures["appendix/attn_proportion"]
    check_curves(figure, {"": np.column_stack([range(2, 99), to_yy])}, "YY", "attention")
    assert labels(figure.layout.xaxis) == YY.labels


def test_each_tile_of_all_attention_patterns_is_the_mean_of_its_head(drawing):
    means = told(3, 12, 12, 20, 13, 13, least=0.0).mean(2).numpy()
    figure = drawing.figures["all-attention-patterns"]
    (trace,) = figure.data
    for layer in range(12):
        for head in range(12):
            tile = trace.z[14 * layer : 14 * layer + 13, 14 * head : 14 * head + 13]
            np.testing.assert_allclose(tile, means[layer, head])
    assert trace.text[14 * 7 + 12][14 * 10 + 8] == "a7.h10<br>XX2 → YY"
    middles = {14 * tile + 6: str(tile) for tile in range(12)}
    assert axes_read(figure, trace) == (Axis("head", middles), Axis("layer", middles))


def test_every_link_of_the_circuit_is_drawn_with_its_effect_in_points(drawing):
    lines = [line for line in drawing.figures["circuit"].data if line.hovertemplate]
    assert {line.hovertemplate.removesuffix("<extra></extra>"): line.line.dash is not None for line in lines} == {
        "a7.h10@END → residual stream of m9@END<br>−1.20 percentage points": False,
        "m9@END → residual stream of logits@END<br>−30.00 percentage points": False,
        "a7.h10@END → residual stream of logits@END<br>5.00 percentage points": True,
        "m0@YY → values of a7.h10@END<br>−20.00 percentage points": False,
        "embeds@YY → residual stream of m0@YY<br>−25.00 percentage points": False,
    }


# What a run did not make


def publish_few(folder: Path, more: dict[str, tuple[torch.Tensor, dict]] | None = None) -> None:
    """What every run has, with a little more."""
    publish("circuit_discovery", folder, OF_EVERY_RUN | (more or {}), {"circuit/name": "a circuit of a test"})


def test_heatmaps_of_many_sentences_are_left_out_where_these_were_not_run_or_too_few(tmp_path):
    publish_few(tmp_path)
    drawn, lines, _ = draw(SCRIPT, tmp_path)
    assert "left out: the figures of big_ds_experiments.py, which was not run" in lines
    assert not OF_MANY & set(drawn)
    publish("big_ds_experiments", tmp_path, {}, {"circuit/name": "the circuit of many"})
    drawn, lines, _ = draw(SCRIPT, tmp_path)
    assert "left out: the heatmaps, for which big_ds_experiments.py had too few sentences" in lines
    assert not OF_MANY & set(drawn)


def test_figures_of_nodes_that_a_small_model_lacks_are_left_out(tmp_path):
    pytest.importorskip("kaleido", reason="kaleido 0.2.1 is not installed")
    more = {
        "ipp_mlp1.pt": sweep(4, of="mlp", receiver="m1", position="END"),
        "lens.pt": by_yy(5, kind="logit_lens", of="head", node="a1.h3"),
    }
    publish_few(tmp_path / "artifacts", more)
    lines = output(run(tmp_path)).splitlines()
    drawn = {"probability-heatmap", "probability-slice", "logits-ipp", "mlps-ipp", "appendix/m1-ipp"}
    drawn |= {"all-attention-patterns", "attn-logitlens"}
    for kind in ("html", "pdf", "png"):
        found = (path.relative_to(tmp_path / "plots") for path in (tmp_path / "plots").rglob(f"*.{kind}"))
        assert {path.with_suffix("").as_posix() for path in found} == drawn
    assert all(line.startswith("left out") for line in lines)
    assert any("logit lens of MLPs" in line for line in lines)


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the script on `folder / "artifacts"`, into `folder / "plots"`, with images."""
    flags = ["--artifacts", str(folder / "artifacts"), "--out", str(folder / "plots")]
    return run_script(ROOT / f"{SCRIPT}.py", *flags)


# Artifacts that cannot be read


def missing(artifacts: Path) -> None:
    (artifacts / "probs.pt").unlink()


def damaged(artifacts: Path) -> None:
    path = artifacts / "attn_patterns_all.pt"
    path.write_bytes(path.read_bytes()[:-10])


def of_another_run(artifacts: Path) -> None:
    torch.save(torch.zeros(12, 13), artifacts / "ipp_logits.pt")


def without_a_record(artifacts: Path) -> None:
    (artifacts / "circuit_discovery.json").unlink()


@pytest.mark.parametrize("spoil", [missing, damaged, of_another_run, without_a_record])
def test_spoiled_artifacts_are_refused_and_earlier_figures_stay(tmp_path, spoil):
    publish_few(tmp_path / "artifacts")
    earlier = tmp_path / "plots" / "probability-heatmap.html"
    earlier.parent.mkdir()
    earlier.write_text("earlier")
    spoil(tmp_path / "artifacts")
    assert "run python circuit_discovery.py" in error_line(run(tmp_path))
    assert [*(tmp_path / "plots").rglob("*")] == [earlier]
    assert earlier.read_text() == "earlier"
