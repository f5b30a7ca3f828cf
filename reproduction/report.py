"""The report: one page that answers the paper's questions from the records of runs and figures.

Its content is looked up: sentences by `story`, the evidence of nodes and links by `evidence`, the drawing by
`circuit_svg`. The page's layout, style and behaviour are files in `page/`.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from plotly.offline import get_plotlyjs

from reproduction import story
from reproduction.circuit_svg import circuit_svg
from reproduction.claims import read_claims
from reproduction.evidence import Evidence, evidence, link_effects_of
from reproduction.experiments import EXPERIMENTS, PLOTS
from reproduction.figures import PLOTLY_DATA, titled
from reproduction.plots import check_up_to_date, start_plots
from reproduction.provenance import command, library_versions
from reproduction.publication import record_path
from reproduction.results import sections as table_sections
from reproduction.run import Artifacts, read_artifacts
from reproduction.settings import PlotSettings
from reproduction.shown import Panel, first_showing, panels_of
from reproduction.steps import read_experiments
from reproduction.verdicts import KIND, as_key, corrected_counts, count_smallest_p, read_left_out, read_verdicts
from reproduction.words import Explained, word_id

PAGE = Path(__file__).parent / "page"
PARTS = 2  # columns of the table of properties: late half, full circuit
DOUBTFUL_FIRST = ("failed", "not judged", "passed")  # the order of verdicts on the page


@dataclass(frozen=True)
class Figure:
    """A figure on the page: a picture, and plotly's data as text for a script element."""

    id: str
    title: str
    short: str
    below: str
    """Its subtitle."""
    width: int
    height: int
    data: str
    picture: str
    """WebP as a data URI; empty where no picture could be rendered."""
    commands: tuple[str, ...]
    name: str
    asks: frozenset[str]
    """What each of its panels shows, of whichever run; empty where the record does not say."""

    @property
    def is_drawing(self) -> bool:
        """Whether it draws a circuit, which is read from its right end, the logits."""
        return Path(self.name).name == "circuit"


@dataclass(frozen=True)
class Section:
    """A question with its answer and its figures."""

    id: str
    question: str
    sentences: tuple[str, ...]
    figures: tuple[Figure, ...]
    folded: tuple[Figure, ...] = ()
    """Figures that are seen once the reader unfolds them."""
    elsewhere: tuple[tuple[Figure, tuple[str, ...]], ...] = ()
    """Figures of the page that show what others do, too, and the names of those, which are not on the page."""
    words: tuple[str, ...] = ()

    @property
    def all_figures(self) -> tuple[Figure, ...]:
        """Its figures, folded or not."""
        return self.figures + self.folded

    @property
    def commands(self) -> list[str]:
        """The commands that made its figures."""
        return list(dict.fromkeys(command for figure in self.all_figures for command in figure.commands))


@dataclass(frozen=True)
class Answered:
    """What a circuit should be, and whether each of its parts is: an outcome, words, a verdict's identity.

    `unasked` says why a part has none.
    """

    word: str
    means: str
    cells: tuple[tuple[str, str, str] | None, ...]
    unasked: str


def figures_of(
    drawn: Artifacts, runs: Mapping[str, Artifacts], panels: Mapping[str, Mapping[str, Panel]]
) -> dict[str, Figure]:
    """The figures of a plotting script by name; `runs`, by their records' names, are what it may be drawn from.

    `panels` are those that show artifacts, by figure and title.

    Raises `UserError` if a figure's data is missing or damaged.
    """
    of_model = html.unescape(titled("", next(iter(runs.values())).record))
    commands = [runs[name].record["command"] for name in drawn.record["read"] if name in runs]
    found = {}
    for name, title in drawn.record["figures"].items():
        data = drawn.load(f"{PLOTLY_DATA}/{name}.json")
        found[name] = Figure(
            name.replace("/", "-"),
            title,
            title.removesuffix(of_model),
            html.unescape(data["layout"]["title"].get("subtitle", {}).get("text", "").replace("<br>", " ")),
            data["layout"]["width"],
            data["layout"]["height"],
            _in_script(data),
            _picture(drawn, f"{name}.png"),
            (*commands, drawn.record["command"]),
            name,
            frozenset(_asked(panel, data["data"][0]["type"]) for panel in panels.get(name, {}).values()),
        )
    return found


