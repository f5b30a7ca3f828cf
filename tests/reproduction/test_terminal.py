"""What goes wrong in a terminal is one line, from the first import on; no output stops a script."""

from __future__ import annotations

import ast
import io
import os
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from path_patching.errors import UserError
from path_patching.files import ROOT
from reproduction import terminal
from reproduction.terminal import INSTALL, exit_on_user_error, in_interactive_window, prepare
from tests.helpers.scripts import output, run_python

SCRIPTS = sorted(
    {*ROOT.glob("*.py"), *ROOT.glob("examples/*.py")}
    - {ROOT / f"{name}.py" for name in ("color_utils", "dataset", "utils", "examples/interchange")}
)
FIRST = "reproduction.command_line"
OF_TESTS = {"walkthrough": ("jupytext", "requirements-dev.txt")}  # a package that a script needs as the tests do


@pytest.fixture(autouse=True)
def _keep_handlers(monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


# One line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("give another"), "error: give another"),
        (KeyboardInterrupt(), "interrupted: what was published before is as it was"),
        (
            OSError(28, "No space left on device", "x.pt"),
            "error: x.pt: No space left on device; free space or choose another folder",
        ),
        (OSError(28, "No space left on device"), "error: No space left on device; free space or choose another folder"),
        (
            OSError(13, "Permission denied", "y.pt"),
            "error: y.pt: Permission denied; mend its permissions or choose another",
        ),
        (OSError(21, "Is a directory", "z.pt"), "error: z.pt: Is a directory"),
        (
            ImportError("cannot import name 'x' from 'transformers'\nand more", name="transformers"),
            f"error: cannot import name 'x' from 'transformers'; {INSTALL}",
        ),
        (ModuleNotFoundError("No module named 'pandas'", name="pandas"), f"error: No module named 'pandas'; {INSTALL}"),
    ],
)
def test_errors_that_a_user_can_mend_are_one_line(capsys, error, line):
    exit_on_user_error(type(error), error, None)
    assert capsys.readouterr().err == f"{line}\n"


@pytest.mark.parametrize(
    "error", [ValueError("a bug"), ImportError("cannot import name 'x' from 'utils'", name="utils"), OSError("a bug")]
)
def test_other_errors_keep_their_traceback(capsys, error, monkeypatch):
    monkeypatch.setattr(terminal, "REQUIREMENTS", Path(os.devnull))
    try:
        raise error
    except type(error):
        exit_on_user_error(*sys.exc_info())
    assert capsys.readouterr().err.startswith("Traceback")


def test_packages_of_other_versions_are_named_below_a_traceback(tmp_path, monkeypatch, capsys):
    requirements = tmp_path / "requirements.txt"
    monkeypatch.setattr(terminal, "REQUIREMENTS", requirements)
    installed = version("pytest")
    requirements.write_text(f"# Why\npytest==0.1; python_version < '3'  # old\npytest=={installed}\nnone-such==1\n")
    exit_on_user_error(ValueError, ValueError("a bug"), None)
    assert "note:" not in capsys.readouterr().err
    requirements.write_text("pytest==0.1\n")
    exit_on_user_error(ValueError, ValueError("a bug"), None)
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"note: pytest {installed}: not the versions")


# From the first import on


