"""The one-command run: GPT-2 where it can be had, the stand-in only with a banner; it goes on where it was ended."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from itertools import pairwise
from multiprocessing.context import ForkProcess
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

import reproduce
from path_patching.circuits.circuit_file import as_json, read_circuit
from path_patching.circuits.edge_lists import without_places
from path_patching.circuits.rivals import COLUMNS
from path_patching.errors import UserError
from path_patching.files import ROOT
from path_patching.gpt2.tensor_cache import ModelUnavailable
from reproduce import show_circuits
from reproduction.paper import PAPER
from reproduction.run import read_artifacts
from reproduction.steps import Step
from reproduction.subcommands import circuit
from tests.helpers.experiments import made_by, random_gpt2
from tests.helpers.scripts import error_line, output, run_script
from utils import cutoff_sharpness, prob_diff, start_experiment


@pytest.fixture
def loaded(monkeypatch):
    """Names of the models that are loaded, in order; none is really read."""
    names: list[str] = []

    def load(name: str, as_published: bool = False) -> SimpleNamespace:
        names.append(name)
        return SimpleNamespace(fingerprint="0")

    monkeypatch.setattr(reproduce, "load_model", load)
    return names


@pytest.fixture
def without_gpt2(loaded, monkeypatch):
    load = reproduce.load_model

    def refuse(name: str, as_published: bool = False) -> SimpleNamespace:
        if name == "gpt2":
            raise ModelUnavailable("the hub does not answer")
        return load(name)

    monkeypatch.setattr(reproduce, "load_model", refuse)
    return loaded


def test_gpt2_is_taken_where_it_can_be_had(loaded, capsys):
    assert reproduce.choose_model(None)[0] == "gpt2"
    assert loaded == ["gpt2"]
    assert capsys.readouterr().out == ""


def test_the_stand_in_comes_with_a_banner_that_says_why(without_gpt2, capsys):
    assert reproduce.choose_model(None)[0] == "standin"
    printed = capsys.readouterr().out
    assert "NOT GPT-2" in printed
    assert "the hub does not answer" in printed


def test_a_model_asked_for_is_never_replaced(without_gpt2):
    assert reproduce.choose_model("standin")[0] == "standin"
    with pytest.raises(ModelUnavailable):
        reproduce.choose_model("gpt2")


def test_steps_get_the_flags_that_are_theirs(loaded, monkeypatch, tmp_path):
    runs = []
    monkeypatch.setattr(reproduce, "run_step", runs.append)
    monkeypatch.setattr(reproduce.sys, "excepthook", reproduce.sys.excepthook)
    only = ["--only", "circuit_discovery", "neuron_plots", "circuit_discovery_plotting", "--skip", "neuron_plots"]
    reproduce.main(reproduce.read(["--model", "standin", "--n", "97", "--out", str(tmp_path), *only]))
    experiment, plot = runs
    assert experiment.script == "circuit_discovery"
    assert experiment.arguments[:2] == plot.arguments[:2] == ("--model", "standin")
    assert "97" in experiment.arguments
    assert plot.script == "circuit_discovery_plotting"
    assert "97" not in plot.arguments


@pytest.mark.parametrize("asked", ["paper", "auto", "a file"])
def test_a_circuit_is_given_to_what_evaluates_one(loaded, monkeypatch, tmp_path, asked):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(as_json(PAPER)))
    given = str(path) if asked == "a file" else asked
    runs = []
    monkeypatch.setattr(reproduce, "run_step", runs.append)
    monkeypatch.setattr(reproduce.sys, "excepthook", reproduce.sys.excepthook)
    monkeypatch.chdir(tmp_path)
    asked_for = "mine.json" if asked == "a file" else asked
    reproduce.main(reproduce.read(["--model", "standin", "--out", str(tmp_path), "--circuit", asked_for]))
    with_it = {step.script for step in runs if ("--circuit", given) in pairwise(step.arguments)}
    takes_one = {path.stem for path in ROOT.glob("*.py") if "choose_circuit(" in path.read_text()}
    assert with_it == takes_one != set()
    assert sum("--circuit" in step.arguments for step in runs) == len(with_it)


def test_a_file_that_is_no_circuit_s_ends_all_before_it_begins(loaded, tmp_path):
    with pytest.raises(UserError, match=r"none\.json"):
        reproduce.main(
            reproduce.read(["--model", "standin", "--out", str(tmp_path), "--circuit", str(tmp_path / "none.json")])
        )


def test_steps_that_are_done_are_run_again_if_that_is_asked(loaded, monkeypatch, tmp_path, capsys):
    runs = []
    monkeypatch.setattr(reproduce, "run_step", runs.append)
    monkeypatch.setattr(reproduce, "is_done", lambda step, fingerprint: True)
    monkeypatch.setattr(reproduce.sys, "excepthook", reproduce.sys.excepthook)
    command_line = ["--model", "standin", "--out", str(tmp_path), "--only", "topk_years"]
    reproduce.main(reproduce.read(command_line))
    assert runs == []
    assert "topk_years is done already" in capsys.readouterr().out
    reproduce.main(reproduce.read([*command_line, "--force"]))
    assert [step.script for step in runs] == ["topk_years"]


@pytest.mark.parametrize("is_usual", [True, False])
def test_each_step_says_how_many_are_left_and_about_how_long(monkeypatch, tmp_path, capsys, is_usual):
    usual = {"circuit_discovery": 600.0, "random_years": 60.0, "topk_years": 60.0, "results": 60.0}
    steps = [Step(script, (), tmp_path, tmp_path) for script in usual]
    monkeypatch.setattr(reproduce, "run_step", lambda step: None)
    monkeypatch.setattr(reproduce, "is_done", lambda step, fingerprint: step.script == "random_years")
    reproduce.run_all(steps, "", False, usual, is_usual)
    printed = capsys.readouterr().out
    assert re.findall("== left: (.*)", printed) == [
        "4 steps, about 13 min" if is_usual else "4 steps",
        "2 steps, less than a minute",  # the first took no time
        "this step, less than a minute",
    ]


def test_a_failing_step_ends_the_run(monkeypatch, tmp_path):
    (tmp_path / "neuron_plots.py").write_text("import sys; print('its last words'); sys.exit(3)")
    monkeypatch.setattr("reproduction.steps.ROOT", tmp_path)
    with pytest.raises(UserError, match=r"neuron_plots failed \(exit 3\)"):
        reproduce.run_step(Step("neuron_plots", (), tmp_path, tmp_path))


@pytest.fixture
def interruptible():
    """Also where the tests run in the background, and Ctrl-C is ignored."""
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, earlier)


def run_as_step(code: str, folder: Path, monkeypatch) -> None:
    """Run this code as a step."""
    (folder / "neuron_plots.py").write_text(
        f"import os, signal, sys, time\nme, starter = os.getpid(), os.getppid()\n{code}"
    )
    monkeypatch.setattr("reproduction.steps.ROOT", folder)
    reproduce.run_step(Step("neuron_plots", (), folder, folder))


def test_a_step_that_nobody_reads_any_more_ends_all_in_silence(tmp_path, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr(sys, "stdout", os.fdopen(writing, "w"))
    with pytest.raises(BrokenPipeError):
        run_as_step("sys.exit(1)", tmp_path, monkeypatch)
    os.dup2(os.open(os.devnull, os.O_WRONLY), writing)  # what was not written can be given up


def test_a_step_that_is_interrupted_ends_all_and_has_said_so_itself(tmp_path, monkeypatch, interruptible, capfd):
    with pytest.raises(SystemExit, match="130"):
        run_as_step("signal.signal(signal.SIGINT, signal.SIG_DFL); os.kill(me, signal.SIGINT)", tmp_path, monkeypatch)
    assert capfd.readouterr().err == ""


def test_ctrl_c_leaves_a_step_the_time_to_tidy_up(tmp_path, monkeypatch, interruptible):
    code = "os.kill(starter, signal.SIGINT); time.sleep(0.6); open(sys.argv[0] + '.tidy', 'w')"
    with pytest.raises(KeyboardInterrupt):
        run_as_step(code, tmp_path, monkeypatch)
    assert (tmp_path / "neuron_plots.py.tidy").is_file()


def test_a_step_that_does_not_end_after_ctrl_c_is_ended(tmp_path, monkeypatch, interruptible):
    monkeypatch.setattr(reproduce, "SECONDS_TO_TIDY_UP", 0.1)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_as_step("os.kill(starter, signal.SIGINT); time.sleep(30)", tmp_path, monkeypatch)
    assert time.monotonic() - started < 15


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("tidies_up", [True, False])
def test_a_request_to_end_is_passed_on_to_the_step_and_waited_for(tmp_path, monkeypatch, which, tidies_up):
    """The step went on alone, and published."""
    on_end = "lambda *_: (time.sleep(0.6), open(sys.argv[0] + '.tidy', 'w'), os._exit(0))"
    (tmp_path / "neuron_plots.py").write_text(
        "import os, signal, sys, time\n"
        + (f"signal.signal({which:d}, {on_end})\n" if tidies_up else "")
        + f"open(sys.argv[0] + '.pid', 'w').write(str(os.getpid())); os.kill(os.getppid(), {which:d}); time.sleep(60)\n"
        "open(sys.argv[0] + '.published', 'w')"
    )
    monkeypatch.setattr("reproduction.steps.ROOT", tmp_path)

    def run() -> None:
        signal.signal(which, signal.SIG_DFL)
        reproduce.run_step(Step("neuron_plots", (), tmp_path, tmp_path))

    ended = ForkProcess(target=run)  # a copy of this process, which has imported already what takes long
    ended.start()
    ended.join()
    assert ended.exitcode == -which
    assert (tmp_path / "neuron_plots.py.tidy").is_file() == tidies_up
    assert not (tmp_path / "neuron_plots.py.published").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "neuron_plots.py.pid").read_text()), 0)


def test_nothing_to_do_is_said(loaded, tmp_path):
    asked = ["--model", "standin", "--out", str(tmp_path), "--only", "results", "--skip", "results", "report"]
    with pytest.raises(UserError, match="nothing is left to do: --skip names every step that --only does"):
        reproduce.main(reproduce.read(asked))


def kill_once_it_has(started: subprocess.Popen, happened, with_its_step: bool) -> None:
    """Kill reproduce.py, alone or with the step that it runs, when something has happened."""
    deadline = time.monotonic() + 120
    while not happened():
        assert started.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(started.pid, signal.SIGKILL) if with_its_step else os.kill(started.pid, signal.SIGKILL)
    started.wait()


def circuits(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """`reproduce.py circuit` with some arguments."""
    return run_script(ROOT / "reproduce.py", "circuit", *arguments, settings=settings)


def test_a_circuit_is_printed_as_a_graph_for_eap_ig_which_says_what_that_lacks(tmp_path):
    path, printed = tmp_path / "paper.json", circuits("--to", "eap-ig")
    path.write_text(output(printed))
    assert read_circuit(path).links == without_places(PAPER.links)
    assert printed.stderr == (
        "left out: positions; its edges hold at every one\n"
        "beside the edges: 7 inputs that are read whole, as q of a5.h1@END, for which EAP-IG has no name\n"
    )
    assert circuits(str(path), "--to", "eap-ig").stderr.count("left out") == 0, "it has no positions any more"


def test_a_circuit_is_printed_as_edges_and_nothing_is_lost(tmp_path):
    path, printed = tmp_path / "paper.txt", circuits("paper", "--to", "edges")
    path.write_text(output(printed))
    assert read_circuit(path).links == PAPER.links
    assert printed.stderr == ""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_edges_are_written_with_arrows_that_the_output_can_hold(tmp_path, encoding):
    """Each arrow was a question mark, and what was written could not be read."""
    path = tmp_path / "paper.txt"
    with path.open("w", encoding=encoding, errors="replace") as file, redirect_stdout(file):
        show_circuits(circuit(["paper", "--to", "edges"]))
    assert ("→" in path.read_text(encoding="utf-8")) == (encoding == "utf-8")
    assert read_circuit(path).links == PAPER.links


def test_edges_for_a_closed_output_are_no_traceback(monkeypatch):
    """Python has no output then, as under some services."""
    monkeypatch.setattr(sys, "stdout", None)
    show_circuits(circuit(["paper", "--to", "edges"]))


def test_what_a_text_of_edges_loses_is_said_on_writing(tmp_path):
    late, path = tmp_path / "late.json", tmp_path / "late.txt"
    links = ["a9.h1@END → logits@END", "a5.h1@END → logits@END", "everything →v a5.h1@END"]
    late.write_text(json.dumps({"name": "late", "links": links}))
    printed = circuits(str(late), "--to", "edges")
    assert printed.stderr == "lost in a text of edges: a9.h1, which read nothing; --json keeps them\n"
    path.write_text(output(printed))
    assert [str(link) for link in read_circuit(path).links] == ["everything →v a5.h1@END", "a5.h1@END → logits@END"]


@pytest.mark.parametrize("flag", ["--n 0", "--n 97", "--seed 1", "--engine torch", "--device cpu"])
def test_what_is_for_circuits_side_by_side_is_not_ignored_with_one(flag):
    line = error_line(circuits("paper", *flag.split()))
    assert line == f"error: {flag.split()[0]} is for circuits side by side; name another, or leave it out"
    assert "at least one sentence" in error_line(circuits("paper", "paper", "--n", "0"))


def test_circuits_stand_side_by_side(tmp_path):
    model, theirs = random_gpt2(tmp_path / "mine"), tmp_path / "theirs.txt"
    theirs.write_text("input->m0\nm0->a1.h0<v>\na1.h0->logits\nm0->a1.h1<v>\n")
    (tmp_path / "ours.txt").write_text("embeds@YY → m0@YY\nm0@YY →v a1.h0@END\na1.h0@END → logits@END")
    asked = [str(tmp_path / "ours.txt"), str(theirs), "--model", str(model), "--n", "3"]
    ran = circuits(*asked, TENSORS_CACHE_DIR=str(tmp_path / "tensors"))
    header, _, *rows = [line.strip("| ").split(" | ") for line in output(ran).splitlines() if line.startswith("|")]
    assert tuple(header) == COLUMNS
    assert [[row[0], row[1], row[2], row[-1]] for row in rows] == [
        ["ours", "2 (16.7 %)", "3 (2.9 %)", "–"],  # of 12 nodes at END and YY, and of 105 links
        ["theirs", "2 (33.3 %)", "3 (6.5 %)", "3 (1.00)"],  # of 6 nodes and 46 links, wherever
    ]
    assert "edges left out of theirs.txt: 1 on no path from the embeddings to the logits" in ran.stderr

    lacking = circuits("paper", *asked[1:], TENSORS_CACHE_DIR=str(tmp_path / "tensors"))
    assert "the paper's circuit has m8, but mine has 2 layers of 2 heads" in lacking.stderr.splitlines()[-1]
    assert lacking.returncode == 1
    assert "2 circuits are compared" in error_line(circuits("paper", "paper", "--to", "edges"))


def models(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """`reproduce.py models` with some arguments."""
    return run_script(ROOT / "reproduce.py", "models", *arguments, settings=settings)


def test_models_stand_side_by_side_and_one_that_cannot_be_asked_has_its_row(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORS_CACHE_DIR", str(tmp_path / "tensors"))
    one, short = random_gpt2(tmp_path / "one"), random_gpt2(tmp_path / "short", n_positions=8)
    path = tmp_path / "table.csv"
    printed = output(models(str(one), str(short), "--n", "3", "--circuits", "2", "--csv", str(path)))
    assert "one: it does not do the task" in printed
    of_one, of_short = pd.read_csv(path).to_dict("records")
    experiment = start_experiment(model=str(one), n=3, engine="torch")
    clean, start_yy = experiment.engine.clean(), experiment.dataset.years_YY
    for name, metric in (("probability difference", prob_diff), ("cutoff sharpness", cutoff_sharpness)):
        assert of_one[name] == pytest.approx(metric(clean, start_yy).mean().item(), abs=1e-9)
    assert "it cannot be asked: " in of_short["remark"]
    assert error_line(models(str(short), "--n", "3")).count("it cannot be asked") == 1


def test_a_model_that_cannot_be_had_ends_the_command_before_any_is_asked(tmp_path):
    one, tensors = random_gpt2(tmp_path / "one"), {"TENSORS_CACHE_DIR": str(tmp_path / "tensors")}
    ran = models(str(one), str(tmp_path / "none"), "--n", "3", **tensors)
    assert str(tmp_path / "none") in error_line(ran)
    assert "torch engine" not in ran.stdout
    assert "--circuits 0: give at least one" in error_line(models(str(one), "--circuits", "0", **tensors))


def test_the_page_on_models_has_a_command_that_works(tmp_path):
    """On a tiny model in place of those named, and with few sentences."""
    (line,) = re.findall(r"^    python reproduce\.py models (.*)$", (ROOT / "docs" / "models.md").read_text(), re.M)
    path, (names, flags) = tmp_path / "models.csv", (line.split()[:3], line.split()[3:])
    assert flags[-2:] == ["--csv", "models.csv"]
    assert names == ["gpt2", "gpt2-medium", "distilgpt2"]
    flags[flags.index("--n") + 1] = "3"
    one, tensors = random_gpt2(tmp_path / "one"), str(tmp_path / "tensors")
    output(models(str(one), *flags[:-1], str(path), TENSORS_CACHE_DIR=tensors))
    assert pd.read_csv(path)["model"].tolist() == ["one"]


@pytest.mark.slow
def test_the_stand_in_has_the_papers_circuit_and_not_its_rivals():
    files = [str(ROOT / "examples" / "circuits" / name) for name in ("acdc.txt", "eap-ig.json")]
    printed = output(circuits(*files, "paper", "--model", "standin", "--n", "2"))
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")][1:]
    faithfulness = {row[0]: float(row[3].split()[0]) for row in rows}
    assert [*faithfulness] == ["acdc", "eap-ig", "the paper's circuit"]
    assert 0.9 < faithfulness.pop("the paper's circuit") < 1
    assert max(faithfulness.values()) < 0.8


@pytest.mark.slow
def test_killed_twice_it_ends_with_the_results_of_an_undisturbed_run(tmp_path, monkeypatch, capsys):
    model = random_gpt2(tmp_path / "mine")
    scripts = ("circuit_discovery", "random_circuit_ablation")
    whole = {script: made_by(script, tmp_path, model, 97, "--engine", "torch") for script in scripts}

    flags = ["--model", str(model), "--engine", "torch", "--n", "97", "--out", str(tmp_path / "killed")]
    command_line = [*flags, "--only", *scripts]
    monkeypatch.setenv("TENSORS_CACHE_DIR", str(tmp_path / "tensors"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(reproduce.sys, "excepthook", reproduce.sys.excepthook)
    folder = tmp_path / "killed" / "paper-cache"
    moments = (
        (lambda: any(folder.glob(".circuit_discovery.*.staged/*")), True),  # in the middle of a step
        (lambda: any(folder.glob(".random_circuit_ablation.*.staged")), False),  # it goes on alone
    )
    for happened, with_its_step in moments:
        command = [sys.executable, str(ROOT / "reproduce.py"), *command_line]
        started = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        kill_once_it_has(started, happened, with_its_step)
    reproduce.main(reproduce.read(command_line))
    assert "circuit_discovery is done already" in capsys.readouterr().out
    for script, undisturbed in whole.items():
        made = read_artifacts(folder, script)
        assert made.record["numbers"] == undisturbed.record["numbers"]
        for name in undisturbed.record["artifacts"]:
            one, other = undisturbed.load(name), made.load(name)
            assert torch.equal(one, other) if isinstance(one, torch.Tensor) else str(one) == str(other), name
    assert not list(folder.glob(".*.staged"))

    reproduce.main(reproduce.read(command_line))
    assert capsys.readouterr().out.count("is done already") == len(scripts)
