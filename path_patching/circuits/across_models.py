"""Models side by side: whether each does a task, by which circuit, how deep it lies, and what it shares with the first.

For each model M, on its engine's sentences:

    means           the mean of each metric; the first is high where the model does the task
    nodes           heads and MLPs at END and at YY of the circuit C that `find_circuit` finds for the first metric
    depth           mean of layer / (layers − 1) over C's heads at END, and over its MLPs there
    F               (m(C) − m(∅)) / (m(M) − m(∅)), normalized faithfulness of its full circuit alone
    p               (1 + #{F(random) ≥ F(C)}) / (1 + drawn), for full random circuits of C's shape from any layers
    shared          with the first model's circuit by relative depth (`depths`), and what random circuits share with it

A model does the task if the mean of the first metric is above 0, and above that on corrupted sentences, each with its
whole interval. Otherwise no circuit is searched for. F and p are measured on the sentences on which C was found. Depths
are those at END: nodes at YY are early in every model.

    >>> asked = Asked(engine, {"share of high years": lambda probs: probs[:, 50:].sum(1)}, YY, END)
    >>> found = of_model(asked, circuits=3)
    >>> found.remark  # empty where there is nothing to say
    'it does not do the task: its mean share of high years is not clearly above that on corrupted sentences'
    >>> print(table([found]))
    model            share of high years ...
    random (seed 0)  0... [0..., 0...] ...
"""

from __future__ import annotations

import csv
import io
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from statistics import fmean
from typing import Any

import torch

from path_patching.bootstrap import Clusters, Estimate
from path_patching.circuits.circuit import END, YY, Circuit, full_circuit, place_of
from path_patching.circuits.depths import Histogram, histogram, mean_depth, shared
from path_patching.circuits.rivals import numbered
from path_patching.circuits.search import find_circuit
from path_patching.circuits.validation.matched import p_value, random_parts
from path_patching.circuits.validation.measuring import Scale, measured
from path_patching.defaults import CIRCUITS_OF_MODELS
from path_patching.engine import Engine, Request
from path_patching.errors import UserError
from path_patching.gpt2.model import Architecture
from path_patching.sweeps import Metric

WIDTH = 120  # columns of a terminal
NARROWEST = 8  # columns for a model's name, at least
NOTHING = "–"
GAP = "  "
LEGEND = (
    "Metrics are means in ones: 0.8 is 80 points. nodes: of the circuit found by rule, heads and MLPs at END and at "
    "YY. depth: mean of layer / (layers − 1) of its heads and of its MLPs at END. F: normalized faithfulness of the "
    "full circuit, 0 with everything corrupted, 1 for the whole model. p: the share of random circuits of its shape, "
    "with the circuit itself, that reach its F. shared: what it shares with the first model's by kind, place and "
    "relative depth, 0 to 1; in brackets the mean for the random circuits."
)


@dataclass(frozen=True, eq=False)
class Asked:
    """What is asked of a model: its engine, the metrics, and the positions of YY and END."""

    engine: Engine
    metrics: Mapping[str, Metric]
    """By name; a circuit is searched for with the first."""
    yy_position: int
    end: int
    clusters: Clusters = ()


@dataclass(frozen=True, eq=False)
class OfCircuit:
    """The circuit found in a model, and its measurements."""

    circuit: Circuit
    sizes: Architecture
    """Sizes of its model."""
    faithfulness: Estimate
    """F."""
    p: float | None
    """None if there is no other circuit of its shape."""
    drawn: tuple[Circuit, ...]
    """The random circuits."""

    @property
    def histogram(self) -> Histogram:
        """Its nodes by kind, place and depth."""
        return histogram(self.circuit, self.sizes.n_layers)

    def at(self, place: str) -> int:
        """How many nodes it has at END or YY."""
        return sum(place_of(each) == place for each in self.circuit.members)

    def chance(self, first: OfCircuit) -> float | None:
        """What random circuits of its shape share with the first one; None if there are none."""
        by_chance = [shared(first.histogram, histogram(each, self.sizes.n_layers)) for each in self.drawn]
        return fmean(by_chance) if by_chance else None


@dataclass(frozen=True, eq=False)
class OfModel:
    """A model's measurements; a remark says what is missing and why."""

    name: str
    means: Mapping[str, Estimate] = field(default_factory=dict)
    found: OfCircuit | None = None
    remark: str = ""


def of_model(asked: Asked, circuits: int = CIRCUITS_OF_MODELS, seed: int = 0) -> OfModel:
    """One model's row. Its circuit is compared with `circuits` random ones. A remark says what is missing."""
    engine, name, (explained, metric) = asked.engine, asked.engine.model.name, next(iter(asked.metrics.items()))
    clean, corrupted = measured(engine, [Request.clean(), Request.corrupted()], [*asked.metrics.values()]).unbind(1)
    scale = Scale(metric, clean[0], corrupted[0], asked.clusters)
    means = dict(zip(asked.metrics, scale.means(clean), strict=True))
    if not means[explained].low > 0:
        return OfModel(name, means, remark=f"it does not do the task: its mean {explained} is not clearly above 0")
    if not scale.mean(scale.span).low > 0:
        of_corrupted = f"its mean {explained} is not clearly above that on corrupted sentences"
        return OfModel(name, means, remark=f"it does not do the task: {of_corrupted}")
    try:
        circuit = find_circuit(engine, metric, asked.yy_position, asked.end).circuit
    except UserError as reason:
        return OfModel(name, means, remark=f"no circuit is found: {reason}")
    return _with_circuit(OfModel(name, means), asked, scale, circuit, circuits, seed)


