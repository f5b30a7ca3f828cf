"""Finding a circuit by rule, where the paper looks at its sweeps by eye (section 3).

A node is kept if patching it changes the mean of a metric by at least a *threshold*, a share of the metric's clean
value. For year spans the metric is the probability difference. Any other will do, and any sentences that differ from
their twins at one position, here called YY.

1. At END, the nodes that the logits read are swept. Then, from the last layer down, so are the nodes that each kept MLP
   reads, through every chain of later kept MLPs. This may find more MLPs.
2. The kept heads feed those of their readers through which they matter.
3. The heads' inputs that matter are followed to nodes at YY, and what these read is swept in the same way, down to the
   embeddings. An input that no node at YY reaches, such as queries at END, is taken whole.

If no threshold is given, it is lowered until the circuit suffices, or would be a large part of the model.

    >>> found = find_circuit(engine, metric, YY, END, threshold=0.02)
    threshold 2 % of clean: ... heads and ... MLPs at END recover ... of clean...
    >>> late = late_half(found.circuit, END)  # a circuit like any other
    >>> found.steps[0].asked  # each step's question, and the effect of every candidate
    'nodes at END → logits'
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any

import torch

from path_patching.circuits.circuit import (
    EMBEDS,
    LOGITS,
    YY,
    Circuit,
    full_circuit,
    heads_readers,
    in_order,
    into_lower,
    late_half,
    nodes,
)
from path_patching.circuits.papers_shape import in_papers_shape, varied
from path_patching.circuits.twins import check_yy
from path_patching.defaults import THRESHOLDS
from path_patching.engine import Engine
from path_patching.errors import UserError, shortened
from path_patching.gpt2.model import Architecture, Model
from path_patching.paths import INPUTS, AnyVia, Node, PathSet, Via
from path_patching.sweeps import Effects, Metric, every_node, remembered_effects

NAME = "the circuit found automatically"
ENOUGH = 0.85  # the share of it that the full circuit has to recover; the paper's recovers 0.875
MOST = 1 / 3  # of the nodes at END; if the circuit has more, no lower threshold is tried
FEW = 40  # nodes at END can be followed quickly, even if they are most of a small model
STUDIED = 3  # heads to look at closely


@dataclass(frozen=True)
class Question:
    """One question of a search, and the effect of each candidate, strongest first."""

    asked: str
    effects: Mapping[str, float]  # on the mean of the metric


@dataclass(frozen=True)
class Found:
    """A circuit and how it was found.

    Candidates were kept if their |effect| is at least `threshold`. Alone, the circuit recovers the share `recovered` of
    the clean value. `tried` has this share for every threshold tried, which is itself a share.
    """

    circuit: Circuit
    clean: float
    threshold: float
    recovered: float
    steps: tuple[Question, ...]
    tried: Mapping[float, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """Every decision and the effect behind it, as plain values."""
        return {
            "clean": self.clean,
            "threshold": self.threshold,
            "thresholds tried": [{"share of clean": key, "recovered": value} for key, value in self.tried.items()],
            "steps": [{"asked": step.asked} | self._decided(step.effects) for step in self.steps],
        }

    def _decided(self, effects: Mapping[str, float]) -> dict[str, dict[str, float]]:
        kept = {name: effect for name, effect in effects.items() if abs(effect) >= self.threshold}
        return {"kept": kept, "left out": {name: effect for name, effect in effects.items() if name not in kept}}


@dataclass(frozen=True, eq=False)
class Search:
    """A search with one threshold, on an engine's sentences or on a draw of them."""

    effects: Effects
    yy_position: int
    end: int
    clean: float
    threshold: float

    @property
    def model(self) -> Model:
        """The model that is searched."""
        return self.effects.values.engine.model

    def recovered(self, paths: PathSet) -> float:
        """The share of the clean value that a path set recovers alone."""
        return self.effects.alone(paths) / self.clean

    def sweep(self, asked: str, receivers: PathSet, position: int, via: AnyVia = "all") -> Question:
        """The effects of the nodes at a position on the receivers; at YY also of the embeddings."""
        read = [each for each in every_node(self.effects.values.engine, position) if receivers.reachable(each, via)]
        effects: dict[str, float] = {}
        if read:
            table = self.effects(receivers, position, via)  # (L, H + 1), the MLP last
            effects = {each.name: _entry(table, each) for each in read}
        embeds = Node.embeds(position)
        if position == self.yy_position and receivers.reachable(embeds, via):
            effects[EMBEDS] = self.effects.of(receivers.extend([embeds], via))
        return ranked(asked, effects)

    def kept(self, step: Question) -> list[str]:
        """The candidates whose effect reaches the threshold."""
        return [name for name, effect in step.effects.items() if abs(effect) >= self.threshold]


