"""Everything in one command: the model, every experiment, every figure, the results table and the report.

python reproduce.py [--model gpt2|standin|NAME|PATH] [--circuit paper|auto|FILE] [--only STEP ...] [--force] [--help]
python reproduce.py results [--check]         every number of the paper beside the measured one
python reproduce.py report                    all of it on one page
python reproduce.py compare FOLDER FOLDER     are two runs the same?
python reproduce.py explain FIGURE CELL ...   what is this cell of a figure, and is it so? logits-ipp a9.h1
python reproduce.py weights [--model MODEL]   is this the paper's model?
python reproduce.py circuit [FILE]            a circuit as a table, or with --to as a file to edit, or for EAP-IG
python reproduce.py circuit FILE FILE ...     circuits side by side, evaluated on the same sentences
python reproduce.py models MODEL MODEL ...    models side by side: does each do it, by which circuit, at what depth?

Without --model, the model is GPT-2 small if it is there or can be downloaded, else the stand-in, and a banner says so.
A step that is done already, with the same settings, model and code, is skipped. So after an interruption, run it
again: it continues with the first step that is not done.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from reproduction.command_line import prepare

from path_patching.defaults import ENGINES
from path_patching.files import named_path
from path_patching.gpt2.names import A_MODEL
from reproduction.experiments import STEPS
from reproduction.subcommands import READERS, evaluation_flags
from reproduction.terminal import explain_errors


def _read_options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help=A_MODEL)
    parser.add_argument("--engine", default="auto", choices=ENGINES)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:i")
    parser.add_argument("--n", type=int, help="sentences of each experiment, instead of its own number")
    parser.add_argument("--seed", type=int, default=0, help="seed of every random draw")
    parser.add_argument("--circuit", help="paper, auto or a circuit's file, for what evaluates one")
    parser.add_argument("--as-published", action="store_true", help="the published erf GELU and 768 years")
    parser.add_argument(
        "--out", type=named_path, help="folder for paper-cache and paper-plots; the repository by default"
    )
    parser.add_argument("--only", nargs="+", choices=STEPS, default=STEPS, metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("--skip", nargs="+", choices=STEPS, default=(), metavar="STEP", help="steps to leave out")
    parser.add_argument("--force", action="store_true", help="run also the steps that are done already")
    return parser.parse_args(arguments)


def read(arguments: list[str]) -> tuple[str, Any]:
    """One of `COMMANDS`, empty for everything, and what it is asked."""
    name = next(iter(arguments), "")
    return (name, READERS[name](arguments[1:])) if name in READERS else ("", _read_options(arguments))


if __name__ == "__main__":  # --help and a wrong flag wait for nothing that takes long
    explain_errors()
    ASKED = read(sys.argv[1:])

from dataset import YearDataset
from path_patching.circuits import across_models, rivals
from path_patching.circuits.circuit import EVERYTHING, Circuit, bare, in_order, on_paths
from path_patching.circuits.circuit_file import as_json, read_circuit, table
from path_patching.circuits.edge_lists import as_graph, as_text
from path_patching.errors import UserError
from path_patching.files import write_text
from path_patching.gpt2.hub import ModelUnavailable
from path_patching.gpt2.model import GPT2_SMALL, Architecture, Model
from path_patching.gpt2.tensor_cache import (
    cache_folder,
    description_path,
    is_gpt2_small,
    load_model,
)
from path_patching.gpt2.tokenizer import load_tokenizer
from path_patching.metrics import Metric
from reproduction import compare, explain, report, results
from reproduction.evaluations import clusters_of
from reproduction.pace import SHARES, in_words, last_seconds, time_left, usual_seconds
from reproduction.paper import PAPER, named_as_read
from reproduction.publication import lock_folder, wait_for, writing_to
from reproduction.run import model_of
from reproduction.settings import PlotSettings, RandomCircuitSettings, Settings
from reproduction.shown import Panel, choose_panel, drawn_figures, read_panels
from reproduction.steps import Step, is_done, steps_of, to_be_run
from tasks.prompts import TASKS, TaskDataset, build
from utils import cutoff_sharpness, greater_than, start_experiment

SECONDS_TO_TIDY_UP = 10.0
ENDS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # requests to end
INTERRUPTED = 128 + signal.SIGINT  # the exit status that shells give
BANNER = """
{line}
  NOT GPT-2. This run uses the stand-in, a small model trained here so that it has the circuit that
  the paper describes: a place to try everything, no evidence about GPT-2.
  Why: {reason}
{line}
"""


def choose_model(asked: str | None, as_published: bool = False) -> tuple[str, Model]:
    """The model asked for, else gpt2 if it is available, else the stand-in after a banner that says why."""
    if asked is not None:
        return asked, load_model(asked, as_published)
    try:
        return "gpt2", load_model("gpt2", as_published)
    except ModelUnavailable as reason:
        print(BANNER.format(line="!" * 100, reason=reason), flush=True)
        return "standin", load_model("standin", as_published)


def run_step(step: Step) -> None:
    """Run a step as a user would. Raises `UserError` if it fails; the step has said why.

    If the step was interrupted, it has said so, and this program ends. A request to end this program is passed on to
    the step. The program then waits for it, since it may be publishing.
    """
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with (
        _ends_passed_on() as started,
        subprocess.Popen([sys.executable, *step.program, *step.arguments], env=environment) as running,
    ):
        started(running)
        try:
            code = running.wait()
        except KeyboardInterrupt:
            code = _end_of_interrupted(running)
            if code != -signal.SIGINT:
                raise
    if code == -signal.SIGINT:
        sys.exit(INTERRUPTED)
    if code != 0:
        print(flush=True)  # if the output was closed, that ended the step, and this ends the program
        raise UserError(f"{step.script} failed (exit {code}); what earlier steps made is in place")


@contextmanager
def _ends_passed_on() -> Iterator[Callable[[subprocess.Popen[bytes]], None]]:
    """Within it, a request to end (`kill`, a closed terminal) is passed on to a step, and ends this program after it.

    Yields a function to be called with the step once it runs.
    """
    running: list[subprocess.Popen[bytes]] = []
    came: list[int] = []

    def pass_on(which: int, _: object) -> None:
        came.append(which)
        for step in running:
            step.send_signal(which)

    def started(step: subprocess.Popen[bytes]) -> None:
        running.append(step)
        for which in came:
            step.send_signal(which)

    asked_to_end = [each for each in ENDS if signal.getsignal(each) == signal.SIG_DFL]  # with nohup one is ignored
    for each in asked_to_end:
        signal.signal(each, pass_on)
    try:
        yield started
    finally:
        for each in asked_to_end:
            signal.signal(each, signal.SIG_DFL)
        for which in came:
            signal.raise_signal(which)


def _end_of_interrupted(running: subprocess.Popen[bytes]) -> int:
    """The exit status of a step after Ctrl-C, which a terminal sends to the step too; it may tidy up first."""
    try:
        return running.wait(SECONDS_TO_TIDY_UP)
    except subprocess.TimeoutExpired:
        running.terminate()
        return running.wait()


def run_all(steps: list[Step], fingerprint: str, force: bool, usual: Mapping[str, float], is_usual: bool) -> None:
    """Run the steps that are not done, in order; the first that fails ends the run.

    `usual` is about how long each takes, in seconds; what is left is said from the first step on if it `is_usual`, else
    once a step has shown how long it takes here.
    """
    left = [each.script for each in (steps if force else to_be_run(steps, fingerprint))]
    took: dict[str, float] = {}
    for number, step in enumerate(steps, start=1):
        left = [script for script in left if script != step.script]
        wait_for(step.script, step.published)  # a run that outlived its own reproduce.py
        if not force and is_done(step, fingerprint):
            print(f"== {step.script} is done already, and nothing that it depends on has changed", flush=True)
            continue
        with_it = [step.script, *left]
        about = f", {in_words(time_left(with_it, usual, took))}" if took or is_usual else ""
        print(f"\n== {number} of {len(steps)}: {step.command}", flush=True)
        print(f"== left: {f'{len(with_it)} steps' if left else 'this step'}{about}", flush=True)
        started = time.monotonic()
        run_step(step)
        took[step.script] = time.monotonic() - started
        print(f"== {step.script} took {took[step.script]:.0f} s", flush=True)


def run_everything(options: argparse.Namespace) -> None:
    """Run every step that was asked for."""
    name, model = choose_model(options.model, options.as_published)
    flags = ["--engine", options.engine, "--device", options.device, "--seed", str(options.seed)]
    flags += ["--n", str(options.n)] if options.n is not None else []
    flags += ["--as-published"] if options.as_published else []
    out = options.out and options.out.resolve()
    artifacts = out / "paper-cache" if out else Settings(model=name).artifact_folder()
    plots = out / "paper-plots" if out else PlotSettings(model=name).plot_folder(name)
    with writing_to(artifacts):
        lock = lock_folder("reproduce", artifacts)
    steps = steps_of(name, flags, artifacts, plots, out, _circuit_asked_for(options.circuit))
    asked = [step for step in steps if step.script in options.only and step.script not in options.skip]
    if not asked:
        raise UserError("nothing is left to do: --skip names every step that --only does; leave one out of it")
    is_usual = all(map(last_seconds, asked)) or (name in SHARES and options.n is None)
    run_all(asked, model.fingerprint, options.force, usual_seconds(asked, name), is_usual)
    lock.release()
    page = plots / "report.html"
    if page.is_file():
        print(f"\nThe report: {page}")


def _circuit_asked_for(circuit: str | None) -> str | None:
    """`--circuit` for the steps, which run in any folder. Raises `UserError` at once for a file without a circuit."""
    if circuit in (None, "paper", "auto"):
        return circuit
    path = named_path(circuit).resolve()
    read_circuit(path)
    return str(path)


def show_weights(options: argparse.Namespace) -> None:
    """Convert a model if needed, verify it, and print where it is."""
    model = load_model(options.model)
    print(f"{model.name}: {len(model.tensors)} tensors in {cache_folder()}, named by {description_path(options.model)}")
    if is_gpt2_small(model):
        print(f"all {len(model.tensors)} match the published hashes: --model gpt2 finds them here")
    print(f"fingerprint: {model.fingerprint}")


def show_circuits(options: argparse.Namespace) -> None:
    """Print a circuit, the paper's without a file; or evaluate several side by side, with the torch engine."""
    circuits = [PAPER if name == "paper" else named_as_read(read_circuit(named_path(name))) for name in options.files]
    if len(circuits) > 1 and options.to:
        raise UserError(
            f"{len(circuits)} circuits are compared, and none is printed as a file; name one, or leave out --to"
        )
    if len(circuits) > 1:
        settings = replace(Settings(engine="torch"), **evaluation_flags(options))
        experiment = start_experiment(settings, model=choose_model(options.model)[0])
        sentences = experiment.YY, experiment.END, experiment.clusters
        print(rivals.table(rivals.compared(experiment.engine, experiment.metric, circuits, *sentences)))
        return
    (circuit,) = circuits or [PAPER]
    sizes = load_model(options.model).architecture if options.model else GPT2_SMALL
    print(PRINTED[options.to](circuit, sizes) if options.to else f"{circuit.name}\n\n{table(circuit)}")