def _with_circuit(of: OfModel, asked: Asked, scale: Scale, circuit: Circuit, circuits: int, seed: int) -> OfModel:
    """The row of a model with its circuit."""
    sizes, remark = asked.engine.model.architecture, ""
    drawn: list[Circuit] = []
    try:
        drawn = random_parts(circuit, _links_alone, "any layers", sizes, circuits, seed)
    except UserError as reason:
        remark = f"its circuit is compared with no other: {reason}"
    requests = [Request.isolate(full_circuit(each, asked.yy_position, asked.end)) for each in (circuit, *drawn)]
    own, *others = measured(asked.engine, requests, [scale.metric])[0]
    p = p_value(scale.of_means(torch.stack(others)), scale.of_means(own).item()) if others else None
    return OfModel(of.name, of.means, OfCircuit(circuit, sizes, scale.normalized(own), p, (*drawn,)), remark)


def _links_alone(circuit: Circuit) -> Circuit:
    """A circuit without its name and studied heads: two with the same links are equal."""
    return Circuit("a circuit", circuit.links)


def as_rows(found: Sequence[OfModel]) -> list[dict[str, object]]:
    """A row for each model: every number by its column's name; None where a model has none.

    Raises `UserError` if there is no model.
    """
    first, metrics = _first(found), dict.fromkeys(name for each in found for name in each.means)
    rows = []
    for name, each in zip(numbered([each.name for each in found]), found, strict=True):
        row: dict[str, object] = {"model": name}
        for metric in metrics:
            row |= _with_ends(metric, each.means.get(metric))
        rows.append(row | _of_circuit(each.found, first) | {"remark": each.remark or None})
    return rows


def as_csv(found: Sequence[OfModel]) -> str:
    """The same as a CSV file's text. Raises `UserError` if there is no model."""
    rows, text = as_rows(found), io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _first(found: Sequence[OfModel]) -> OfCircuit | None:
    """The circuit with which the others are compared."""
    if not found:
        raise UserError("no model is given; give one or more")
    return found[0].found


def _ends(name: str) -> tuple[str, str, str]:
    """The names of the columns for a number and for the ends of its interval."""
    return name, f"{name}, low", f"{name}, high"


def _with_ends(name: str, of: Estimate | None) -> dict[str, object]:
    """A number and the ends of its interval by column."""
    return dict(zip(_ends(name), (of.value, of.low, of.high) if of else (None,) * 3, strict=True))


def _of_circuit(of: OfCircuit | None, first: OfCircuit | None) -> dict[str, object]:
    """The numbers of a circuit by column."""
    depths = {kind: mean_depth(of.circuit, kind, END, of.sizes.n_layers) if of else None for kind in ("head", "mlp")}
    return {
        "nodes at END": of and of.at(END),
        "nodes at YY": of and of.at(YY),
        "mean depth of heads at END": depths["head"],
        "mean depth of MLPs at END": depths["mlp"],
        **_with_ends("F", of.faithfulness if of else None),
        "p": of and of.p,
        "random circuits": of and len(of.drawn),
        "shared with the first": shared(first.histogram, of.histogram) if of and first else None,
        "shared by random circuits": of.chance(first) if of and first else None,
        "circuit": of and " ".join(of.circuit.members),
    }


def table(found: Sequence[OfModel]) -> str:
    """A table of models, then what its columns mean, and the remarks; lines have at most `WIDTH` letters.

    Raises `UserError` if there is no model.
    """
    rows = as_rows(found)
    metrics = dict.fromkeys(name for each in found for name in each.means)
    heading = ["model", *metrics, "nodes END, YY", "depth heads, MLPs", "F", "p", "shared"]
    cells = [_cells(row, [*metrics], number == 0) for number, row in enumerate(rows)]
    remarks = [f"{row['model']}: {row['remark']}" for row in rows if row["remark"]]
    below = [textwrap.fill(text, WIDTH) for text in (LEGEND, *remarks)]
    return "\n\n".join(["\n".join(_laid_out([heading, *cells])), *below])


def _cells(row: Mapping[str, Any], metrics: Sequence[str], is_first: bool) -> list[str]:
    """The texts of a row by column; the first model shares nothing with itself."""
    intervals = [_joined("{:.3f} [{:.3f}, {:.3f}]", *(row[part] for part in _ends(name))) for name in (*metrics, "F")]
    nodes = _joined("{}, {}", row["nodes at END"], row["nodes at YY"])
    depths = [_joined("{:.2f}", row[f"mean depth of {each} at END"]) for each in ("heads", "MLPs")]
    in_common, by_chance = row["shared with the first"], row["shared by random circuits"]
    chance = f" ({by_chance:.2f})" if by_chance is not None else ""
    common = NOTHING if is_first or in_common is None else f"{in_common:.2f}{chance}"
    depth = NOTHING if nodes == NOTHING else ", ".join(depths)
    return [row["model"], *intervals[:-1], nodes, depth, intervals[-1], _joined("{:.2g}", row["p"]), common]


def _joined(pattern: str, *numbers: Any) -> str:
    """Numbers as a text; a dash if there are none. A zero has no sign."""
    if None in numbers:
        return NOTHING
    return re.sub(r"-(0\.0+)(?!\d)", r"\1", pattern.format(*numbers))


def _laid_out(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows as lines of columns, the heading first.

    The heading is broken between words. The first column is cut if the lines would be too long.
    """
    widths = [max(map(len, [*words.split(), *column])) for words, *column in zip(*rows, strict=True)]
    widths[0] = max(NARROWEST, min(widths[0], WIDTH - sum(widths[1:]) - len(GAP) * len(widths[1:])))
    for row in rows:
        parts = [textwrap.wrap(text, width) for text, width in zip(row, widths, strict=True)]
        for line in zip_longest(*parts, fillvalue=""):
            yield GAP.join(f"{text:{width}}" for text, width in zip(line, widths, strict=True)).rstrip()
