"""The report as HTML: a template filled with what the records of runs and figures say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from artifacts import Artifacts
from figures import PLOTLY_DATA, titled
from provenance import library_versions
from utils import ROOT

TEMPLATE = "report_page.html"
SECTIONS = {
    "circuit_discovery_plotting": "Circuit discovery",
    "big_ds_plotting": "Many sentences, and random circuits",
    "neuron_plots": "Single neurons",
    "pca_plots": "PCA and causal tests",
    "appendix_plots": "Other prompts",
}


class Figure(NamedTuple):
    """A figure as the page shows it, with a size in pixels; `data` is plotly's, fit to stand in a script element."""

    id: str
    title: str
    short: str
    file: str
    width: int
    height: int
    data: str


class Section(NamedTuple):
    """The figures of one plotting script, and the commands that make them."""

    id: str
    title: str
    commands: tuple[str, ...]
    figures: tuple[Figure, ...]


def section_of(drawn: Artifacts, runs: Mapping[str, Artifacts]) -> Section:
    """The section of a plotting script; `runs` are those that its figures may be drawn from, by their records' names.

    Raises `UserError` if a figure's data is missing or damaged.
    """
    of_model = titled("", next(iter(runs.values())).record)
    figures = []
    for name, title in drawn.record["figures"].items():
        data = drawn.load(f"{PLOTLY_DATA}/{name}.json")
        layout, short = data["layout"], title.removesuffix(of_model)
        identity = name.replace("/", "-")
        figures.append(
            Figure(identity, title, short, f"{name}.html", layout["width"], layout["height"], _in_script(data))
        )
    commands = [runs[name].record["command"] for name in drawn.record["read"] if name in runs]
    return Section(drawn.script, SECTIONS[drawn.script], (*commands, drawn.record["command"]), tuple(figures))


def page(title: str, command: str, runs: Sequence[Artifacts], results: Artifacts, sections: Sequence[Section]) -> str:
    """The whole page; it loads nothing from elsewhere."""
    environment = Environment(loader=FileSystemLoader(ROOT), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    table: dict[str, list[Mapping[str, object]]] = {}
    for row in results.record["table"]:
        table.setdefault(row["section"], []).append(row)
    model = runs[0].record["model"]
    return environment.get_template(TEMPLATE).render(
        title=title,
        command=command,
        model=model["name"],
        is_gpt2_small=model["is_gpt2_small"],
        table=table,
        sections=sections,
        runs=[run.record for run in runs],
        versions=library_versions(),
        plotly_js=get_plotlyjs(),
    )


def _in_script(data: object) -> str:
    """JSON that cannot end, or open, a script element."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
