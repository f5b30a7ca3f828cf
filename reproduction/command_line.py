"""Reading a script's flags, the same for every script; in an editor's interactive window, their defaults.

Scripts import this module first, before slow or missing packages: from then on an error is one line. They read
their settings before the rest, too, so that `--help` and a wrong flag are answered at once.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from reproduction.terminal import arguments_of, begin, explain_errors
from reproduction.terminal import prepare as prepare  # for scripts with flags of their own

if TYPE_CHECKING:
    from reproduction.settings import PlotSettings, Settings

begin()

CIRCUIT_FLAG = "circuit"

AnySettings = TypeVar("AnySettings", bound="Settings | PlotSettings")


def read_settings(
    description: str,
    defaults: AnySettings,
    arguments: list[str] | None = None,
    program: str | None = None,
) -> AnySettings:
    """Settings of a script: a flag for every field, or `defaults` as they stand in an interactive window.

    `description` is the script's docstring. Experiments that evaluate no circuit have no `--circuit`. From here on, an
    error that the user can mend ends the script with one line. An experiment prints what it asks of which model: until
    its next line, much is imported.
    """
    script = sys._getframe(1).f_globals.get("__file__", "")  # the caller's; a cell has none
    given = arguments_of(script) if arguments is None else arguments
    if given is None:
        return defaults
    explain_errors()
    parser = argparse.ArgumentParser(
        prog=program,
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    for option in fields(defaults):
        if option.name != CIRCUIT_FLAG or _evaluates_circuit(script):
            _add_flag(parser, option.name, getattr(defaults, option.name), dict(option.metadata))
    settings = replace(defaults, **vars(parser.parse_args(given)))
    if hasattr(settings, "asked"):
        print(f"{Path(script).name}: {settings.asked()}", flush=True)
    return settings


def _evaluates_circuit(script: str) -> bool:
    from reproduction.experiments import EXPERIMENTS

    listed = EXPERIMENTS.get(Path(script).stem)
    return listed is None or listed.evaluates_circuit


def _add_flag(parser: argparse.ArgumentParser, name: str, default: Any, flag_of: dict[str, Any]) -> None:
    option = f"--{name.replace('_', '-')}"
    if isinstance(default, bool):
        parser.add_argument(option, action=argparse.BooleanOptionalAction, default=default, help=flag_of["help"])
    elif flag_of.get("several"):
        chosen = {"nargs": "+", "action": _Tuple, "choices": flag_of["choices"], "metavar": name.upper()}
        parser.add_argument(option, type=flag_of["parse"], default=default, help=flag_of["help"], **chosen)
    else:
        parser.add_argument(
            option, type=flag_of["parse"], default=default, choices=flag_of["choices"], help=flag_of["help"]
        )


class _Tuple(argparse.Action):
    """Keeps several values as a tuple, so that settings stay values."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, tuple(values))
