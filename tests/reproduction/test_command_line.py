"""Every field is a flag; in an interactive window the defaults hold, unless a script is run there."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from reproduction.command_line import read_settings

import pytest

from path_patching.errors import UserError
from reproduction.settings import Settings, flag
from tests.helpers.scripts import output, run_python


@dataclass(frozen=True)
class MoreSettings(Settings):
    layer: int = flag(10, "an MLP's layer", int)


@pytest.fixture(autouse=True)
def _keep_excepthook(monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


def test_every_field_is_a_flag():
    given = "--model standin --engine torch --device cpu --n 97 --seed 5 --as-published --out here --memory-gb 1.5"
    settings = read_settings("doc", Settings(), given.split())
    assert settings == Settings("standin", "torch", "cpu", 97, 5, True, Path("here"), 1.5)
    assert read_settings("doc", MoreSettings(n=3), ["--layer", "9"]) == MoreSettings(n=3, layer=9)


def test_experiments_that_evaluate_no_circuit_take_none(capsys):
    names = {"read_settings": read_settings, "default": Settings(), "__file__": "/here/big_ds_experiments.py"}
    call = "settings = read_settings('doc', default, ['--circuit', 'auto'])"
    exec(call, names)
    assert names["settings"].circuit == "auto"
    with pytest.raises(SystemExit):
        exec(call, names | {"__file__": "/here/random_years.py"})
    assert "--circuit" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--n", "0"], "--n 0"),
        (["--memory-gb", "-1"], "--memory-gb -1"),
        (["--memory-gb", "inf"], "--memory-gb inf"),
        (["--memory-gb", "nan"], "--memory-gb nan"),
        (["--memory-gb", "1e-320"], "--memory-gb 1e-320: give a number of gigabytes"),
        (["--memory-gb", "1e308"], "--memory-gb 1e"),
        (["--n", "9" * 30], "at most 10,000,000 sentences"),
        (["--seed", "-1"], "--seed -1"),
        (["--seed", str(2**63)], "--seed 9223372036854775808"),
    ],
)
def test_impossible_values_are_one_line(given, message):
    with pytest.raises(UserError, match=message):
        read_settings("doc", Settings(), given)


@pytest.fixture
def window(monkeypatch):
    """A kernel, or a prompt."""
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    monkeypatch.setattr(sys, "argv", ["/lib/ipykernel_launcher.py", "-f", "kernel.json"])


CELL = "from reproduction.command_line import read_settings; settings = read_settings('doc', default)"


@pytest.mark.parametrize("names", [{}, {"__file__": "/here/circuit_discovery.py"}], ids=["cell", "editor's cell"])
def test_in_a_cell_the_defaults_hold(window, names):
    names["default"] = Settings(n=7)
    exec(CELL, names)
    assert names["settings"] == Settings(n=7)


def test_a_script_that_is_run_in_a_window_has_its_arguments(window, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["circuit_discovery.py", "--n", "97"])
    names = {"default": Settings(n=7), "__file__": "/here/circuit_discovery.py"}
    exec(CELL, names)
    assert names["settings"] == Settings(n=97)


SCRIPT = """
from dataclasses import dataclass, field
from reproduction.command_line import read_settings

@dataclass(frozen=True)
class Settings:
    n: int = field(default=490, metadata={"help": "", "parse": int, "choices": None})

print(read_settings("doc", Settings()))
"""


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "IPython", "--quick", "-c", "%run script.py --n 97"],
        ["-m", "IPython", "--quick", "-c", "%run -n script.py --n 97"],
        ["-m", "IPython", "--quick", "-c", "%run -i script.py --n 97"],
        ["-m", "IPython", "--quick", "script.py", "--", "--n", "97"],
        ["-i", "script.py", "--n", "97"],
    ],
    ids=["%run", "%run -n", "%run -i", "ipython script.py", "python -i"],
)
def test_however_a_script_is_run_its_arguments_are_its(tmp_path, command):
    (tmp_path / "script.py").write_text(SCRIPT)
    run = run_python(*command, cwd=tmp_path, settings={"IPYTHONDIR": str(tmp_path / "ipython")})
    assert "Settings(n=97)" in output(run)
