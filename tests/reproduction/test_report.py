"""The report: one file, everything in it, drawn by a real browser without an error or a request."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from path_patching.circuits.validation.verdicts import judge
from path_patching.files import ROOT
from reproduction.paper import PAPER
from reproduction.run import start_run
from reproduction.settings import Settings
from reproduction.verdicts import Verdicts
from tests.helpers.made import MODEL, draw_figures, publish_experiments
from tests.helpers.scripts import error_line, output, run_script

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FIGURES = ("one", "two", "appendix/three")


def run(word: str, folder: Path):
    flags = ["--artifacts", str(folder / "artifacts"), "--out", str(folder / "plots")]
    return run_script(ROOT / "reproduce.py", word, *flags)


@pytest.fixture
def made(tmp_path):
    """All that a report is made of."""
    publish_experiments(tmp_path / "artifacts")
    draw_figures(tmp_path / "artifacts", tmp_path / "plots", *FIGURES)
    output(run("results", tmp_path))
    return tmp_path


@pytest.fixture
def page(made) -> Path:
    assert "3 figures are in" in output(run("report", made))
    return made / "plots" / "report.html"


def test_one_file_holds_everything(page):
    text = page.read_text()
    outside_scripts = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"""(src|href)=["'](?!#|data:,)""", outside_scripts), "the page loads nothing"
    for name in FIGURES:
        assert f"{name}.html" in text
    assert "Not GPT-2 small" in text
    assert "81.7 % [80.7 … 82.7]" in text
    assert 'href="#run-big_ds_experiments"' in text
    assert MODEL.fingerprint.partition("(")[0] in text


def browse(page: Path, size: str = "1300,1000", *flags: str) -> tuple[str, str]:
    """What a headless Chromium makes of a page: its elements in the end, and what it logged."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=60000", f"--window-size={size}"]
    options += ["--enable-logging=stderr", f"--user-data-dir={page.parent / 'profile'}", *flags]
    found = subprocess.run(
        [CHROMIUM, *options, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return found.stdout, found.stderr


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("size", ["1300,1000", "400,800"])
def test_a_browser_draws_every_figure_without_an_error(page, size):
    elements, logged = browse(page, size)
    assert elements.count('data-drawn="yes"') == len(FIGURES)
    assert 'data-all-drawn="yes"' in elements
    assert elements.count('class="main-svg"') >= len(FIGURES)
    console = [line for line in logged.splitlines() if "CONSOLE" in line]
    assert console == []


@pytest.mark.parametrize("judged", [(judge("faithfulness", 0.9, "late half"),), ()], ids=["a verdict", "no verdict"])
def test_the_report_says_what_the_validation_left_out(tmp_path, judged):
    publish_experiments(tmp_path / "artifacts")
    settings = Settings(model=MODEL.name, out=tmp_path / "artifacts")
    validated = start_run("circuit_validation", settings, MODEL, "torch", "cpu")
    validated.note_circuit(PAPER)
    verdicts = Verdicts(validated)
    verdicts.note("faithfulness", judged)
    verdicts.note("stability", [], {"searches": "is it found again? <none> of it"})
    verdicts.save()
    validated.publish()
    draw_figures(tmp_path / "artifacts", tmp_path / "plots", *FIGURES)
    output(run("results", tmp_path))
    output(run("report", tmp_path))
    text = (tmp_path / "plots" / "report.html").read_text()
    assert (
        text.count('<td class="passed number">passed</td>')
        == text.count('aria-label="Table of verdicts"')
        == len(judged)
    )
    assert "<li><code>stability</code>, searches: is it found again? &lt;none&gt; of it</li>" in text


def test_figures_of_an_earlier_run_are_refused(made):
    publish_experiments(made / "artifacts", off_by=0.01)
    assert "run python reproduce.py results again" in error_line(run("report", made))
    output(run("results", made))
    assert "run python circuit_discovery_plotting.py again" in error_line(run("report", made))


def test_figures_of_another_model_are_refused_by_name(made):
    publish_experiments(made / "artifacts", replace(MODEL, name="another", fingerprint="abc+gelu"))
    assert "run python" in error_line(run("report", made))


def test_without_results_one_line_says_what_to_run(tmp_path):
    publish_experiments(tmp_path / "artifacts")
    assert "run python reproduce.py results first" in error_line(run("report", tmp_path))
    assert "run python reproduce.py" in error_line(run("report", tmp_path / "nothing"))
