"""Which panel of which figure shows which artifact, from the records of the plotting scripts (`Plots.write`)."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from path_patching.errors import UserError, shortened
from reproduction.experiments import EXPERIMENTS, PLOTS
from reproduction.plots import check_up_to_date
from reproduction.publication import record_path
from reproduction.run import Artifacts, read_artifacts


@dataclass(frozen=True)
class Panel:
    """A panel of a figure: its title, "" if it is the only one, and the artifact that it shows with its run."""

    figure: str
    title: str
    artifact: str
    made: Artifacts

    @property
    def about(self) -> Mapping[str, Any]:
        """The artifact's entry in the run's index."""
        about: Mapping[str, Any] = self.made.record["index"][self.artifact]
        return about

    @property
    def words(self) -> list[str]:
        """The words for `reproduce.py explain`: the last part of the figure's name, and the panel's title."""
        return [Path(self.figure).name, *([self.title] if self.title else [])]

    def command(self, cell: str) -> str:
        """The command that explains a cell."""
        model = self.made.record["settings"]["model"]
        flags = [] if model == "gpt2" else ["--model", model]
        return shlex.join(["python", "reproduce.py", "explain", *self.words, cell, *flags])


def read_panels(folder: Path, plots: Path) -> dict[str, dict[str, Panel]]:
    """The panels of all figures in `plots` that show artifacts in `folder`, by figure and title.

    Raises `UserError` if there are none, or if a figure was drawn from other artifacts than `folder` has now.
    """
    drawn = [read_artifacts(plots, name) for name in PLOTS if record_path(plots, name).is_file()]
    for each in drawn:
        check_up_to_date(each, folder)
    found = panels_of(drawn, folder)
    if not found:
        raise UserError(
            f"no figure in {plots} says which artifact it shows; draw them with python circuit_discovery_plotting.py, "
            "name their model with --model, or their folder with --figures"
        )
    return found


def panels_of(drawn: Sequence[Artifacts], folder: Path) -> dict[str, dict[str, Panel]]:
    """The panels of the figures of some plotting scripts, by figure and title; empty if there are none."""
    return {name: panels for each in drawn for name, panels in _panels_of(each, folder)}


def first_showing(panels: Mapping[str, Mapping[str, Panel]]) -> dict[str, Panel]:
    """The first panel that shows each artifact, by the artifact."""
    found: dict[str, Panel] = {}
    for of_figure in panels.values():
        for panel in of_figure.values():
            found.setdefault(panel.artifact, panel)
    return found


def _panels_of(drawn: Artifacts, folder: Path) -> Iterator[tuple[str, dict[str, Panel]]]:
    runs = [read_artifacts(folder, Path(name).stem) for name, hash_ in drawn.record["read"].items() if hash_]
    run_of = {artifact: run for run in runs for artifact in run.record.get("index", {})}
    for figure, shows in drawn.record.get("shows", {}).items():
        panels = {title: Panel(figure, title, name, run_of[name]) for title, name in shows.items() if name in run_of}
        if panels:
            yield figure, panels


def drawn_figures(plots: Path) -> list[str]:
    """The names of all figures in a folder."""
    return [name for script in PLOTS if record_path(plots, script).is_file()
            for name in read_artifacts(plots, script).record["figures"]]  # fmt: skip


def choose_panel(
    panels: Mapping[str, Mapping[str, Panel]], figure: str, words: Sequence[str], drawn: Collection[str] = ()
) -> tuple[Panel, Sequence[str]]:
    """The panel that a figure's name and, if it has several, the first word name; and the words left for the cell.

    A figure may be named by the last part of its name; `drawn` are the names of all, also of those without cells.
    Raises `UserError` with the names there are, and says whether the figure was left out of the run or is none.
    """
    named = {Path(name).name: name for name in panels} | {name: name for name in panels}
    if figure not in named:
        raise UserError(f"{_without_cells(figure, panels, drawn)}; these have: {', '.join(panels)}")
    of_figure = panels[named[figure]]
    if [*of_figure] == [""]:
        return of_figure[""], words
    if not words or words[0] not in of_figure:
        raise UserError(f"{figure} has the panels {', '.join(of_figure)}; name one of them after the figure")
    return of_figure[words[0]], words[1:]


def _without_cells(figure: str, panels: Mapping[str, Mapping[str, Panel]], drawn: Collection[str]) -> str:
    """Why a figure has no cells to explain: it has none, this run left it out, or there is no such figure."""
    if any(figure in (name, Path(name).name) for name in drawn):
        return f"the figure {figure} has no cells to explain"
    made = next(iter(next(iter(panels.values())).values())).made
    patterns = [pattern for experiment in EXPERIMENTS.values() for pattern in experiment.drawn]
    if any(fnmatchcase(figure, name) for pattern in patterns for name in (pattern, Path(pattern).name)):
        n = made.record["settings"]["n"]
        return (
            f"this run of {n:,} sentences has no figure {figure}: its plotting script was not run, or left it out, for "
            "too few sentences or for what its circuit lacks, and said so"
        )
    return f"no figure {shortened(figure)!r} has cells to explain"