def compare_models(options: argparse.Namespace) -> None:
    """Print a table of several models: does each do greater-than, by which circuit, and how deep does that lie?"""
    settings = replace(RandomCircuitSettings(engine="torch", circuits=options.circuits), **evaluation_flags(options))
    for name in options.models:  # a missing model is noticed before anything is evaluated
        load_model(name)
    found = [_of_model(replace(settings, model=name)) for name in options.models]
    if not any(each.means for each in found):
        raise UserError(f"{found[0].name}: {found[0].remark}")
    print(f"\n{across_models.table(found)}")
    if options.csv:
        write_text(options.csv, across_models.as_csv(found))


def _of_model(settings: RandomCircuitSettings) -> across_models.OfModel:
    """A model's row; for a model that cannot be evaluated, the reason."""
    try:
        experiment = start_experiment(settings)
    except UserError as reason:
        return across_models.OfModel(settings.model, remark=f"it cannot be asked: {reason}")
    sharpness = partial(cutoff_sharpness, start_yy=experiment.dataset.years_YY)
    metrics: dict[str, Metric] = {"probability difference": experiment.metric, "cutoff sharpness": sharpness}
    sentences = experiment.YY, experiment.END, experiment.clusters
    return across_models.of_model(
        across_models.Asked(experiment.engine, metrics, *sentences), settings.circuits, settings.seed
    )