def ranked(asked: str, effects: Mapping[str, float]) -> Question:
    """A question with its candidates in order, strongest first."""
    return Question(asked, dict(sorted(effects.items(), key=lambda item: -abs(item[1]))))


def find_circuit(
    engine: Engine,
    metric: Metric,
    yy_position: int,
    end: int,
    threshold: float | None = None,
    sweeps: Effects | None = None,
) -> Found:
    """The circuit that achieves a metric on an engine's sentences, which differ from their twins at `yy_position`.

    `threshold` is a share of the metric's clean value. `sweeps`, of this engine and metric, is a cache of sweeps made
    already. Raises `UserError` for an impossible threshold, if no twin differs at `yy_position`, if the metric's clean
    value is 0, if no head at END is kept, and, without a given threshold, if too many nodes are kept to follow them.
    """
    if threshold is not None:
        threshold = _check_threshold(threshold)
    search = _search(sweeps or remembered_effects(engine, metric), yy_position, end)
    followed_if_many = threshold is not None
    attempts = _attempts(search, (threshold,) if threshold is not None else THRESHOLDS, followed_if_many)
    if not attempts:
        raise UserError(
            f"no head of {engine.model.name} at END changes the metric by as much as "
            f"{100 * (THRESHOLDS[-1] if threshold is None else threshold):g} % of the clean {search.clean:.4f}; "
            "give a lower threshold, or a circuit of your own"
        )
    last, sizes = attempts[-1], search.model.architecture
    at_end = _at_end(last.late)
    if too_many_to_follow(at_end, sizes) and not followed_if_many:
        raise UserError(
            f"{len(at_end)} of the {sizes.n_nodes} nodes of {engine.model.name} at END change the metric by "
            f"{last.share:.2%} of the clean {search.clean:.4g} or more: the model does not do the task, or most of it "
            "takes part. Give a circuit of your own, or a threshold: a higher one keeps fewer nodes"
        )
    found = last.full or _full(last.search, last.late)
    return replace(found, tried={attempt.share: attempt.recovered for attempt in attempts})


def find_members(effects: Effects, yy_position: int, end: int, threshold: float) -> Circuit | None:
    """The circuit that a search with one threshold finds, without what it recovers; None if it has no head.

    It serves many searches that share a cache, such as those on draws of the sentences (`Effects.weighted`). Raises
    `UserError` for an impossible threshold, if no twin differs at `yy_position`, and if the metric's clean value is 0.
    """
    strict = _strict(_search(effects, yy_position, end), _check_threshold(threshold))
    late = _found_at_end(strict)
    return None if late is None else _followed(strict, late[0])[0]


def find_at_end(effects: Effects, yy_position: int, end: int, threshold: float) -> tuple[str, ...]:
    """The nodes that a search with one threshold keeps at END, before their heads' inputs and readers are swept.

    Raises `UserError` like `find_members`.
    """
    return _kept_at_end(_strict(_search(effects, yy_position, end), _check_threshold(threshold)))[0]


def _check_threshold(threshold: Any) -> float:
    """A threshold as given. Raises `UserError` for one that is no share and would keep all nodes or none."""
    is_number = isinstance(threshold, Real) and not isinstance(threshold, bool)
    try:
        share = float(threshold) if is_number else math.nan
    except OverflowError:
        share = math.inf
    if not 0 < share < math.inf:  # NaN fails too
        raise UserError(f"a threshold of {shortened(repr(threshold))}: give a share of the clean value, as 0.02")
    return share


def _strict(search: Search, share: float) -> Search:
    """The search with a share of the clean value as its threshold; the clean value may be negative."""
    return replace(search, threshold=share * abs(search.clean))


def _search(effects: Effects, yy_position: int, end: int) -> Search:
    """A search that keeps everything. Raises `UserError` like `find_members`."""
    check_yy(effects.values.engine.sentences, yy_position)
    clean = effects.clean
    if clean == 0 or not math.isfinite(clean):
        name = effects.values.engine.model.name
        raise UserError(f"the metric of {name} is {clean} on clean sentences: there is nothing to explain")
    return Search(effects, yy_position, end, clean, 0.0)


