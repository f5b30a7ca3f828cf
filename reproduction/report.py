"""The report as HTML: a template filled with what the records of runs and figures say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from reproduction.command_line import read_settings

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from reproduction.experiments import EXPERIMENTS, PLOTS
from reproduction.figures import PLOTLY_DATA, titled
from reproduction.plots import check_up_to_date, start_plots
from reproduction.provenance import command, library_versions
from reproduction.publication import record_path
from reproduction.results import sections as table_sections
from reproduction.run import Artifacts, read_artifacts
from reproduction.settings import PlotSettings
from reproduction.steps import read_experiments
from reproduction.verdicts import KIND, read_left_out, read_verdicts

DESCRIPTION = """Everything on one page.

Run the experiments, the plotting scripts and `reproduce.py results` first (`make figures` runs them and this). The
page, report.html in paper-plots, holds the results table, every figure, interactive, and what made each of them. It
needs no network and no other file.
"""
TEMPLATE = "report.html"


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
    return Section(drawn.script, PLOTS[drawn.script].title, (*commands, drawn.record["command"]), tuple(figures))


def page(title: str, command: str, runs: Sequence[Artifacts], results: Artifacts, sections: Sequence[Section]) -> str:
    """The whole page; it loads nothing from elsewhere."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    environment.trim_blocks = environment.lstrip_blocks = True
    table = pd.DataFrame(results.record["table"], dtype=object)
    model, by_script = runs[0].record["model"], {run.script: run for run in runs}
    validation = by_script.get("circuit_validation")
    judged = read_verdicts(validation).groupby("asked", sort=False) if validation and validation.find(kind=KIND) else ()
    return environment.get_template(TEMPLATE).render(
        title=title,
        command=command,
        model=model["name"],
        is_gpt2_small=model["is_gpt2_small"],
        table=[(title, lines.to_dict("records")) for title, lines in table_sections(table)],
        circuit=validation.number("circuit/name") if validation else "",
        left_out=read_left_out(validation).to_dict("records") if validation else (),
        verdicts=[(asked, lines.to_dict("records")) for asked, lines in judged],
        sections=sections,
        runs=[run.record for run in runs],
        versions=library_versions(),
        plotly_js=get_plotlyjs(),
    )


def _in_script(data: object) -> str:
    """JSON that cannot end, or open, a script element."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def main(arguments: list[str]) -> None:
    """Publish the report. Raises `UserError` if what it shows is of different models, or older than the runs."""
    settings = read_settings(DESCRIPTION, PlotSettings(), arguments, program="reproduce.py report")
    folder = settings.artifact_folder()
    runs = list(read_experiments(folder).values())
    plot_folder = settings.plot_folder(runs[0].record["settings"]["model"])
    drawn = [read_artifacts(plot_folder, name) for name in PLOTS if record_path(plot_folder, name).is_file()]
    results = read_artifacts(plot_folder, "results")
    for made in (results, *drawn):
        check_up_to_date(made, folder)
    report = start_plots("report", settings, *runs, results, *drawn, might_read=(*EXPERIMENTS, *PLOTS))
    by_record = {record_path(folder, run.script).name: run for run in runs}
    sections = [section_of(figures, by_record) for figures in drawn]
    html = page(
        report.plainly_titled("How does GPT-2 compute greater-than?"), command("report"), runs, results, sections
    )
    report.publication.stage("report.html", html.encode())
    report.publish()
    print(f"{sum(len(section.figures) for section in sections)} figures are in {plot_folder / 'report.html'}")