def explain_cell(options: argparse.Namespace) -> None:
    """What is a cell of a figure? Its paths, its value in the artifact, and the same asked again."""
    settings = PlotSettings(options.model, options.artifacts, options.figures)
    plots = settings.plot_folder(options.model or "gpt2")
    panels = read_panels(settings.artifact_folder(), plots)
    panel, words = choose_panel(panels, options.figure, options.cell, drawn_figures(plots))
    cell = explain.cell_of(panel, words)
    for line in explain.explained(panel, cell, _asked_again(panel), options.sentences):
        print(line, flush=True)


def _asked_again(panel: Panel) -> explain.Asked:
    """The experiment of a panel's run, on the same sentences: of its task, if the artifact is of one."""
    record, task = panel.made.record, panel.about.get("task")
    kept = ("model", "engine", "device", "n", "seed", "as_published", "memory_gb")
    settings = Settings(**{name: record["settings"][name] for name in kept})
    experiment = start_experiment(settings, balanced=panel.made.script != "big_ds_experiments")
    if experiment.model.fingerprint != record["model"]["fingerprint"]:
        raise UserError(f"{panel.artifact} is of {model_of(panel.made)}, which {settings.model} is not any more")
    dataset: YearDataset | TaskDataset = experiment.dataset
    engine, metric_of = experiment.engine, greater_than
    if task is not None:
        dataset = build(TASKS[task], load_tokenizer(), settings.seed)
        engine, metric_of = experiment.engine_for(dataset), partial(greater_than, valid=TASKS[task].valid)
    clusters, sentence = clusters_of(dataset.as_table()), dataset.good_sentences[0]
    return explain.Asked(engine, dataset.years_YY, metric_of, dataset.yy_position, clusters, settings.seed, sentence)


