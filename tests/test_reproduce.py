"""The one-command run: GPT-2 where it can be had, the stand-in only with a banner, and a failure ends it."""

from __future__ import annotations

import pytest

import reproduce
from tensor_cache import ModelUnavailable
from utils import UserError


@pytest.fixture
def loaded(monkeypatch):
    """Names of the models that are loaded, in order; none is really read."""
    names: list[str] = []
    monkeypatch.setattr(reproduce, "load_model", names.append)
    return names


def without_gpt2(names):
    def load(name):
        if name == "gpt2":
            raise ModelUnavailable("the hub does not answer")
        names.append(name)

    return load


def test_gpt2_is_taken_where_it_can_be_had(loaded, capsys):
    assert reproduce.choose_model(None) == "gpt2"
    assert loaded == ["gpt2"]
    assert capsys.readouterr().out == ""


def test_the_stand_in_comes_with_a_banner_that_says_why(loaded, capsys, monkeypatch):
    monkeypatch.setattr(reproduce, "load_model", without_gpt2(loaded))
    assert reproduce.choose_model(None) == "standin"
    printed = capsys.readouterr().out
    assert "NOT GPT-2" in printed
    assert "the hub does not answer" in printed


def test_a_model_asked_for_is_never_replaced(loaded, monkeypatch):
    monkeypatch.setattr(reproduce, "load_model", without_gpt2(loaded))
    assert reproduce.choose_model("standin") == "standin"
    with pytest.raises(ModelUnavailable):
        reproduce.choose_model("gpt2")


def test_steps_get_the_flags_that_are_theirs(loaded, monkeypatch):
    runs = []
    monkeypatch.setattr(reproduce, "run_script", lambda script, arguments: runs.append((script, arguments)))
    monkeypatch.setattr(reproduce.sys, "excepthook", reproduce.sys.excepthook)
    reproduce.main(["--model", "standin", "--n", "97", "--only", "circuit_discovery", "circuit_discovery_plotting"])
    (experiment, with_flags), (plot, without) = runs
    assert experiment == "circuit_discovery"
    assert with_flags[:2] == ["--model", "standin"]
    assert with_flags[-2:] == ["--n", "97"]
    assert (plot, without) == ("circuit_discovery_plotting", ["--model", "standin"])


def test_a_failing_step_ends_the_run(monkeypatch, tmp_path):
    (tmp_path / "bad.py").write_text("import sys; sys.exit(3)")
    monkeypatch.setattr(reproduce, "ROOT", tmp_path)
    with pytest.raises(UserError, match=r"bad\.py failed \(exit 3\)"):
        reproduce.run_script("bad", [])
