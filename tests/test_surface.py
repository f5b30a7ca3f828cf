"""A question costs five lines, in the repository's folder; and importing what it needs costs little."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import path_patching
from path_patching import PathSet
from path_patching.files import ROOT
from reproduction.experiments import EXPERIMENTS, PLOTS
from reproduction.subcommands import READERS
from tests.helpers.scripts import output, run_python
from utils import start_experiment

PATH = "a9.h1 → m9 → logits"
QUESTION = f"""\
from path_patching import PathSet
from utils import start_experiment

experiment = start_experiment(model="standin", n=24)
path = PathSet.parse("{PATH}", end=experiment.END, yy=experiment.YY)
print(experiment.effect(path))          # change of the mean probability difference, with its interval
"""
WAITS = """\
import sys, path_patching, dataset, utils
assert not {"rust_circuit", "concept_erasure", "transformers", "pandas", "plotly"} & {*sys.modules}
"""
IN_FULL = "print(experiment.effect(path).value)\n"
MODELING = "transformers.models.gpt2.modeling_gpt2"  # which the check needs, but once
UNLIKE_THE_FIRST = f"import sys; assert {MODELING!r} not in sys.modules\n"
ESTIMATE = re.compile(r"^(\S+) \[(\S+), (\S+)\](?:, plain \[\S+, \S+\])?$", re.MULTILINE)


@pytest.fixture(scope="module")
def tensors(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("tensors")


@pytest.fixture(scope="module")
def expected(tensors) -> float:
    """The answer of an engine in this process."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TENSORS_CACHE_DIR", str(tensors))
        experiment = start_experiment(model="standin", n=24, engine="torch")
    return experiment.effect(PathSet.parse(PATH, end=experiment.END)).value


def check(printed: str, expected: float) -> None:
    """The effect, as it is shown and in full."""
    value, low, high = map(float, ESTIMATE.search(printed).groups())
    assert value == pytest.approx(expected, rel=0.01)
    assert low < value < high
    assert float(printed.splitlines()[-1]) == pytest.approx(expected, abs=1e-7)
    assert "-0.0000" not in printed


@pytest.fixture
def repository(tmp_path) -> Path:
    """A folder in which all lies that lies in the repository's."""
    folder = tmp_path / "repository"
    folder.mkdir()
    for path in (*ROOT.glob("*.py"), *(ROOT / name for name in ("path_patching", "reproduction", "tasks"))):
        (folder / path.name).symlink_to(path)
    return folder


@pytest.mark.slow
def test_five_lines_in_a_fresh_file_answer_a_question(tmp_path, repository, tensors, expected):
    """Asked from a folder that has modules of the same names; and nothing is imported before it is needed."""
    script, asked_from = repository / "question.py", tmp_path / "elsewhere"
    script.write_text(WAITS + QUESTION + UNLIKE_THE_FIRST + IN_FULL)
    asked_from.mkdir()
    for name in ("utils", "dataset", "color_utils"):
        (asked_from / f"{name}.py").write_text("raise ImportError('not the module that is meant')")
    before = {*asked_from.iterdir(), *repository.iterdir()}
    settings = {"TENSORS_CACHE_DIR": str(tensors), "PYTHONPATH": ""}
    check(output(run_python("-B", str(script), cwd=asked_from, settings=settings)), expected)
    assert {*asked_from.iterdir(), *repository.iterdir()} == before


def test_the_readme_shows_what_its_lines_print(tensors, monkeypatch):
    monkeypatch.setenv("TENSORS_CACHE_DIR", str(tensors))
    readme = (ROOT / "README.md").read_text()
    assert f'PathSet.parse("{PATH}"' in readme
    experiment = start_experiment(model="standin", n=97, engine="torch")
    assert f"it prints `{experiment.effect(PathSet.parse(PATH, end=experiment.END))}`" in readme


def test_what_is_handed_on_is_there_once():
    assert len(set(path_patching.__all__)) == len(path_patching.__all__)
    assert all(hasattr(path_patching, name) for name in path_patching.__all__)
    assert set(dir(path_patching)) > set(path_patching.__all__)
    # Else the name would be the module, once that was imported.
    assert not {path.stem for path in ROOT.glob("path_patching/*")} & set(path_patching.__all__)


HELP = """
import io, runpy, sys
from contextlib import redirect_stdout, suppress
for script, *word in map(str.splitlines, sys.argv[1:]):
    sys.argv = [script, *word, "--help"]
    with redirect_stdout(io.StringIO()) as printed, suppress(SystemExit):
        runpy.run_path(script, run_name="__main__")
    assert printed.getvalue().startswith("usage: " + " ".join([script.rpartition("/")[2], *word])), script
print([name for name in sys.modules if name in ("torch", "numpy", "pandas", "transformers", "plotly", "tqdm")])
"""


def test_help_waits_for_nothing_that_takes_long():
    scripts = [str(ROOT / f"{name}.py") for name in (*EXPERIMENTS, *PLOTS, "reproduce")]
    commands = [f"{scripts[-1]}\n{word}" for word in READERS]
    assert output(run_python("-c", HELP, *scripts, *commands)) == "[]\n"


FIRST_LINE = """
import io, runpy, sys
class Said(BaseException): ...
def write(text):
    raise Said(text, [name for name in ("torch", "numpy", "pandas", "transformers") if name in sys.modules])
sys.stdout.write, sys.argv = write, sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except Said as said:
    print(*said.args, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("script", "flags", "line"),
    [
        ("circuit_discovery", ["--model", "standin", "--n", "97"], "circuit_discovery.py: stand-in, 97 sentences"),
        ("circuit_validation", ["--quick"], "circuit_validation.py: GPT-2 small, 97 sentences"),
    ],
)
def test_an_experiment_says_what_it_asks_before_anything_that_takes_long(script, flags, line):
    ran = run_python("-c", FIRST_LINE, str(ROOT / f"{script}.py"), *flags)
    assert ran.stderr == f"{line} []\n"


@pytest.mark.parametrize("path", sorted(ROOT.glob("path_patching/**/*.py")), ids=lambda path: path.stem)
def test_modules_import_from_modules_and_not_from_the_package(path):
    assert not re.search(r"^\s*(from path_patching import|import path_patching$)", path.read_text(), re.MULTILINE)
