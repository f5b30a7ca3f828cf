"""A cell of a figure, explained: what it is, its value in the artifact, and the same value measured again.

A `Cell` is found by the words that name it in a panel, and has what measures it: the metric of each sentence with some
paths patched, a probability, a logit, an attention weight. `explained` measures it on the run's sentences with the
run's engine, and on a few sentences with the reference (`path_patching/reference.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from path_patching.bootstrap import Clusters, Estimate, mean
from path_patching.circuits.circuit import END, YY, Circuit, full_circuit, into_mlp, late_half
from path_patching.engine import Engine, Request
from path_patching.engine_choice import make_engine
from path_patching.errors import UserError, shortened
from path_patching.metrics import Metric
from path_patching.numbers import precisely
from path_patching.paths import AnyVia, Node, PathSet
from path_patching.sweeps import changes
from path_patching.unembedding import logit_lens
from reproduction.evidence import effect_of, intervals_of, receivers
from reproduction.figures import YY as START_YEAR
from reproduction.publication import sha256
from reproduction.shown import Panel

FIRST_YY, LAST_YY = START_YEAR.values[0], START_YEAR.values[-1]  # of tables with a row for each YY
PATHS_SHOWN = 4
PATCHED, ALONE = "these paths on 01 data, all else on clean data", "these paths on clean data, all else on 01 data"


@dataclass(frozen=True, eq=False)
class Asked:
    """What measures a cell: an engine on N sentences, their YY (N,), and the metric of sentences with given YY."""

    engine: Engine
    start_yy: torch.Tensor
    metric_of: Callable[[torch.Tensor], Metric]
    yy: int
    clusters: Clusters
    seed: int
    sentence: str
    """One of the sentences, as text."""

    @property
    def end(self) -> int:
        """The position of END."""
        return self.engine.sentences.end

    def on(self, rows: torch.Tensor) -> Asked:
        """The same on some of the sentences, (n,)."""
        some = self.engine.like(self.engine.sentences.rows(rows))
        return replace(self, engine=some, start_yy=self.start_yy[rows], clusters=[each[rows] for each in self.clusters])

    def of_reference(self) -> Asked:
        """The same with the reference as engine."""
        reference = make_engine("reference", "cpu", self.engine.model, self.engine.sentences, check=False)
        return replace(self, engine=reference)


@dataclass(frozen=True, eq=False)
class Cell:
    """A cell of a panel: what it is in words, its unit, its value in the artifact, and how it is measured."""

    words: str
    unit: str
    held: float | Estimate
    measure: Callable[[Asked], torch.Tensor]
    """The quantity of each sentence, (N,); the cell is its mean."""
    rows: Callable[[Asked], torch.Tensor] = lambda asked: torch.arange(len(asked.start_yy))
    """The sentences of that mean, (n,)."""
    paths: Callable[[Asked], PathSet | None] = lambda asked: None
    """The path set behind it; None if nothing is patched, or if there is no such path."""
    data: str = "clean data"
    """What is on clean and what on 01 data."""


def asked_by(about: Mapping[str, Any], circuit: Circuit, yy: int, end: int) -> tuple[PathSet, int, AnyVia]:
    """The receivers of a sweep, the position of its senders and the input read, from its entry in a run's index."""
    position = {END: end, YY: yy}[about["position"]]
    if about.get("of") == "heads":
        return late_half(circuit, end), position, about["through"]
    if about["receiver"] == "logits":
        return PathSet.at(Node.logits(end)), position, "all"
    if about["position"] == END:
        return into_mlp(circuit, about["receiver"], end), position, "all"
    return late_half(circuit, end).extend([Node.named(about["receiver"], yy)], about["through"]), position, "all"


def cell_of(panel: Panel, words: Sequence[str]) -> Cell:
    """The cell of a panel that some words name. Raises `UserError` for other words, and says how cells are named."""
    kind = panel.about["kind"]
    if kind not in KINDS:
        raise UserError(f"{panel.figure} shows {panel.artifact}, whose cells cannot be measured again ({kind})")
    named, make = KINDS[kind]
    if len(words) != len(named):
        raise UserError(f"a cell of {' '.join(panel.words)} is named {' '.join(named)}; {len(words)} words are given")
    return make(panel, *words)


def _effect(panel: Panel, name: str) -> Cell:
    about, table = panel.about, panel.made.load(panel.artifact)
    node = _node(name, table.shape[0], table.shape[1] - 1)
    circuit = _circuit(panel)

    def paths(asked: Asked) -> PathSet | None:
        onto, position, via = asked_by(about, circuit, asked.yy, asked.end)
        sender = replace(node, position=position)
        return onto.extend([sender], via) if onto.reachable(sender, via) else None

    def measure(asked: Asked) -> torch.Tensor:
        patched = paths(asked)
        if patched is None:
            return torch.zeros(len(asked.start_yy), dtype=torch.float64)
        return changes(asked.engine, patched, asked.metric_of(asked.start_yy))

    held = effect_of(node, table, intervals_of(panel.made).get(panel.artifact))
    words = f"the effect of {name} at {about['position']} {receivers(about)}: change of the mean probability difference"
    return Cell(words, "points", held, measure, paths=paths, data=PATCHED)


