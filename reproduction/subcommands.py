"""What the subcommands of `reproduce.py` are asked: their flags, read before anything that takes long is imported."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from reproduction.command_line import read_settings

from path_patching.defaults import CIRCUITS_OF_MODELS, ENGINES
from path_patching.errors import UserError
from path_patching.files import named_path
from path_patching.gpt2.names import A_MODEL
from reproduction.settings import PlotSettings, Settings, flag

RESULTS = """Every number of the paper beside the measured one.

Run the experiments first (`make figures` runs them and this). The table is printed, and published in paper-plots as
results.md, results.csv and results.json. The paper's numbers and the verdicts are for GPT-2 small alone. With --check,
the exit status is 1 if a verdict is “differs”, or if something that the paper states was not measured.
"""
REPORT = """Everything on one page.

Run the experiments, the plotting scripts and `reproduce.py results` first (`make figures` runs them and this). The
page, report.html in paper-plots, answers the paper's questions in its order. It has every figure, the results table,
and the commands that made them. It needs no network and no other file.
"""
COMPARE = """Are two runs the same? The largest difference of each artifact.

Run the experiments twice into two folders, say with --engine rust_circuit --out A and with --engine torch --out B. Both
need the same model and settings. Where nearly equal effects have swapped ranks, the effects are compared.
"""
EVALUATION_FLAGS = ("engine", "device", "n", "seed")
FORMATS = ("json", "eap-ig", "edges")  # of a circuit's file


@dataclass(frozen=True)
class ResultsSettings(PlotSettings):
    """The settings of `reproduce.py results`."""

    check: bool = flag(False, "exit with status 1 if a verdict fails")


def results(arguments: list[str]) -> ResultsSettings:
    """Whose results, and are they held to the paper?"""
    return read_settings(RESULTS, ResultsSettings(), arguments, program="reproduce.py results")


def report(arguments: list[str]) -> PlotSettings:
    """Whose report?"""
    return read_settings(REPORT, PlotSettings(), arguments, program="reproduce.py report")


def compare(arguments: list[str]) -> argparse.Namespace:
    """Which two runs, and within what? Raises `UserError` for what is no difference."""
    parser = argparse.ArgumentParser(
        prog="reproduce.py compare", description=COMPARE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs=2, type=named_path, metavar="FOLDER")
    parser.add_argument("--within", type=float, help="exit with status 1 if something differs by more")
    options = parser.parse_args(arguments)
    if options.within is not None and not options.within >= 0:
        raise UserError(f"--within {options.within}: give a difference of zero or more")
    return options


def explain(arguments: list[str]) -> argparse.Namespace:
    """Which cell of which figure? Raises `UserError` for no sentences."""
    words = "What is a cell of a figure? Its paths, its value in the artifact, and the same asked again."
    parser = _parser("explain", words)
    parser.add_argument("figure", metavar="FIGURE", help="its name, as mlps-ipp")
    parser.add_argument("cell", nargs="*", metavar="CELL", help="the panel, if it has several, and the cell: m8 a7.h10")
    parser.add_argument("--model", help="whose figures: the name that the run was given; gpt2 by default")
    parser.add_argument("--artifacts", type=named_path, help="folder with the artifacts")
    parser.add_argument("--figures", type=named_path, help="folder with the figures")
    parser.add_argument("--sentences", type=int, default=5, help="how many are asked of the reference, which is slow")
    options = parser.parse_args(arguments)
    if options.sentences < 1:
        raise UserError(f"--sentences {options.sentences}: give one or more")
    return options


def weights(arguments: list[str]) -> argparse.Namespace:
    """Which model?"""
    parser = _parser("weights", "Convert a model if needed, verify it, and print where it is.")
    parser.add_argument("--model", default="gpt2", help=A_MODEL)
    return parser.parse_args(arguments)


def circuit(arguments: list[str]) -> argparse.Namespace:
    """Which circuits, printed how or evaluated how? Raises `UserError` for flags that do not fit their number."""
    words = "Print a circuit, the paper's without a file; or evaluate several side by side, with the torch engine."
    parser = _parser("circuit", words)
    parser.add_argument("files", nargs="*", metavar="FILE", help="paper, or a circuit's file: JSON, or a text of edges")
    parser.add_argument("--to", choices=FORMATS, help="print it as a file: of ours, of EAP-IG's and MIB's, or of edges")
    parser.add_argument("--json", action="store_const", const="json", dest="to", help="the same as --to json")
    parser.add_argument("--model", help=A_MODEL)
    _add_evaluation_flags(parser.add_argument_group("of circuits side by side"))
    options = parser.parse_args(arguments)
    given = evaluation_flags(options)
    if given and len(options.files) < 2:
        raise UserError(f"--{next(iter(given))} is for circuits side by side; name another, or leave it out")
    return options


def models(arguments: list[str]) -> argparse.Namespace:
    """Which models, evaluated how?"""
    words = "Print a table of several models: does each do greater-than, by which circuit, and how deep does that lie?"
    parser = _parser("models", words)
    parser.add_argument("models", nargs="+", metavar="MODEL", help=A_MODEL)
    _add_evaluation_flags(parser)
    parser.add_argument("--circuits", type=int, default=CIRCUITS_OF_MODELS, help="random circuits of each shape")
    parser.add_argument("--csv", type=named_path, metavar="FILE", help="where to write the table, with every number")
    return parser.parse_args(arguments)


def evaluation_flags(options: argparse.Namespace) -> dict[str, Any]:
    """The flags for how circuits are evaluated, and on which sentences, that are given."""
    flags = {name: getattr(options, name) for name in EVALUATION_FLAGS}
    return {name: value for name, value in flags.items() if value is not None}


def _parser(command: str, words: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"reproduce.py {command}", description=words, allow_abbrev=False)


def _add_evaluation_flags(parser: argparse._ActionsContainer) -> None:
    """`EVALUATION_FLAGS`; None unless given."""
    parser.add_argument("--engine", choices=ENGINES, help="torch by default")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:i; auto by default")
    parser.add_argument("--n", type=int, help=f"number of sentences; {Settings.n} by default")
    parser.add_argument("--seed", type=int, help="seed of every random draw; 0 by default")


READERS: dict[str, Callable[[list[str]], Any]] = {
    "results": results, "report": report, "compare": compare, "explain": explain, "weights": weights,
    "circuit": circuit, "models": models,
}  # fmt: skip