def test_what_begins_imports_nothing_that_takes_long_or_may_be_missing():
    code = f"import sys; before = set(sys.modules); import {FIRST}; print(*set(sys.modules) - before)"
    names = {name.partition(".")[0] for name in output(run_python("-S", "-c", code)).split()}
    assert names <= {*sys.stdlib_module_names, "reproduction"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_imports_first_what_makes_one_line_of_errors(script):
    imports = [node for node in ast.parse(script.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports]
    first = next(name for name in names if name.partition(".")[0] not in sys.stdlib_module_names)
    assert first == FIRST


def run_with(package: str, content: str, script: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script with a package of this content in the place of the installed one; Ctrl-C is not ignored."""
    (folder / package).mkdir()
    (folder / package / "__init__.py").write_text(content)
    path = f"{folder}{os.pathsep}{ROOT}"
    return run_python(
        str(script), settings={"PYTHONPATH": path}, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )


@pytest.mark.parametrize("name", ["reproduce", "pca_plots", "examples/own_task", "examples/walkthrough"])
def test_a_missing_package_is_one_line_that_says_how_to_install_it(name, tmp_path):
    script = ROOT / f"{name}.py"
    package, requirements = OF_TESTS.get(script.stem, ("torch", "requirements.txt"))
    missing = f"raise ModuleNotFoundError(\"No module named '{package}'\", name='{package}')"
    run = run_with(package, missing, script, tmp_path)
    assert run.returncode == 1
    [line] = run.stderr.splitlines()
    assert line.startswith(f"error: No module named '{package}'; ")
    assert f"{sys.executable} -m pip install -r {ROOT / requirements}" in line


INTERRUPTS = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(5)"
SWALLOWS = f"try:\n    {INTERRUPTS}\nexcept BaseException:\n    raise RuntimeError('it went wrong')"


@pytest.mark.parametrize("content", [INTERRUPTS, SWALLOWS], ids=["interrupts", "swallows"])
@pytest.mark.parametrize("script", ["reproduce", "pca_plots", "examples/own_task"])
def test_ctrl_c_during_the_imports_is_one_line(script, content, tmp_path):
    run = run_with("torch", content, ROOT / f"{script}.py", tmp_path)
    assert run.returncode == -signal.SIGINT
    assert run.stderr == "interrupted: what was published before is as it was\n"


# Whatever the output is


PRINTS = {
    "much": "print('line\\n' * 100_000)",
    "little": "print('line')",
    "something unfinished": "sys.stdout.write('line')",
    "its help": "import argparse; argparse.ArgumentParser().parse_args(['--help'])",
}
BUFFERED, UNBUFFERED = "", "1"  # PYTHONUNBUFFERED; reproduce.py gives steps the second
CASES = [(what, how) for what in PRINTS for how in (BUFFERED, UNBUFFERED)][:-1]  # argparse passes over the last


def run_printing(what: str, how: str, to: int) -> subprocess.CompletedProcess[str]:
    """Run a script that prints to a file descriptor."""
    code = f"import sys; from reproduction.terminal import prepare; prepare(); {PRINTS[what]}"
    environment = os.environ | {"PYTHONUNBUFFERED": how, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, stdout=to, stderr=subprocess.PIPE, text=True, check=False)


@pytest.mark.parametrize(("what", "how"), CASES)
def test_a_reader_that_has_had_enough_ends_a_script_in_silence(what, how):
    reading, writing = os.pipe()
    os.close(reading)  # as `| head` does
    run = run_printing(what, how, writing)
    os.close(writing)
    assert (run.returncode, run.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize(("what", "how"), CASES)
def test_an_output_that_is_full_is_one_line(what, how):
    with Path("/dev/full").open("w") as full:
        run = run_printing(what, how, full.fileno())
    assert run.returncode == 1
    assert run.stderr == "error: No space left on device; free space or choose another folder\n"


@pytest.mark.parametrize(("encoding", "printed"), [("cp1252", "?“m10”?"), ("ascii", "??m10??"), ("utf-8", "→“m10”?")])
def test_characters_that_the_output_lacks_are_replaced(monkeypatch, encoding, printed):
    output = io.TextIOWrapper(io.BytesIO(), encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)  # a test before this may have left ours
    prepare()
    print("→“m10”\udce9")
    output.flush()
    assert output.buffer.getvalue().decode(encoding).strip() == printed


def test_without_an_output_a_script_goes_on():
    code = "from reproduction.terminal import prepare; prepare(); print('→')"
    run = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "{code}" >&-', sys.executable],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")


# Windows


def test_a_program_that_starts_kernels_is_no_interactive_window(monkeypatch):
    monkeypatch.delattr(sys, "ps1", raising=False)
    import ipykernel.kernelapp

    assert not in_interactive_window()
    monkeypatch.setattr(ipykernel.kernelapp.IPKernelApp, "initialized", lambda: True)
    assert in_interactive_window()


def test_in_a_notebook_an_error_is_its_line(tmp_path):
    module = ROOT / "path_patching" / "errors.py"  # by itself, since the package takes long to import
    cell = f"import runpy; raise runpy.run_path({str(module)!r})['UserError']('give another')"
    run = run_python("-m", "IPython", "--quick", "--colors=NoColor", "-c", cell, settings={"IPYTHONDIR": str(tmp_path)})
    assert (run.stdout + run.stderr).strip() == "error: give another"
