"""What a notebook, or an editor's interactive window, shows: figures, and after each cell those of what it has made.

In a window a cell that saves one of `KINDS` is followed by its figure, as the paper has it; a script shows none, and
the plotting scripts draw the same from what it published.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import plotly.graph_objects as go
import plotly.io

from path_patching.circuits.circuit_file import links_from_json
from reproduction import figures
from reproduction.circuit_drawing import INPUTS, circuit_figure
from reproduction.figures import escaped, titled
from reproduction.rendering import render, renderer_starts
from reproduction.run import Run
from reproduction.terminal import after_each_cell

About = Mapping[str, Any]  # an entry of a run's index
Panels = Mapping[str, Any]  # artifacts by what they show

LENSES = {"head": figures.logit_lenses, "mlp": figures.relative_logit_lenses}
KINDS: Mapping[str, tuple[str, Callable[[Panels, str, About], go.Figure]]] = {
    "sweep": ("Path patching", lambda panels, title, _: figures.sweeps(panels, title, one_range=False)),
    "probabilities": ("Probability heatmap", lambda panels, title, _: figures.probability_heatmaps(panels, title)),
    "attention": (
        "Mean attention pattern",
        lambda panels, title, about: figures.attention_patterns(panels, about["prompt"], title),
    ),
    "logit_lens": ("Logit lens", lambda panels, title, about: LENSES[about["of"]](panels, title)),
    "circuit": (
        "Circuit",
        lambda panels, title, _: circuit_figure(links_from_json(next(iter(panels.values()))["links"]), title),
    ),
}


def show(figure: go.Figure, png: bytes | None = None) -> None:
    """Show a figure in a window: as plotly's data, and as a picture (`png`, if it was rendered before).

    GitHub and converted notebooks show the picture.
    """
    from IPython.display import display  # imported here: only a window has to have it

    shown = plotly.io.renderers["plotly_mimetype"].to_mimebundle(figure.to_dict())
    if png or renderer_starts():
        shown["image/png"] = base64.b64encode(png or render(figure, "png")).decode()
    size = {side: round(figure.layout[side]) for side in ("width", "height")}
    alone = {"image/png": size | {"alt": html.unescape(figure.layout.title.text)}}
    display(shown, metadata=alone, raw=True)  # type: ignore[no-untyped-call]


def show_what_cells_make(run: Run) -> None:
    """From here on, each cell is followed by the figures of what it has saved for this run."""
    shown: dict[str, About] = {}

    def show_what_is_new(*_: object) -> None:
        saved = {name: about for name, about in run.index.items() if shown.get(name) is not about}
        shown.update(saved)
        in_cells = {name: about for name, about in saved.items() if "cell" not in about}  # else a script, in %run
        for figure in figures_of(in_cells, run.staged, lambda what: titled(what, run.provenance)):
            show(figure)

    after_each_cell(show_what_is_new)


def figures_of(
    saved: Mapping[str, About], load: Callable[[str], Any], title_of: Callable[[str], str]
) -> Iterator[go.Figure]:
    """The figures of artifacts, given their entries in the run's index: one of each kind, with a panel for each."""
    by_kind: dict[tuple[str, object], dict[str, str]] = {}
    for name, about in saved.items():
        if about["kind"] in KINDS:
            key = about["kind"], about.get("of") if about["kind"] == "logit_lens" else None
            by_kind.setdefault(key, {})[_words(about)] = name
    for (kind, _), names in by_kind.items():
        what, draw = KINDS[kind]
        panels = {words if len(names) > 1 else "": load(name) for words, name in names.items()}
        title = title_of(what if len(names) > 1 else f"{what}: {next(iter(names))}".removesuffix(": "))
        yield draw(panels, title, saved[next(iter(names.values()))])


def _words(about: About) -> str:
    """What an artifact shows, told apart from others of its kind."""
    task = f"task {about['task']}, " if "task" in about else ""
    if about["kind"] == "sweep":
        reader = about.get("receiver") or f"{INPUTS[about['through']]} of {about['of']}"
        return f"{task}node at {about['position']} → {reader}"
    return task + escaped(str(about.get("evaluation", about.get("node", ""))).replace("_", " ").replace("/", ", "))