def _probability(panel: Panel, start: str, end_year: str) -> Cell:
    table, evaluation = panel.made.load(panel.artifact), panel.about["evaluation"]
    yy, year = _number(start, FIRST_YY, LAST_YY, "YY"), _number(end_year, 0, 99, "YEAR")
    held = table[yy - FIRST_YY, year].item()
    if evaluation not in EVALUATIONS:
        raise UserError(f"{panel.figure}: its paths are of a larger circuit than the run's; see {_cell_line(panel)}")
    if held != held:
        raise UserError(f"{panel.figure}: there is no sentence with YY = {yy:02d}; {panel.about.get('nan', '')}")
    data, paths_of, request_of = EVALUATIONS[evaluation]

    def paths(asked: Asked) -> PathSet | None:
        return paths_of(_circuit(panel), asked.yy, asked.end) if paths_of else None

    def measure(asked: Asked) -> torch.Tensor:
        return asked.engine.evaluate([request_of(paths(asked))])[0][:, year]

    words = f"the probability of end year {year:02d} where YY is {yy:02d} ({evaluation.replace('_', ' ')})"
    return Cell(words, "%", held, measure, _with_yy(yy), paths, data)


def _logit(panel: Panel, start: str, end_year: str) -> Cell:
    table, name = panel.made.load(panel.artifact), panel.about["node"]
    yy, year = _number(start, FIRST_YY, LAST_YY, "YY"), _number(end_year, 0, 99, "YEAR")
    of_mlp = panel.about["of"] == "mlp"  # figures of MLPs show logits relative to year 00

    def seen(logits: torch.Tensor) -> torch.Tensor:
        return logits[..., year] - logits[..., 0] if of_mlp else logits[..., year]

    def measure(asked: Asked) -> torch.Tensor:
        written = asked.engine.writes([Node.named(name, asked.end)])
        return seen(logit_lens(written, asked.engine.model, asked.engine.sentences.answers)[0])

    less = " minus that of year 00" if of_mlp else ""
    words = f"the logit of end year {year:02d}{less} in what {name} writes at END, where YY is {yy:02d} (logit lens)"
    return Cell(words, "", seen(table[yy - FIRST_YY]).item(), measure, _with_yy(yy))


def _attention(panel: Panel, query: str, key: str) -> Cell:
    return _of_head(panel, panel.about["node"], query, key, panel.made.load(panel.artifact))


def _attention_of_all(panel: Panel, name: str, query: str, key: str) -> Cell:
    patterns = panel.made.load(panel.artifact)["patterns"]  # (L, H, sentences, T, T)
    head = _node(name, *patterns.shape[:2])
    if head.kind != "head":
        raise UserError(f"{name} has no attention; name a head, such as a9.h1")
    cell = _of_head(panel, name, query, key, patterns[head.layer, head.index].mean(0))
    return replace(cell, rows=lambda asked: torch.arange(patterns.shape[2]))


def _of_head(panel: Panel, name: str, query: str, key: str, pattern: torch.Tensor) -> Cell:
    """A cell of a head's mean pattern (T, T)."""
    prompt = _prompt(panel)
    at = [_position(each, prompt) for each in (query, key)]
    words = f"the attention of {name} from {query} (position {at[0]}) to {key} (position {at[1]})"
    return Cell(words, "%", pattern[at[0], at[1]].item(), _attending(name, *at))


def _attention_by_yy(panel: Panel, start: str) -> Cell:
    pattern, name = panel.made.load(panel.artifact), panel.about["node"]  # (97, T, T)
    yy, prompt = _number(start, FIRST_YY, LAST_YY, "YY"), _prompt(panel)
    at = _position(END, prompt), _position(YY, prompt)
    words = f"the attention of {name} from END to YY where YY is {yy:02d}"
    return Cell(words, "%", pattern[yy - FIRST_YY, at[0], at[1]].item(), _attending(name, *at), _with_yy(yy))


def _attending(name: str, query: int, key: int) -> Callable[[Asked], torch.Tensor]:
    head = Node.named(name, query)
    return lambda asked: asked.engine.attention([(head.layer, head.index)])[0][:, query, key].double()


