"""What a reproduction knows about each node and link of its circuit: the rows of the report's panels.

Everything is looked up in artifacts. What a run did not measure is left out.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from path_patching.bootstrap import Estimate
from path_patching.circuits.circuit import END, EVERYTHING, YY, Link, bare, place_of
from path_patching.circuits.circuit_file import links_from_json
from path_patching.numbers import shown, with_unit
from path_patching.paths import Node
from reproduction.circuit_drawing import INPUTS
from reproduction.circuit_layout import sender_of
from reproduction.figures import PREDICTED_YEAR
from reproduction.figures import YY as START_YEAR
from reproduction.run import Artifacts
from reproduction.shown import Panel

PAPER_SAYS = Path(__file__).parent / "page" / "paper.toml"
NO_PANELS: Mapping[str, Panel] = {}
LENS_WIDTH, LENS_HEIGHT = 240, 90  # pixels of the curve of a logit lens


@dataclass(frozen=True)
class Effect:
    """A node's effect in one sweep, in words, its size, and its rank among all nodes by size."""

    of: str
    shown: str
    size: float
    rank: int
    among: int
    artifact: str
    cell: str
    """The line of the script that made the sweep, as `circuit_discovery.py:104`; empty where the record has none."""
    command: str = ""
    """The command that explains it; empty where no figure shows it."""


@dataclass(frozen=True)
class Attention:
    """Where a head looks from END: the share of each position, and which position is YY."""

    shares: tuple[tuple[str, float], ...]
    to_yy: str
    few: str
    """Of how few sentences it is the mean; empty if of all."""

    @property
    def words(self) -> str:
        """What goes to YY, and in brackets the position that gets more, if one does; empty for a prompt without YY."""
        most, share = max(self.shares, key=lambda each: (each[1], each[0] == "YY"))
        if not self.to_yy or most == "YY":
            return self.to_yy
        return f"{self.to_yy} ({most} {with_unit(share, '%')})"


@dataclass(frozen=True)
class Lens:
    """The logit lens of a node as a curve over end year minus YY: SVG points, where YY is, and its range."""

    points: str
    at_yy: float
    low: str
    high: str
    first: int
    last: int


@dataclass(frozen=True)
class Evidence:
    """All that is known of a node, or of a link."""

    id: str
    name: str
    says: tuple[str, ...] = ()
    """What the paper says of the node in GPT-2 small."""
    here: tuple[str, ...] = ()
    """What was measured of a node of which the paper says something."""
    effects: tuple[Effect, ...] = ()
    attention: Attention | None = None
    lens: Lens | None = None
    lost: tuple[tuple[str, str], ...] = ()
    """What F loses without it: the part of the circuit, and how much."""
    links: tuple[tuple[str, str, str], ...] = ()
    """The links of a node: identity, words and effect; the strongest first."""
    shown: str = ""
    """The effect of a link."""


def link_id(link: Link) -> str:
    """The identity of a link in the page: `m0@YY→v:a9.h1@END`."""
    via = "" if link.via == "in" else link.via
    return f"{sender_of(link)}→{via}:{link.reader}"


class _ReadOnce(Artifacts):
    """Artifacts that are asked for again and again."""

    @cached_property
    def _read(self) -> dict[str, Any]:
        return {}

    def load(self, name: str) -> Any:
        """Read one, unless it was read before."""
        if name not in self._read:
            self._read[name] = super().load(name)
        return self._read[name]


def evidence(
    effects: Mapping[Link, float], runs: Mapping[str, Artifacts], panels: Mapping[str, Panel] = NO_PANELS
) -> dict[str, Evidence]:
    """The evidence of each node and link of a circuit, by identity, given its links with their effects.

    `panels` of figures show some of the artifacts, by whose names they are found.
    """
    if not effects:
        return {}
    runs = {script: _ReadOnce(made.folder, made.record) for script, made in runs.items()}
    discovery = runs["circuit_discovery"]
    names = dict.fromkeys(name for link in effects for name in (link.reader, sender_of(link)))
    found = {name: _of_node(name, effects, discovery, runs.get("circuit_validation"), panels) for name in names}
    return found | {link_id(link): _of_link(link, effect, runs) for link, effect in effects.items()}


