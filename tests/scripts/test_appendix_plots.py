from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from path_patching.bootstrap import Estimate
from path_patching.files import ROOT
from tests.helpers.drawn import (
    HEADS,
    LAYERS,
    YEARS,
    YY,
    Drawing,
    check_heatmaps,
    check_histogram,
    check_shows,
    check_titles,
    draw,
    heatmap,
    publish,
    told,
)
from tests.helpers.scripts import run_script

SCRIPT = "appendix_plots"
HISTOGRAM = "appendix/random-circuits"
POINTS = "change in probability difference (percentage points)"
CIRCUIT = "a circuit of a test"
LESS_THAN = (3, 6, 7)
EVALUATED = (0, 2, 8, 9)
PROMPTS = {task: f"task {task} costs $17YY to $17" for task in range(10)}
SHOWN = {task: prompt.replace("$", "&#36;") for task, prompt in PROMPTS.items()}
BELOW_YY = "; valid end years lie below YY"
GREY = "; grey: YYs left out"


def probabilities(number: int, task: int, evaluation: str) -> tuple[torch.Tensor, dict]:
    values = told(number, 97, 100, least=0.0)
    if task == 7:
        values[[0, 50]] = torch.nan
    return values, {"kind": "probabilities", "task": task, "evaluation": evaluation, "nan": "left out"}


def sweep(number: int, task: int, receiver: str) -> tuple[torch.Tensor, dict]:
    about = {"kind": "sweep", "task": task, "receiver": receiver, "position": "END"}
    return told(number, 12, 13, least=-0.9), about


ARTIFACTS = {  # by what they are; their files' names say nothing
    **{("probs", task): probabilities(40 - task, task, "clean") for task in (7, 2, 5, 0, 1, 9, 3, 4, 8, 6)},
    **{("ipp", task): sweep(10 + task, task, "logits") for task in (7, 2, 5, 0, 1, 9, 3, 4, 8, 6)},
    **{("m8", task): sweep(20 + place, task, "m8") for place, task in enumerate(EVALUATED)},
    **{("late", task): probabilities(24 + place, task, "late_half") for place, task in enumerate(EVALUATED)},
    ("m7", 2): sweep(28, 2, "m7"),
    ("late with m7", 2): probabilities(29, 2, "late_half_with_m7"),
}
NUMBERS = {
    "circuit/name": CIRCUIT,
    "circuit/nodes_at_end": ["a7.h10", "m8", "a9.h1", "m9"],
    **{f"task_{task}/prompt": prompt for task, prompt in PROMPTS.items()},
    **{f"task_{task}/valid_end_years": "less" if task in LESS_THAN else "greater" for task in range(10)},
}
SHARES = torch.tensor([-0.315, -0.31, 0.0, 0.0, 0.02, 0.029, 0.1, 0.104, 0.25, 0.41], dtype=torch.float64)


def publish_random(folder: Path, shares: torch.Tensor, own: float, nothing: float) -> None:
    numbers = {
        "circuit/name": CIRCUIT,
        "late_half/probability_difference/share_of_clean": Estimate(own, own - 0.1, own + 0.1, 97),
        "corrupted/probability_difference/share_of_clean": nothing,
    }
    artifacts = {"random_circuits.pt": (shares, {"kind": "shares_of_clean"})}
    publish("random_circuit_ablation", folder, artifacts, numbers)


@pytest.fixture(scope="module")
def drawing(tmp_path_factory) -> Drawing:
    folder = tmp_path_factory.mktemp("artifacts")
    artifacts = {f"{number}.pt": each for number, each in enumerate(ARTIFACTS.values())}
    publish("sequence_generalization", folder, artifacts, NUMBERS)
    publish_random(folder, SHARES, 0.9, -0.7)
    return draw(SCRIPT, folder)


def test_every_panel_shows_the_artifact_that_is_said_of_it(drawing):
    check_shows(drawing, {f"{number}.pt": value for number, (value, _) in enumerate(ARTIFACTS.values())})
    assert {name for name, shows in drawing.shows.items() if not shows} == {HISTOGRAM}


def note(*tasks: int) -> str:
    """What is said of the end years of some tasks."""
    return {(3, 4, 5): f"{BELOW_YY} in task 3", (3,): BELOW_YY, (6,): BELOW_YY, (7,): BELOW_YY, (6, 7): BELOW_YY}.get(
        tasks, ""
    )


def test_every_figure_has_its_title_and_nothing_is_left_out(drawing):
    one_by_one = "every head and MLP at END, patched one by one"
    to_logits = "Path patching: node → logits, task"
    said = {
        "m7m8-ipps": ("Path patching: node → m8 or m7 → logits, task 2", f"“{SHOWN[2]}”"),
        "generalization-late-half-m7-2": (
            "Probability heatmap of task 2, late half with m7, a6.h1 and a7.h11 alone",
            f"“{SHOWN[2]}”",
        ),
        "random-circuits": ("10 random circuits of the same shape", "late halves, all else on 01 data"),
    }
    for name, tasks, grey in (("success", (0, 8, 2), ""), ("failure", (3, 4, 5), ""), ("bc", (6, 7), GREY)):
        listed = ", ".join(map(str, tasks))
        below = f"a sentence for each YY{note(*tasks)}{grey}"
        said[f"{name}-probs"] = (f"Probability heatmaps of tasks {listed}", below)
        said[f"{name}-ipps"] = (f"{to_logits}s {listed}", f"{one_by_one}{note(*tasks)}")
    for task in range(10):
        quoted = f"“{SHOWN[task]}”{note(task)}"
        below = quoted + (GREY if task == 7 else "")
        said[f"generalization-probs-{task}"] = (f"Probability heatmap of task {task}", below)
        said[f"generalization-ipp-{task}"] = (f"{to_logits} {task}", quoted)
    for task in EVALUATED:
        quoted = f"“{SHOWN[task]}”"
        said[f"generalization-first-mlp-{task}"] = (f"Path patching: node → m8 → logits, task {task}", quoted)
        below = f"{quoted}; late half of {CIRCUIT}"
        said[f"generalization-late-half-{task}"] = (f"Probability heatmap of task {task}, late half alone", below)
    check_titles(drawing.figures, {f"appendix/{name}": each for name, each in said.items()})
    assert [line for line in drawing.lines if "left out" in line] == []