@dataclass(frozen=True)
class _Attempt:
    """What a search with one threshold found; `full` is None unless the late half suffices."""

    share: float
    search: Search
    late: Found
    full: Found | None

    @property
    def recovered(self) -> float:
        return (self.full or self.late).recovered


def _attempts(search: Search, shares: tuple[float, ...], followed_if_many: bool) -> list[_Attempt]:
    """Searches with lower and lower thresholds, until a circuit suffices or is too large; those without a head go.

    `followed_if_many` says whether nodes are followed to YY even if there are too many.
    """
    sizes = search.model.architecture
    attempts: list[_Attempt] = []
    for share in shares:
        strict = _strict(search, share)
        late = _late(strict)
        if late is None:
            continue
        too_large = len(_at_end(late)) > _most_at_end(sizes)
        if too_large and attempts:
            break
        may_be_followed = followed_if_many or not too_many_to_follow(_at_end(late), sizes)
        full = _full(strict, late) if late.recovered >= ENOUGH and may_be_followed else None
        attempts.append(_Attempt(share, strict, late, full))
        size = f"{len(late.circuit.heads)} heads and {len(late.circuit.mlps)} MLPs at END"
        print(
            f"threshold {100 * share:g} % of clean: {size} recover {_percent(late)} of clean{_said_of_followed(full)}"
        )
        if too_large or attempts[-1].recovered >= ENOUGH:
            break
    return attempts


def _percent(found: Found) -> str:
    """What a circuit recovers of the clean value: 98.7 %."""
    return f"{100 * found.recovered:.1f} %"


def _said_of_followed(full: Found | None) -> str:
    """What is printed about a circuit whose heads' inputs were followed."""
    if full is None:
        return ""
    if not any(link.reader.endswith(f"@{YY}") or link.sender.endswith(f"@{YY}") for link in full.circuit.links):
        return f"; none of their inputs reads YY, so all are taken whole: {_percent(full)}"
    return f"; with their inputs followed to YY, {_percent(full)}"


def _at_end(found: Found) -> tuple[str, ...]:
    return found.circuit.mlps + found.circuit.heads


def _most_at_end(sizes: Architecture) -> float:
    """A circuit with more nodes at END than this is a large part of the model."""
    return MOST * sizes.n_nodes


def too_many_to_follow(at_end: Sized, sizes: Architecture) -> bool:
    """Whether there are too many nodes at END to follow their inputs to YY, unless a threshold is given.

    A search keeps so many if the metric's clean value is nearly 0, as in a model that cannot do the task, and if most
    of a model takes part in it.
    """
    return len(at_end) > max(_most_at_end(sizes), FEW)


def _late(search: Search) -> Found | None:
    """The circuit at END with what it recovers; None if it has no head."""
    found = _found_at_end(search)
    if found is None:
        return None
    circuit, steps = found
    return Found(circuit, search.clean, search.threshold, search.recovered(late_half(circuit, search.end)), steps)


def _full(search: Search, late: Found) -> Found:
    """The circuit with its heads' inputs followed to YY and below, what it recovers, and the heads to look at."""
    circuit, steps = _followed(search, late.circuit)
    strengths = search.effects(heads_readers(circuit, search.end), search.end)
    studied = sorted(circuit.heads, key=lambda head: -abs(_entry(strengths, Node.named(head, search.end))))[:STUDIED]
    recovered = search.recovered(full_circuit(circuit, search.yy_position, search.end))
    circuit = replace(circuit, studied=tuple(studied))
    return replace(late, circuit=circuit, recovered=recovered, steps=(*late.steps, *steps))


def _found_at_end(search: Search) -> tuple[Circuit, tuple[Question, ...]] | None:
    """The circuit at END with its heads' inputs whole; None if it has no head."""
    kept, swept = _kept_at_end(search)
    if not any(_is_head(name) for name in kept):
        return None
    circuit, fed = _late_half(search, kept, swept)
    return circuit, (*swept.values(), fed)


def _followed(search: Search, late: Circuit) -> tuple[Circuit, tuple[Question, ...]]:
    """The circuit at END with its heads' inputs that matter followed to YY and below."""
    inputs = _inputs(search, late)
    kept = search.kept(inputs) or list(inputs.effects)[:1]
    ways = [way for name in kept for way in INPUTS["head"] if way == name]
    circuit, below = _below_heads(search, late, ways)
    return circuit, (inputs, *below)