def _asked(panel: Panel, kind: str) -> str:
    """What a panel shows, and as which kind of plot: the same for the same question to another run."""
    about = {key: value for key, value in panel.about.items() if key not in ("cell", "nan")}
    return json.dumps([kind, about], sort_keys=True)


def sections_of(figures: Mapping[str, Figure], answers: story.Answers) -> list[Section]:
    """The sections in the paper's order; figures that no section names come last.

    What is shown already is not shown again.
    """
    left, sections, shown_by = dict(figures), [], dict[str, Figure]()
    for question in story.questions():
        of_question = {name: left.pop(name) for name in question.of(left)}
        shown, elsewhere = _each_once(of_question, shown_by)
        open_ = tuple(figure for name, figure in shown.items() if not question.folds(name))
        folded = tuple(figure for name, figure in shown.items() if question.folds(name))
        said = tuple(answers.of(question))
        sections.append(Section(question.id, question.question, said, open_, folded, elsewhere, question.words))
    sections.append(Section("others", "What else was drawn?", (), (*left.values(),)))
    return [each for each in sections if each.sentences or each.all_figures]


def _each_once(
    figures: Mapping[str, Figure], shown_by: dict[str, Figure]
) -> tuple[dict[str, Figure], tuple[tuple[Figure, tuple[str, ...]], ...]]:
    """Those figures that show something new, and which figures show what the others do; `shown_by` is added to."""
    shown: dict[str, Figure] = {}
    elsewhere: dict[str, tuple[Figure, list[str]]] = {}
    for name, figure in figures.items():
        if figure.asks and figure.asks <= shown_by.keys():
            first = shown_by[min(figure.asks)]
            elsewhere.setdefault(first.id, (first, []))[1].append(name)
        else:
            shown[name] = figure
            shown_by |= dict.fromkeys(figure.asks - shown_by.keys(), figure)
    return shown, tuple((first, tuple(names)) for first, names in elsewhere.values())