def shown(what: str, task: int) -> np.ndarray:
    """What is drawn of an artifact: probabilities as they are, sweeps in points."""
    values = ARTIFACTS[what, task][0].numpy()
    return values if what in ("probs", "late", "late with m7") else 100 * values


@pytest.mark.parametrize(("name", "tasks"), [("success", (0, 8, 2)), ("failure", (3, 4, 5)), ("bc", (6, 7))])
def test_tasks_stand_side_by_side_under_their_prompts_in_one_range_of_colours(drawing, name, tasks):
    probs, ipps = [shown("probs", task) for task in tasks], [shown("ipp", task) for task in tasks]
    prompts = [SHOWN[task] for task in tasks]
    of_probs = [heatmap(each, YEARS, YY, "probability", of=probs) for each in probs]
    of_ipps = [heatmap(each, HEADS, LAYERS, POINTS, of=ipps) for each in ipps]
    check_heatmaps(drawing.figures[f"appendix/{name}-probs"], dict(zip(prompts, of_probs, strict=True)))
    check_heatmaps(drawing.figures[f"appendix/{name}-ipps"], dict(zip(prompts, of_ipps, strict=True)))


@pytest.mark.parametrize("task", range(10))
def test_each_task_has_figures_of_its_own(drawing, task):
    clean = shown("probs", task)
    expected = {
        f"generalization-probs-{task}": heatmap(clean, YEARS, YY, "probability"),
        f"generalization-ipp-{task}": heatmap(shown("ipp", task), HEADS, LAYERS, POINTS),
    }
    if task in EVALUATED:
        late = heatmap(shown("late", task), YEARS, YY, "probability", of=clean)
        expected[f"generalization-late-half-{task}"] = late
        expected[f"generalization-first-mlp-{task}"] = heatmap(shown("m8", task), HEADS, LAYERS, POINTS)
    for name, panel in expected.items():
        check_heatmaps(drawing.figures[f"appendix/{name}"], {"": panel})


def test_what_reaches_m8_and_m7_stands_side_by_side_and_their_late_half_has_the_clean_run_s_colours(drawing):
    both = {mlp: shown(mlp, 2) for mlp in ("m8", "m7")}
    expected = {mlp: heatmap(each, HEADS, LAYERS, POINTS, of=[*both.values()]) for mlp, each in both.items()}
    check_heatmaps(drawing.figures["appendix/m7m8-ipps"], expected)
    late = heatmap(shown("late with m7", 2), YEARS, YY, "probability", of=shown("probs", 2))
    check_heatmaps(drawing.figures["appendix/generalization-late-half-m7-2"], {"": late})


def test_the_histogram_counts_random_circuits_by_what_they_recover_beside_the_circuit_and_nothing(drawing):
    marks = {f"{CIRCUIT}, 90 %": 90, "all on 01 data, −70 %": -70}
    x_title = "recovered share of the clean probability difference"
    check_histogram(drawing.figures[HISTOGRAM], SHARES, marks, x_title)


@pytest.mark.parametrize(("own", "nothing", "spread"), [(1.0, 1.0, 0.0), (1.0, 1.0004, 1e-4), (-3.5e4, 12.0, 7e5)])
def test_shares_of_any_size_are_drawn(tmp_path, own, nothing, spread):
    noise = torch.randn(20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    publish_random(tmp_path, own + spread * noise, own, nothing)
    figures, lines, _ = draw(SCRIPT, tmp_path)
    assert [*figures] == [HISTOGRAM]
    assert "left out: the figures of sequence_generalization.py, which was not run" in lines


def run(folder: Path) -> str:
    """The one line with which the script refuses `folder / "artifacts"`."""
    flags = ["--artifacts", str(folder / "artifacts"), "--out", str(folder / "plots")]
    return run_script(ROOT / f"{SCRIPT}.py", *flags, images=False)


def test_damaged_artifacts_are_refused_before_anything_is_drawn(tmp_path):
    publish_random(tmp_path / "artifacts", SHARES, 0.9, -0.7)
    torch.save(torch.ones(5), tmp_path / "artifacts" / "random_circuits.pt")
    failed = run(tmp_path)
    assert failed.returncode == 1
    assert "run python random_circuit_ablation.py again" in failed.stderr
    assert not (tmp_path / "plots").exists()


def test_no_runs_are_one_line(tmp_path):
    failed = run(tmp_path)
    assert failed.returncode == 1
    assert len(failed.stderr.splitlines()) == 1
    assert "run python sequence_generalization.py" in failed.stderr