def _kept_at_end(search: Search) -> tuple[tuple[str, ...], dict[str, Question]]:
    """The nodes kept at END, and the sweeps in which they were kept."""
    swept = _sweep_end(search)
    return in_order({name for step in swept.values() for name in search.kept(step)}), swept


def _sweep_end(search: Search) -> dict[str, Question]:
    """Sweeps at END of what the logits read, then of what each kept MLP reads, from the last layer down."""
    swept: dict[str, Question] = {}
    waiting: tuple[str, ...] = (LOGITS,)
    while waiting:
        reader = waiting[-1]
        swept[reader] = search.sweep(f"nodes at END → {reader}", _into(reader, swept, search.end), search.end)
        kept = {name for step in swept.values() for name in search.kept(step) if not _is_head(name)}
        waiting = in_order(kept - set(swept))
    return swept


def _into(reader: str, mlps: Iterable[str], end: int) -> PathSet:
    """The path that ends at the logits, or those that end at an MLP through any chain of the later `mlps`."""
    logits = PathSet.at(Node.logits(end))
    if reader == LOGITS:
        return logits
    later = [mlp for mlp in mlps if mlp != LOGITS and Node.named(mlp, end).depth > Node.named(reader, end).depth]
    return logits.through_chains(nodes(later, end)).extend([Node.named(reader, end)])


def _late_half(search: Search, kept: tuple[str, ...], swept: Mapping[str, Question]) -> tuple[Circuit, Question]:
    """The circuit of the nodes kept at END, with the heads' inputs whole, and the effects of the heads by reader.

    A reader's effect is that of all kept heads on it together; if they cancel, that of the strongest head. MLPs that no
    kept head reaches are dropped.
    """
    heads = tuple(name for name in kept if _is_head(name))
    effects = {}
    for reader, step in swept.items():
        receivers = _into(reader, swept, search.end)
        upstream = [head for head in nodes(heads, search.end) if receivers.reachable(head)]
        together = [search.effects.of(receivers.extend(upstream))] if upstream else []
        effects[reader] = max([*together, *(step.effects[head.name] for head in upstream)], key=abs, default=0.0)
    fed = ranked("the kept heads → each of their readers", effects)
    fed_by_heads = in_order(search.kept(fed))
    first_fed = Node.named(fed_by_heads[0], search.end).depth
    mlps = tuple(name for name in kept if not _is_head(name) and Node.named(name, search.end).depth >= first_fed)
    whole = INPUTS["head"]
    late = in_papers_shape(NAME, mlps, heads, fed_by_heads, first_below=(), further_below=(), followed=(), whole=whole)
    return late, fed


def _inputs(search: Search, late: Circuit) -> Question:
    """The effect of everything through each input of the heads, at all positions that it reads."""
    heads, everything = late_half(late, search.end), [Node.residual(position) for position in range(search.end + 1)]
    effects: dict[str, float] = {way: search.effects.of(heads.extend(everything, way)) for way in INPUTS["head"]}
    return ranked("everything → each input of the heads", effects)


def _below_heads(search: Search, late: Circuit, inputs: list[Via]) -> tuple[Circuit, list[Question]]:
    """The circuit with `inputs` of its heads followed to YY and below; inputs without a node at YY stay whole."""
    heads, yy_position, end = late_half(late, search.end), search.yy_position, search.end
    read = {
        way: search.sweep(f"nodes at YY → {way} of the heads", heads, yy_position, way) for way in inputs if way != "q"
    }
    followed = tuple(way for way in ("k", "v") if way in read and search.kept(read[way]))
    first = in_order({name for step in read.values() for name in search.kept(step)})
    whole = tuple(way for way in INPUTS["head"] if way in inputs and way not in followed)
    circuit = varied(late, first_below=first, followed=followed, whole=whole)
    below: dict[str, Question] = {}
    while waiting := in_order({*circuit.lower} - set(below)):
        name = waiting[-1]
        below[name] = search.sweep(
            f"nodes at YY → {name} at YY", into_lower(circuit, name, yy_position, end), yy_position
        )
        further = in_order({name for step in below.values() for name in search.kept(step) if name != EMBEDS})
        circuit = varied(circuit, further_below=further)
    return circuit, [*read.values(), *below.values()]


def _is_head(name: str) -> bool:
    return Node.named(name, 0).kind == "head"


def _entry(table: torch.Tensor, each: Node) -> float:
    """A node's effect in a table (L, H + 1), whose last column is the MLPs'."""
    return table[each.layer, each.index if each.kind == "head" else -1].item()