def page(
    title: str,
    command: str,
    runs: Mapping[str, Artifacts],
    results: Artifacts,
    figures: Mapping[str, Figure],
    panels: Mapping[str, Panel],
) -> str:
    """The whole page; it loads nothing from elsewhere. `panels` are those that show artifacts, by artifact."""
    environment = Environment(loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.globals["style"] = (PAGE / "page.css").read_text(encoding="utf-8")
    environment.globals |= {"told": Explained(story.forms()), "word_id": word_id}
    environment.globals["behaviour"] = (PAGE / "panel.js").read_text(encoding="utf-8")
    first = next(iter(runs.values())).record
    discovery = runs.get("circuit_discovery")
    effects = link_effects_of(discovery)
    drawing = circuit_svg(effects) if effects else None
    known = evidence(effects, runs, panels)
    nodes, links = _nodes_and_links(known)
    answers = story.Answers(runs, read_claims())
    return environment.get_template("page.html").render(
        title=title,
        command=command,
        model=first["model"]["name"],
        is_gpt2_small=first["model"]["is_gpt2_small"],
        answer=answers.of(story.summary()),
        drawing=drawing,
        hidden=sum(each.share < drawing.seen and not each.kept for each in drawing.links) if drawing else 0,
        counted=discovery.number("circuit/size") if discovery else None,
        nodes=nodes,
        links=links,
        sections=sections_of(figures, answers),
        words=story.words(),
        table=_results_table(results),
        runs=[run.record for run in runs.values()],
        versions=library_versions(),
        plotly_js=get_plotlyjs(),
        **_validation(runs.get("circuit_validation")),
    )


def _nodes_and_links(known: Mapping[str, Evidence]) -> tuple[list[Evidence], list[Evidence]]:
    return [each for each in known.values() if not each.shown], [each for each in known.values() if each.shown]


def _results_table(results: Artifacts) -> list[tuple[str, list[dict[str, object]]]]:
    table = pd.DataFrame(results.record["table"], dtype=object)
    return [(title, [{str(key): cell for key, cell in line.items()} for line in lines.to_dict("records")])
            for title, lines in table_sections(table)]  # fmt: skip


def _validation(validation: Artifacts | None) -> dict[str, object]:
    """The verdicts by outcome, the doubtful ones first, what they come to, and the questions that were not asked."""
    outcomes: list[tuple[str, str, list[dict[str, Any]]]] = []
    after, properties, beside, smallest_p = Counter[str](), list[Answered](), list[dict[str, Any]](), 0
    if validation is not None and validation.find(kind=KIND):
        table = read_verdicts(validation)
        rows = [{**line, "id": f"verdict-{place}"} for place, line in enumerate(table.to_dict("records"))]
        outcomes = [
            (as_key(outcome), outcome, [row for row in rows if row["verdict"] == outcome]) for outcome in DOUBTFUL_FIRST
        ]
        after, smallest_p = corrected_counts(table), count_smallest_p(table)
        properties, beside = _answered(rows), [row for row in rows if row["verdict"] == "failed" and not _in_cell(row)]
    changed = {}
    if validation is not None and (with_p := validation.number("verdicts/with_p")):
        changed = {outcome: words.format(with_p) for outcome, words in story.changed().items()}
    left_out = read_left_out(validation).to_dict("records") if validation else []
    return {
        "outcomes": outcomes,
        "after": after,
        "smallest_p": smallest_p,
        "properties": properties,
        "beside": beside,
        "changed": changed,
        "left_out": left_out,
    }


def _answered(rows: Sequence[Mapping[str, Any]]) -> list[Answered]:
    """What each property of a circuit comes to by the verdicts; those that no verdict asks for are left out."""
    found = []
    for each in story.properties():
        cells = []
        for part in each.parts:
            judged = [row for row in rows if each.of(story.bar_of(row["asked"]), part, row["subject"])]
            cells.append(_cell([row for row in judged if row["verdict"] != "not judged"] or judged))
        if any(cells):
            found.append(Answered(each.word, each.means, (*cells, None)[:PARTS], each.unasked))
    return found


def _in_cell(row: Mapping[str, Any]) -> bool:
    """Whether a verdict counts in the table of properties."""
    bar = story.bar_of(row["asked"])
    return any(each.of(bar, part, row["subject"]) for each in story.properties() for part in each.parts)


def _cell(rows: Sequence[Mapping[str, Any]]) -> tuple[str, str, str] | None:
    """An outcome, its words, and the verdict to read first, of some verdicts; None without any."""
    if not rows:
        return None
    passed = [row for row in rows if row["verdict"] == "passed"]
    first = next((row for row in rows if row["verdict"] == "failed"), rows[0])
    if rows[0]["verdict"] == "not judged":
        return "not_judged", "not judged", first["id"]
    if len(passed) == len(rows):
        return "passed", "yes", first["id"]
    if not passed:
        return "failed", "no", first["id"]
    return "not_judged", f"by {len(passed)} of {len(rows)} tests", first["id"]


def _picture(drawn: Artifacts, file: str) -> str:
    if file not in drawn.record["artifacts"]:
        return ""
    smaller = io.BytesIO()  # a quarter of the PNG, of which a page of all figures would have 18 MB
    with Image.open(drawn.check(file)) as picture:
        picture.convert("RGB").save(smaller, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(smaller.getvalue()).decode()}"


def _in_script(data: object) -> str:
    """JSON that can neither open nor end a script element."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def main(settings: PlotSettings) -> None:
    """Publish the report. Raises `UserError` if what it shows is of different models, or older than the runs."""
    folder = settings.artifact_folder()
    runs = read_experiments(folder)
    first = next(iter(runs.values()))
    plot_folder = settings.plot_folder(first.record["settings"]["model"])
    drawn = [read_artifacts(plot_folder, name) for name in PLOTS if record_path(plot_folder, name).is_file()]
    results = read_artifacts(plot_folder, "results")
    for made in (results, *drawn):
        check_up_to_date(made, folder)
    report = start_plots("report", settings, *runs.values(), results, *drawn, might_read=(*EXPERIMENTS, *PLOTS))
    by_record = {record_path(folder, run.script).name: run for run in runs.values()}
    panels = panels_of(drawn, folder)
    figures = {name: each for script in drawn for name, each in figures_of(script, by_record, panels).items()}
    title = report.plainly_titled("A reproduction of “How does GPT-2 compute greater-than?”")
    text = page(title, command("report"), runs, results, figures, first_showing(panels))
    report.publication.stage("report.html", text.encode())
    report.publish()
    print(f"{text.count('<figure id=')} figures are in {plot_folder / 'report.html'}")
