"""PDF and PNG are rendered where they can be; where not, one line says why, and nothing waits for ever."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import plotly.graph_objects as go
import plotly.io
import pytest

from path_patching.errors import UserError
from reproduction import rendering
from reproduction.figures import figure_files
from reproduction.rendering import n_pages, render, renderer_starts
from tests.helpers.scripts import output, run_python

# plotly 6 says at every step that kaleido 0 is deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def _forgotten_renderer():
    renderer_starts.cache_clear()
    yield
    renderer_starts.cache_clear()


def raises(error: Exception):
    """A `to_image` that fails."""

    def to_image(figure: go.Figure, **options: object) -> bytes:
        raise error

    return to_image


def test_pdf_and_png_hold_one_figure():
    pytest.importorskip("kaleido", reason="kaleido 0.2.1 is not installed")
    # At 1025 by 798 pixels kaleido on its own adds an empty second page.
    files = figure_files(go.Figure(layout={"width": 1025, "height": 798}), "figure")
    assert files["figure.png"].startswith(b"\x89PNG")
    pdf = files["figure.pdf"]
    assert pdf.startswith(b"%PDF")
    assert n_pages(pdf) == 1


@pytest.mark.parametrize(
    "scope", [None, SimpleNamespace()], ids=["without kaleido", "with kaleido 1, which has no renderer"]
)
def test_without_a_renderer_one_line_names_the_one_to_install(monkeypatch, capsys, scope):
    monkeypatch.setattr(plotly.io.kaleido, "scope", scope)
    monkeypatch.setattr(go.Figure, "to_image", raises(RuntimeError("no browser")))
    files = [*figure_files(go.Figure(), "one"), *figure_files(go.Figure(), "two")]
    [line] = capsys.readouterr().out.splitlines()
    assert "only HTML is written: PDF and PNG need pip install kaleido==0.2.1" in line
    assert files == ["one.html", "plotly/one.json", "two.html", "plotly/two.json"]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("Failed to start. Error stream:\n\nkaleido: libnss3.so is missing\n", "(kaleido: libnss3.so is missing)"),
        ("Transform failed with error code 525: too large\nmore", "(Transform failed with error code 525: too large)"),
        ("", "(ValueError)"),
    ],
)
def test_a_renderer_that_fails_is_quoted(monkeypatch, capsys, message, said):
    pytest.importorskip("kaleido", reason="kaleido 0.2.1 is not installed")
    monkeypatch.setattr(go.Figure, "to_image", raises(ValueError(message)))
    assert not renderer_starts()
    [line] = capsys.readouterr().out.splitlines()
    assert said in line
    assert "install" not in line


def test_a_renderer_that_does_not_answer_is_given_up(monkeypatch):
    asked = threading.Event()
    monkeypatch.setattr(go.Figure, "to_image", lambda figure, **options: asked.wait(60))
    monkeypatch.setattr(rendering, "SECONDS_TO_ANSWER", 0.05)
    with pytest.raises(UserError, match=r"\(no answer in 0 s\); run again, or uninstall it"):
        render(go.Figure(), "png")
    asked.set()


def test_a_renderer_that_stopped_answering_is_replaced(monkeypatch, tmp_path):
    """A program that starts, says that it did, and answers nothing: asked again, kaleido's own is there."""
    pytest.importorskip("kaleido", reason="kaleido 0.2.1 is not installed")
    scope, silent = plotly.io.kaleido.scope, tmp_path / "kaleido"
    silent.write_text(
        '#!/bin/sh\necho \'{"code": 0, "message": "Success", "result": null, "version": "0"}\'\nsleep 20\n'
    )
    silent.chmod(0o755)
    own, given = scope.executable_path(), iter([str(silent)])
    scope._shutdown_kaleido()
    monkeypatch.setattr(scope, "executable_path", lambda: next(given, own), raising=False)
    monkeypatch.setattr(rendering, "SECONDS_TO_ANSWER", 1.0)
    end = rendering._end_renderer

    def end_and_be_patient():  # kaleido's own may start slowly, beside other work
        end()
        monkeypatch.setattr(rendering, "SECONDS_TO_ANSWER", 300.0)

    monkeypatch.setattr(rendering, "_end_renderer", end_and_be_patient)
    assert render(go.Figure(), "png").startswith(b"\x89PNG")


WITH_KALEIDO_AT = """
import plotly.io
from reproduction import rendering
plotly.io.kaleido.scope.executable_path = lambda: {program!r}
rendering.SECONDS_TO_ANSWER = {seconds}
print(rendering.renderer_starts())
"""


def test_a_program_whose_renderer_hangs_ends(tmp_path):
    pytest.importorskip("kaleido", reason="kaleido 0.2.1 is not installed")
    program = tmp_path / "kaleido"
    program.write_text("#!/bin/sh\nsleep 10\n")
    program.chmod(0o755)
    run = run_python("-c", WITH_KALEIDO_AT.format(program=str(program), seconds=1))
    line, starts = output(run).splitlines()
    assert line.startswith("only HTML is written: kaleido renders no PDF and PNG (no answer in 1 s)")
    assert starts == "False"
    assert run.stderr == ""


@pytest.fixture
def scope():
    """Plotly's handle of kaleido, as it was before at the end."""
    pytest.importorskip("kaleido", reason="kaleido 0.2.1 is not installed")
    scope = plotly.io.kaleido.scope
    script = scope.plotlyjs
    yield scope
    vars(scope).pop("executable_path", None)
    plotly.io.defaults.plotlyjs = script


def test_kaleido_runs_in_a_folder_with_a_space(tmp_path, scope):
    place = tmp_path / "My Drive"
    place.mkdir()
    program, script = Path(scope.executable_path()), Path(scope.plotlyjs)
    (place / "kaleido").symlink_to(program.parent)
    (place / "plotly").symlink_to(script.parent)
    scope.executable_path = lambda: str(place / "kaleido" / program.name)
    plotly.io.defaults.plotlyjs = str(place / "plotly" / script.name)
    assert renderer_starts()
