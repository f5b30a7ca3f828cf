"""The settings of a run: the same flags on every script, and their defaults in an editor's interactive window."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from utils import UserError, exit_on_user_error

ROOT = Path(__file__).parent
ENGINES = ("auto", "rust_circuit", "torch")


@dataclass(frozen=True)
class Settings:
    """What a run depends on. In an interactive window, change a field with `dataclasses.replace`."""

    model: str = "gpt2"  # gpt2, standin, or a folder with a Hugging Face GPT-2 checkpoint
    engine: str = "auto"  # auto, rust_circuit or torch
    device: str = "auto"  # auto, cpu, cuda or cuda:i
    n: int = 490  # sentences
    seed: int = 0  # of every random draw
    as_published: bool = False  # the published choices: erf GELU and all 768 years
    out: Path | None = None  # folder for artifacts; None: paper-cache, or paper-cache/<model> for another model
    memory_gb: float = 4.0  # what an engine may use for its batches, beside the model and its activations

    def artifact_folder(self) -> Path:
        """Where this run's artifacts go: `paper-cache` itself is for GPT-2 small alone."""
        return self.out or subfolder_of(ROOT / "paper-cache", self.model)

    def as_json(self) -> dict[str, object]:
        """The settings as plain values, for the run's record."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class PlotSettings:
    """What a plotting script depends on: artifacts alone, never a model."""

    model: str = "gpt2"  # whose artifacts: gpt2, standin, or the folder the run was given
    artifacts: Path | None = None  # folder with the artifacts; None: where the experiments put them by default
    out: Path | None = None  # folder for the figures; None: paper-plots, or paper-plots/<model> for another model

    def artifact_folder(self) -> Path:
        """The folder that the artifacts are read from."""
        return self.artifacts or subfolder_of(ROOT / "paper-cache", self.model)

    def plot_folder(self) -> Path:
        """The folder that the figures go to."""
        return self.out or subfolder_of(ROOT / "paper-plots", self.model)


def subfolder_of(folder: Path, model: str) -> Path:
    """`folder` for gpt2, otherwise a folder in it named for the model."""
    return folder if model == "gpt2" else folder / Path(model).resolve().name


def in_interactive_window() -> bool:
    """True in a notebook or an editor's interactive window, where `sys.argv` belongs to the kernel."""
    return hasattr(sys, "ps1") or "ipykernel" in sys.modules


def read_settings(description: str, defaults: Settings | None = None, arguments: list[str] | None = None) -> Settings:
    """Settings of an experiment script: its flags, or `defaults` as they stand in an interactive window.

    `description` is the script's docstring. Errors that a user can mend end the script with one line from here on.
    """
    defaults = defaults or Settings()
    if arguments is None and in_interactive_window():
        return defaults
    sys.excepthook = exit_on_user_error
    parser = _parser(description)
    parser.add_argument("--model", default=defaults.model, help="gpt2, standin, or a folder with a GPT-2 checkpoint")
    parser.add_argument("--engine", default=defaults.engine, choices=ENGINES)
    parser.add_argument("--device", default=defaults.device, help="auto, cpu, cuda or cuda:i")
    parser.add_argument("--n", type=int, default=defaults.n, help="number of sentences")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="seed of every random draw")
    parser.add_argument("--as-published", action="store_true", help="the published erf GELU and 768 years")
    parser.add_argument("--out", type=Path, default=defaults.out, help="folder for the artifacts")
    parser.add_argument("--memory-gb", type=float, default=defaults.memory_gb, help="memory for the engine's batches")
    return _checked(replace(defaults, **vars(parser.parse_args(arguments))))


def read_plot_settings(
    description: str, defaults: PlotSettings | None = None, arguments: list[str] | None = None
) -> PlotSettings:
    """Settings of a plotting script; like `read_settings`."""
    defaults = defaults or PlotSettings()
    if arguments is None and in_interactive_window():
        return defaults
    sys.excepthook = exit_on_user_error
    parser = _parser(description)
    parser.add_argument("--model", default=defaults.model, help="whose artifacts: gpt2, standin, or the run's folder")
    parser.add_argument("--artifacts", type=Path, default=defaults.artifacts, help="folder with the artifacts")
    parser.add_argument("--out", type=Path, default=defaults.out, help="folder for the figures")
    return replace(defaults, **vars(parser.parse_args(arguments)))


def _parser(description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )


def _checked(settings: Settings) -> Settings:
    if settings.n < 1:
        raise UserError(f"--n {settings.n}: a data set needs at least one sentence; give --n 1 or more")
    if settings.memory_gb <= 0:
        raise UserError(f"--memory-gb {settings.memory_gb}: give a positive number of gigabytes")
    return settings