EVALUATIONS: Mapping[str, tuple[str, Callable[[Circuit, int, int], PathSet] | None, Callable[[Any], Request]]] = {
    "clean": ("clean data", None, lambda paths: Request.clean()),
    "late_half": (ALONE, lambda circuit, yy, end: late_half(circuit, end), Request.isolate),
    "late_half/without": (PATCHED, lambda circuit, yy, end: late_half(circuit, end), Request.patch),
    "full_circuit": (ALONE, full_circuit, Request.isolate),
}
KINDS: Mapping[str, tuple[Sequence[str], Callable[..., Cell]]] = {  # how a cell is named, by the artifact's kind
    "sweep": (["NODE"], _effect),
    "probabilities": (["YY", "YEAR"], _probability),
    "logit_lens": (["YY", "YEAR"], _logit),
    "attention": (["QUERY", "KEY"], _attention),
    "attention_by_yy": (["YY"], _attention_by_yy),
    "attention_of_all_heads": (["HEAD", "QUERY", "KEY"], _attention_of_all),
}


def explained(panel: Panel, cell: Cell, asked: Asked, few: int) -> Iterator[str]:
    """A cell explained, line by line; `few` sentences are measured with the reference, too."""
    rows = cell.rows(asked)
    whole = asked.on(rows)
    some = whole.on(torch.arange(min(few, len(rows))))
    n, n_few = len(rows), len(some.start_yy)
    yield f"{' '.join(panel.words)}: {cell.words}"
    yield from _paths_in_words(cell.paths(whole), whole)
    yield f"  data       {n} of {len(asked.start_yy)} sentences such as {asked.sentence!r}; {cell.data}"
    yield f"  artifact   {precisely(cell.held, cell.unit)}"
    now = mean(cell.measure(whole), whole.seed, whole.clusters).without_plain()
    with_interval = isinstance(cell.held, Estimate)
    again = precisely(now if with_interval else now.value, cell.unit)
    yield f"  engine     {again} ({whole.engine.name}, measured now)"
    of_engine, of_reference = (cell.measure(each).mean().item() for each in (some, some.of_reference()))
    yield f"  {f'of the first {n_few}':<10} {precisely(of_engine, cell.unit)} ({whole.engine.name})"
    yield f"  the same   {precisely(of_reference, cell.unit)} (reference, path_patching/reference.py)"
    held = cell.held.value if isinstance(cell.held, Estimate) else cell.held
    yield (
        f"  apart      artifact and engine {abs(held - now.value):.0e}, "
        f"engine and reference {abs(of_engine - of_reference):.0e}"
    )
    yield f"  made by    {_cell_line(panel)}"
    path = panel.made.check(panel.artifact)
    yield f"  file       {path}"
    yield f"  SHA-256    {sha256(path)}"


def _paths_in_words(paths: PathSet | None, asked: Asked) -> Iterator[str]:
    """The first few paths of a set, with YY and END for their positions, and how many more there are."""
    if paths is None:
        return
    places = {asked.yy: YY, asked.end: END}
    count = paths.count()
    first = [path for path, _ in zip(paths, range(PATHS_SHOWN), strict=False)]
    texts = [re.sub(r"@(\d+)", lambda at: f"@{places.get(int(at[1]), at[1])}", path) for path in first]
    yield f"  paths      {texts[0]}"
    yield from (f"             {text}" for text in texts[1:])
    if count > len(texts):
        yield f"             … and {count - len(texts):,} more"


def _cell_line(panel: Panel) -> str:
    return str(panel.about.get("cell", f"{panel.made.script}.py (in a notebook)"))


def _circuit(panel: Panel) -> Circuit:
    circuit = panel.made.circuit
    if circuit is None:
        raise UserError(f"{panel.made.script}.json names no circuit, so {panel.artifact} cannot be measured again")
    return circuit


def _with_yy(yy: int) -> Callable[[Asked], torch.Tensor]:
    return lambda asked: (asked.start_yy == yy).nonzero()[:, 0]


def _prompt(panel: Panel) -> Sequence[str]:
    (name,) = panel.made.find(kind="attention_of_all_heads")
    prompt: Sequence[str] = panel.made.load(name)["prompt"]
    return prompt


def _position(name: str, prompt: Sequence[str]) -> int:
    """The position of END, of a token of the prompt, or of a number."""
    if name == END:
        return len(prompt) - 1
    if prompt.count(name) == 1:
        return prompt.index(name)
    if name.isdecimal() and int(name) < len(prompt):
        return int(name)
    names = " ".join(each for each in prompt if prompt.count(each) == 1)
    raise UserError(f"{shortened(name)!r} is no position: give END, 0 to {len(prompt) - 1}, or one of {names}")


def _node(name: str, n_layers: int, n_heads: int) -> Node:
    """A head or an MLP of a sweep."""
    node = Node.named(name, 0)
    if node.kind not in ("head", "mlp"):
        raise UserError(f"{name} has no cell; name a head or an MLP, such as a9.h1 or m10")
    node.check_fits(n_layers, n_heads, 1, 1)
    return node


def _number(text: str, least: int, most: int, what: str) -> int:
    if not text.isdecimal() or not least <= int(text) <= most:
        raise UserError(f"{what} {shortened(text)!r}: give two digits, {least:02d} to {most:02d}")
    return int(text)