def link_effects_of(discovery: Artifacts | None) -> dict[Link, float]:
    """The links of the circuit of a run with their effects, the strongest first; none if it measured none."""
    for name in discovery.find(kind="circuit") if discovery else ():
        effects = links_from_json(discovery.load(name)["links"])  # type: ignore[union-attr]
        return dict(sorted(effects.items(), key=lambda each: -abs(each[1])))
    return {}


def _of_node(
    name: str,
    effects: Mapping[Link, float],
    discovery: Artifacts,
    validation: Artifacts | None,
    panels: Mapping[str, Panel],
) -> Evidence:
    links = [(link_id(link), str(link), with_unit(effect, "points")) for link, effect in effects.items()
             if name in (link.reader, sender_of(link))]  # fmt: skip
    node, place = bare(name), place_of(name)
    if node == EVERYTHING:
        return Evidence(name, name, links=tuple(links))
    says = tuple(_paper_says(name))
    of_sweeps = sorted(_effects(node, place, discovery, panels), key=lambda effect: -effect.size)
    attention = attention_of(node, discovery) if place != YY else None
    return Evidence(
        name,
        name,
        says,
        tuple(_measured_here(node, place, of_sweeps, attention, discovery)) if says else (),
        tuple(of_sweeps),
        attention,
        _lens(node, discovery) if place != YY else None,
        tuple(_lost(validation, "validation_nodes", node=name)),
        tuple(links),
    )


def _measured_here(
    node: str, place: str, effects: Sequence[Effect], attention: Attention | None, discovery: Artifacts
) -> Iterator[str]:
    """What stands beside the paper's words: a node's largest effect, its attention to YY, the years that it raises."""
    for effect in effects[:1]:
        yield f"its largest effect is {effect.shown}, {effect.of} (rank {effect.rank} of {effect.among})"
    if attention and attention.to_yy:
        yield f"from END, it gives YY {attention.to_yy} of its attention"
    raised = discovery.number(f"logit_lens/{node}/later_above_others") if place != YY else None
    if isinstance(raised, Estimate):
        yield f"by the logit lens, the years after YY stand {shown(raised.without_plain(), '')} logits above the others"


def _of_link(link: Link, effect: float, runs: Mapping[str, Artifacts]) -> Evidence:
    lost = _lost(
        runs.get("circuit_validation"), "validation_links", reader=link.reader, via=link.via, sender=link.sender
    )
    ends = ((sender_of(link), sender_of(link), "writes"), (link.reader, link.reader, f"reads it as {INPUTS[link.via]}"))
    return Evidence(link_id(link), str(link), lost=tuple(lost), links=ends, shown=with_unit(effect, "points"))


def _effects(node: str, place: str, discovery: Artifacts, panels: Mapping[str, Panel]) -> Iterator[Effect]:
    """The node's effect in each sweep of its place."""
    place_at = Node.named(node, 0)
    if place_at.kind not in ("head", "mlp"):
        return
    intervals = intervals_of(discovery)
    for artifact, about in discovery.find(kind="sweep").items():
        table = discovery.load(artifact)
        if about["position"] != (place or END) or not _holds(table, place_at):
            continue
        effect = effect_of(place_at, table, intervals.get(artifact))
        size = table[in_sweep(place_at)].abs().item()
        rank = 1 + int((table.abs() > size).sum())
        cell = str(about.get("cell", ""))
        command = panels[artifact].command(node) if artifact in panels else ""
        yield Effect(receivers(about), shown(effect, "points"), size, rank, table.numel(), artifact, cell, command)


def intervals_of(made: Artifacts) -> dict[str, torch.Tensor]:
    """The ends of the intervals of a run's sweeps (L, H + 1, 2), by artifact; nothing where it kept none."""
    return {name: ends for each in made.find(kind="sweep_intervals") for name, ends in made.load(each).items()}


def effect_of(node: Node, table: torch.Tensor, intervals: torch.Tensor | None) -> float | Estimate:
    """A node's effect in a sweep (L, H + 1), with its interval where there are some (L, H + 1, 2)."""
    value = table[in_sweep(node)].item()
    if intervals is None:
        return value
    low, high = intervals[in_sweep(node)].tolist()
    return Estimate(value, low, high, 0)