def _as_eap_ig(circuit: Circuit, sizes: Architecture) -> str:
    """A circuit as EAP-IG's JSON, for a model of these sizes; lines say what that format cannot hold."""
    text = json.dumps(as_graph(circuit.links, sizes), indent=1)
    if circuit.placed:
        print("left out: positions; its edges hold at every one", file=sys.stderr)
    if whole := [link for link in circuit.links if link.sender == EVERYTHING]:
        inputs = f"{len(whole)} inputs that are read whole, as {whole[0].via} of {whole[0].reader}"
        print(f"beside the edges: {inputs}, for which EAP-IG has no name", file=sys.stderr)
    return text


def _as_edges(circuit: Circuit) -> str:
    """A circuit as a text of edges, with arrows that the output can show; a line says what the text loses."""
    if loose := on_paths(circuit.links)[1]:
        heads = in_order({bare(link.sender) for link in loose})
        print(f"lost in a text of edges: {', '.join(heads)}, which read nothing; --json keeps them", file=sys.stderr)
    text = as_text(circuit.links)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")  # no output if it is closed
    except UnicodeEncodeError:
        return text.replace("→", "->")
    return text


PRINTED: dict[str, Callable[[Circuit, Architecture], str]] = {  # by format
    "json": lambda circuit, sizes: json.dumps(as_json(circuit), indent=2),
    "eap-ig": _as_eap_ig,
    "edges": lambda circuit, sizes: _as_edges(circuit),
}
COMMANDS: dict[str, Callable[[Any], None]] = {
    "": run_everything,
    "results": results.main,
    "report": report.main,
    "compare": compare.main,
    "explain": explain_cell,
    "weights": show_weights,
    "circuit": show_circuits,
    "models": compare_models,
}


def main(asked: tuple[str, Any]) -> None:
    """Run what `read` has read."""
    prepare()
    command, options = asked
    COMMANDS[command](options)


if __name__ == "__main__":
    main(ASKED)
