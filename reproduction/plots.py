"""What a plotting script makes from artifacts: figures and tables of one model, published with a record."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from path_patching.errors import UserError
from path_patching.files import write_text
from reproduction.figures import PLOTLY_JS, figure_files, titled
from reproduction.provenance import made_by
from reproduction.publication import (
    Publication,
    invocation,
    open_publication,
    record_path,
    script_of,
    sha256,
    writing_to,
)
from reproduction.run import Artifacts, check_alike, model_of
from reproduction.settings import PlotSettings, model_folder
from reproduction.terminal import in_notebook, seconds_so_far
from reproduction.window import show


@dataclass(frozen=True)
class Plots:
    """The figures and other files of one script, added by its cells one after another."""

    publication: Publication
    sources: tuple[Artifacts, ...]
    might_read: tuple[str, ...] = ()
    titles: dict[str, str] = field(default_factory=dict)
    shows: dict[str, dict[str, str]] = field(default_factory=dict)
    """By figure: the artifact that each of its panels shows, by the panel's title, which is empty if it is the only."""

    def titled(self, what: str) -> str:
        """A figure's title: what it shows, and of which model."""
        return titled(what, self.sources[0].record)

    def plainly_titled(self, what: str) -> str:
        """The same for a page or a table."""
        return html.unescape(self.titled(what))

    def write(self, figure: go.Figure, name: str, shows: Mapping[str, str] | None = None) -> None:
        """Stage a figure's files; show it in a notebook. `name` may begin with a subfolder ("appendix/m11-ipp").

        `shows` says which artifact each panel shows, by the panel's title: `reproduce.py explain` asks for its cells.
        """
        files = figure_files(figure, name)
        for file, content in files.items():
            self.publication.stage(file, content)
        self.titles[name] = html.unescape(figure.layout.title.text)
        self.shows[name] = {html.unescape(panel): artifact for panel, artifact in (shows or {}).items()}
        if in_notebook():
            show(figure, files.get(f"{name}.png"))

    def publish(self, **more: object) -> None:
        """Move all files into their folder, and delete files of an earlier run that are not made any more.

        `more` is kept in the record. Raises `UserError` if the folder cannot be written to.
        """
        path, script = self.publication.folder / PLOTLY_JS, get_plotlyjs()
        with writing_to(path.parent):
            if self.titles and (not path.is_file() or path.read_text(encoding="utf-8") != script):
                write_text(path, script)
        beside = {PLOTLY_JS: sha256(path)} if self.titles else {}
        self.publication.publish({**self._record(), "beside": beside, **more})

    def _record(self) -> Mapping[str, object]:
        paths = [record_path(source.folder, source.script) for source in self.sources]
        absent = {record_path(Path(), script).name: None for script in self.might_read}
        return {
            **made_by(script_of(self.publication.name)),
            "model": self.sources[0].record["model"],
            "warnings": list(
                dict.fromkeys(each for source in self.sources for each in source.record.get("warnings", ()))
            ),
            "seconds": seconds_so_far(),
            "read": absent | {path.name: sha256(path) for path in paths},
            "figures": self.titles,
            "shows": self.shows,
        }


def start_plots(name: str, settings: PlotSettings, *sources: Artifacts, might_read: Sequence[str] = ()) -> Plots:
    """Open what a script draws from the artifacts of one or more others; for `name` see `publication.Publication`.

    `might_read` are scripts whose artifacts it would also have read if they had been there. Raises `UserError` if the
    sources are of different models or circuits, or of another model than was asked for (it names both), and if the
    folder for the figures is busy or cannot be written to.
    """
    first = sources[0]
    check_alike(sources)
    if settings.model is not None and model_folder(settings.model) != first.model_folder:
        raise UserError(
            f"--model {settings.model} was asked for, but {record_path(first.folder, first.script)} is of "
            f"{model_of(first)}; leave --model out, or give that model's folder with --artifacts"
        )
    folder = settings.plot_folder(first.record["settings"]["model"])
    return Plots(open_publication(name, folder), sources, tuple(might_read))


def check_up_to_date(made: Artifacts, folder: Path) -> None:
    """Raise `UserError` if a script's results were made from other artifacts than those in `folder` now."""
    for name, hash_ in made.record["read"].items():
        path = folder / name
        if (sha256(path) if path.is_file() else None) != hash_:
            raise UserError(
                f"what {made.script} made is of another run than {path}; run {invocation(made.script)} again"
            )