def in_sweep(node: Node) -> tuple[int, int]:
    """The place of a head or an MLP in a sweep's table (L, H + 1)."""
    return node.layer, node.index if node.kind == "head" else -1


def _holds(table: torch.Tensor, node: Node) -> bool:
    return node.layer < table.shape[0] and (node.kind == "mlp" or node.index < table.shape[1] - 1)


def receivers(about: Mapping[str, Any]) -> str:
    """What a sweep asks about, in words, from its entry in the record."""
    if about.get("receiver") == "logits":
        return "on the logits, directly"
    if about.get("of") == "heads":
        return f"through the {INPUTS[about['through']]} of the circuit's heads"
    end = " and then the heads' values" if about.get("through") else " and any later MLPs of the circuit"
    return f"through {about['receiver']}{end}"


def attention_of(node: str, discovery: Artifacts) -> Attention | None:
    """Where a head looks: the mean of all sentences where the run kept it, else of the few of all heads' patterns."""
    for name in discovery.find(kind="attention_of_all_heads") if node.startswith("a") else ():
        held = discovery.load(name)
        head, prompt = Node.named(node, 0), held["prompt"]
        patterns = held["patterns"]  # (L, H, sentences, T, T)
        if head.layer >= patterns.shape[0] or head.index >= patterns.shape[1]:
            return None
        of_all = [discovery.load(mean) for mean in discovery.find(kind="attention", node=node)]  # (T, T)
        pattern = of_all[0] if of_all else patterns[head.layer, head.index].mean(0)
        shares = pattern[-1].tolist()
        to_yy = with_unit(shares[prompt.index("YY")], "%") if "YY" in prompt else ""
        few = "" if of_all else f"mean of {patterns.shape[2]} sentences"
        return Attention(tuple(zip(prompt, shares, strict=True)), to_yy, few)
    return None


def _lens(node: str, discovery: Artifacts) -> Lens | None:
    for name in discovery.find(kind="logit_lens", node=node):
        logits = discovery.load(name)  # (97, 100), of YY 02 … 98
        offsets = torch.tensor(PREDICTED_YEAR.values)[None] - torch.tensor(START_YEAR.values)[:, None]
        relative = logits - logits.mean(1, keepdim=True)
        first, last = -49, 50  # every offset between them has many YYs
        curve = [relative[offsets == offset].mean().item() for offset in range(first, last + 1)]
        low, high = min(curve), max(curve)
        height = (high - low) or 1.0
        points = [
            f"{LENS_WIDTH * place / (len(curve) - 1):.1f},{LENS_HEIGHT * (high - value) / height:.1f}"
            for place, value in enumerate(curve)
        ]
        at_yy = LENS_WIDTH * -first / (len(curve) - 1)
        return Lens(" ".join(points), at_yy, with_unit(low, ""), with_unit(high, ""), first, last)
    return None


def _lost(validation: Artifacts | None, kind: str, **of: str) -> Iterator[tuple[str, str]]:
    """What F loses without a node or a link, in each part of the circuit; also when its class is gone too."""
    for name in validation.find(kind=kind) if validation else ():
        table: pd.DataFrame = validation.load(name)  # type: ignore[union-attr]
        for column, value in of.items():
            table = table[table[column] == value]
        for row in table.to_dict("records"):
            for what, words in {"alone": "", "given_class": ", after the rest of its class"}.items():
                if not math.isnan(row.get(what, math.nan)):  # a link that is needed alone is not asked for its class
                    estimate = Estimate(row[what], row[f"{what}_low"], row[f"{what}_high"], 0)
                    yield f"loss of F, {row['part']}{words}", shown(estimate, "%")


@cache
def _said_by_node() -> Mapping[str, Sequence[str]]:
    found: dict[str, list[str]] = {}
    for each in tomllib.loads(PAPER_SAYS.read_text(encoding="utf-8"))["says"]:
        for node in each["nodes"]:
            found.setdefault(node, []).append(each["text"])
    return found


def _paper_says(name: str) -> Sequence[str]:
    return _said_by_node().get(name if "@" in name else f"{name}@END", ())
