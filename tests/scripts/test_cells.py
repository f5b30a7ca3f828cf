"""The scripts as an editor's interactive window runs them: cell by cell in a Jupyter kernel, some of them again."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from path_patching.files import ROOT
from reproduction.evaluations import Evaluations
from reproduction.plots import Plots
from reproduction.publication import record_path
from reproduction.run import Run, read_artifacts
from reproduction.verdicts import Verdicts
from tests.helpers.experiments import random_gpt2
from tests.helpers.windows import Window, open_window

QUESTION = """\
from path_patching import PathSet
from utils import start_experiment
experiment = start_experiment(model={model!r}, n=24)
print(experiment.effect(PathSet.parse("a1.h1 → m1 → logits", end=experiment.END)))
"""
FIGURE = ["application/vnd.plotly.v1+json", "image/png"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return random_gpt2(tmp_path_factory.mktemp("model") / "mine")


@pytest.fixture(scope="module")
def window(model) -> Iterator[Window]:
    """One for all tests, since what is imported there takes long; each begins with a first cell."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TENSORS_CACHE_DIR", str(model.parent / "tensors"))
        with open_window(ROOT) as opened:
            yield opened


def cells_of(script: str, settings: str, changed: str) -> list[str]:
    """A script's cells, with its settings changed as a user would."""
    text = (ROOT / f"{script}.py").read_text()
    assert text.count(settings) == 1
    return re.split(r"(?m)^(?=# %%)", text.replace(settings, changed))[1:]


def test_in_a_window_an_error_is_one_line_and_progress_needs_no_widgets(window):
    window.run(cells_of("circuit_discovery", "DiscoverySettings(n=490)", "DiscoverySettings()")[0])
    assert window.run("import tqdm.auto") == [], "which the libraries import, and which asks for ipywidgets"
    bar = "from path_patching import progress; progress.SECONDS_BEFORE_A_BAR = 0; list(progress.progress('ab', 'here'))"
    assert any("here:   0%" in said for said in window.run(f"{bar};"))

    interrupted = "interrupted: what was published before is as it was"
    assert window.lines_of_error("import signal; signal.raise_signal(signal.SIGINT)") == [interrupted]
    [line] = window.lines_of_error("DiscoverySettings(modle='standin')")
    assert line.startswith("error: there is no setting 'modle'; settings are model, engine,")


def test_five_lines_in_a_cell_answer_a_question(model, window):
    said = "".join(window.run(QUESTION.format(model=str(model))))
    assert re.search(r"0\.\d+ \[\S+, \S+\], plain \[\S+, \S+\]\n", said)


def test_the_cells_of_an_experiment_and_of_its_figures_run_in_a_window(tmp_path, model, window):
    out, plots = tmp_path / "out", tmp_path / "plots"
    window.run("from pathlib import Path")
    settings = f"DiscoverySettings(model={str(model)!r}, n=97, out=Path({str(out)!r}))"
    cells = cells_of("circuit_discovery", "DiscoverySettings(n=490)", settings)
    shown = {}
    for cell in [*cells[:2], *cells]:  # the first ones once more, as after a change of the settings
        question = cell.partition("?")[0].removeprefix("# %% ")
        shown[question] = [said for said in window.run(cell) if "/" in said and " " not in said]
    assert shown["And what does it predict for each YY"] == FIGURE
    assert shown["Which nodes act on the logits directly"] == FIGURE
    assert shown["Does the model compute greater-than"] == []
    made = read_artifacts(out, "circuit_discovery")
    assert made.record["settings"]["n"] == 97
    assert "ipp_logits.pt" in made.record["artifacts"]

    for cell in (cells[3], cells[-1]):  # looked at again, and published again
        window.run(cell)
    published = record_path(out, "circuit_discovery").read_bytes()
    assert set(read_artifacts(out, "circuit_discovery").record["artifacts"]) == set(made.record["artifacts"])
    for cell in cells[:3]:  # and after a change of the settings the first ones and the last one alone
        window.run(cell)
    with pytest.raises(pytest.fail.Exception, match=r"nothing is published, .* not run to their end: And what"):
        window.run(cells[-1])
    assert record_path(out, "circuit_discovery").read_bytes() == published

    settings = f"PlotSettings(artifacts=Path({str(out)!r}), out=Path({str(plots)!r}))"
    first, *others = cells_of("circuit_discovery_plotting", "PlotSettings()", settings)
    window.run(first)
    shown = [said for cell in others[:3] for said in window.run(cell)]
    assert shown.pop(0) == "left out: the figures of big_ds_experiments.py, which was not run\n"
    assert shown == 2 * FIGURE
    window.run(others[-1])
    assert (plots / "probability-heatmap.html").is_file()


SCRIPTS = [path.stem for path in sorted(ROOT.glob("*.py")) if "\n# %%" in path.read_text()]
OF_RUN = {"run": Run, "evaluations": Evaluations, "verdicts": Verdicts, "plots": Plots}


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_cell_ends_in_a_value_that_a_window_would_print(script):
    text = (ROOT / f"{script}.py").read_text()
    names: dict[str, object] = {"print": "None", "write": "None", "note_mean": "None"}  # bound methods of those above
    for called, kind in OF_RUN.items():
        methods = {name: each for name, each in vars(kind).items() if inspect.isfunction(each)}
        names |= {f"{called}.{name}": each.__annotations__.get("return") for name, each in methods.items()}
    for each in ast.parse(text).body:
        if isinstance(each, ast.FunctionDef):
            names[each.name] = ast.unparse(each.returns)
    for cell in re.split(r"(?m)^(?=# %%)", text)[1:]:
        *_, last = ast.parse(cell).body
        if isinstance(last, ast.Expr):
            assert isinstance(last.value, ast.Call)
            assert names[ast.unparse(last.value.func)] == "None", ast.unparse(last)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_begins_with_a_cell_so_that_its_imports_are_in_one(script):
    before, *_ = re.split(r"(?m)^(?=# %%)", (ROOT / f"{script}.py").read_text())
    assert re.fullmatch(r'""".*"""\s*', before, re.DOTALL)
