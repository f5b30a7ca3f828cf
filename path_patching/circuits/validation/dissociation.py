"""Test 10: is it the circuit of this ability alone? One ability's circuit is impeded, another ability is measured.

    loss(task, C) = (m(M) − m(M∖C)) / (m(M) − m(∅)),  the share of the task's span that is lost

To impede a circuit is to put all its heads and MLPs at END on the task's own corrupted data, along their paths to the
logits. An MLP is impeded whatever feeds it, and nodes at YY are impeded with those above them. Each task has its own
END. Two tasks show a *double dissociation* if each loses its span with its own circuit and not with the other's.

Random circuits of the same shape, with other nodes at END, show what chance takes. A task's loss with its own circuit
is judged minus its loss with these. If the circuit is most of the model, any other of its size takes the ability too,
and nothing is judged. Plain sentences have no twins, so there a circuit is impeded by mean ablation:

    KL = Σ_a p_M(a) log(p_M(a) / p_{M∖C}(a))  over the answers and “anything else”, in nats

    >>> later = Ability("later years", engine, Scale.of(engine, metric), circuit, END)
    >>> table = dissociation([later], random.Random(0))  # with a second ability, two by two
    >>> table.losses["later years", "later years"]
    Estimate(value=..., low=..., high=..., n=97, ...)
    >>> for verdict in table.verdicts():
    ...     print(verdict)
    later years without the circuit of later years: is this ability lost? ...
    later years without a random circuit like that of later years: ...
    >>> from path_patching.circuits.validation.faithfulness import divergence_scale
    >>> plain = engine  # here; plain sentences have an engine of their own
    >>> disturbance(plain, divergence_scale(plain), {"mine": circuit}, END)["mine"]
    Estimate(value=..., low=..., high=..., n=97, ...)
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch

from path_patching.bootstrap import Estimate
from path_patching.circuits.circuit import Circuit, late_half, mlp_chains
from path_patching.circuits.random_circuits import random_circuit
from path_patching.circuits.validation.measuring import Scale, magnitude, measured
from path_patching.circuits.validation.verdicts import BARS, Verdict, judge
from path_patching.engine import Engine, Request
from path_patching.errors import UserError
from path_patching.numbers import with_unit
from path_patching.paths import Node, PathSet, union

DRAWS = 5  # random circuits of each shape; their losses are averaged
TRIES = 100  # draws before giving up on random circuits with other nodes at END


@dataclass(frozen=True, eq=False)
class Ability:
    """A task: an engine on its sentences and their twins, its metric, and the circuit that does it."""

    name: str
    engine: Engine
    scale: Scale
    """The scale of the engine's sentences."""
    circuit: Circuit
    end: int


@dataclass(frozen=True)
class Dissociation:
    """What each ability loses with each circuit impeded; a circuit has the name of its ability."""

    losses: Mapping[tuple[str, str], Estimate]
    """The share of the ability's span that is lost, by ability and circuit."""
    by_chance: Mapping[tuple[str, str], Estimate]
    """The same with random circuits of the circuit's shape, on average, if there are any."""
    beyond_chance: Mapping[str, Estimate]
    """By ability: its loss with its own circuit, minus that with random ones."""

    def verdicts(self) -> tuple[Verdict, ...]:
        """On each loss with the ability's own circuit and with others; those with random circuits are not judged."""
        return tuple(self._verdicts())

    def _verdicts(self) -> Iterator[Verdict]:
        for task, circuit in self.losses:
            yield self._judged(task, circuit)
            if (chance := self.by_chance.get((task, circuit))) is not None:
                subject = f"{task} without a random circuit like that of {circuit}"
                unjudged = chance.doubt or "for comparison: the loss by chance"
                yield judge("other_loss", magnitude(chance), subject, unjudged=unjudged)

    def _judged(self, task: str, circuit: str) -> Verdict:
        lost, subject = self.losses[task, circuit], f"{task} without the circuit of {circuit}"
        if task != circuit:
            shared = BARS["other_loss"].side(abs(lost.value)) == 1
            return judge(
                "other_loss",
                magnitude(lost),
                subject,
                "the two circuits share nodes, which is common" if shared else "",
            )
        if task not in self.beyond_chance:
            unjudged = lost.doubt or "no random circuit of its shape to compare with"
            return judge("own_loss", lost, subject, unjudged=unjudged)
        beyond, chance = self.beyond_chance[task], self.by_chance[task, task]
        own, by_chance = (with_unit(each.value, "%") for each in (lost, chance))
        remark = f"its circuit takes {own}, random circuits {by_chance}"
        return judge("own_loss", beyond, subject, remark, beyond.doubt or _too_large(lost, chance))


def dissociation(abilities: Sequence[Ability], rng: random.Random, draws: int = DRAWS) -> Dissociation:
    """What each ability loses with each ability's circuit impeded, and with `draws` random circuits of its shape.

    Raises `UserError` if two abilities have one name.
    """
    names = [each.name for each in abilities]
    if len(set(names)) < len(names):
        raise UserError(f"two abilities have one name: {', '.join(names)}; name each differently")
    drawn: dict[str, list[Circuit]] = {}
    for each in abilities:
        if others := _others(each, rng, draws):
            drawn[each.name] = others
    pairs = [(task, circuit) for task in abilities for circuit in abilities]
    return Dissociation(
        losses={(task.name, other.name): loss(task, [other.circuit]) for task, other in pairs},
        by_chance={
            (task.name, other.name): loss(task, drawn[other.name]) for task, other in pairs if other.name in drawn
        },
        beyond_chance={
            each.name: each.scale.of_span(_left(each, drawn[each.name]) - _left(each, [each.circuit]))
            for each in abilities
            if each.name in drawn
        },
    )


def _too_large(lost: Estimate, chance: Estimate) -> str:
    """Why a loss cannot be told from chance: random circuits take so much that none could pass; else ""."""
    least = BARS["own_loss"].least
    if least is None or lost.ends[0] < least or chance.value <= 1 - least:
        return ""
    return "nothing to judge: random circuits of its shape take most of the span, too"


def _others(ability: Ability, rng: random.Random, count: int) -> list[Circuit]:
    """Random circuits of the shape of an ability's, with other nodes at END; none if there is no other."""
    own, found = _nodes_at_end(ability.circuit, ability.end), list[Circuit]()
    with suppress(UserError):  # a circuit of all nodes has no other of its shape
        for _ in range(TRIES):
            drawn = random_circuit(ability.circuit, ability.engine.model.architecture, rng)
            if _nodes_at_end(drawn, ability.end) != own:
                found.append(drawn)
            if len(found) == count:
                break
    return found


def _nodes_at_end(circuit: Circuit, end: int) -> frozenset[Node]:
    """The heads and MLPs that are impeded with a circuit."""
    return frozenset(node for node in impeded(circuit, end).nodes() if node.kind in ("head", "mlp"))


def loss(task: Ability, circuits: Sequence[Circuit]) -> Estimate:
    """The share of an ability's span that is lost with a circuit impeded, averaged over several circuits."""
    return task.scale.of_span(task.scale.whole - _left(task, circuits))


def _left(task: Ability, circuits: Sequence[Circuit]) -> torch.Tensor:
    """An ability's metric with a circuit impeded, averaged over several circuits: (N,)."""
    requests = [Request.patch(impeded(circuit, task.end)) for circuit in circuits]
    return measured(task.engine, requests, [task.scale.metric])[0].mean(0)


def disturbance(engine: Engine, scale: Scale, circuits: Mapping[str, Circuit], end: int) -> dict[str, Estimate]:
    """The KL divergence of the next token from the model's own, in nats, by name of the circuit mean-ablated at END.

    The engine has plain sentences, and `scale` is that of their divergence (`divergence_scale`).
    """
    requests = [Request.patch(impeded(circuit, end), inside="mean") for circuit in circuits.values()]
    scores = measured(engine, requests, [scale.metric])[0]
    return {name: scale.mean(each) for name, each in zip(circuits, scores, strict=True)}


def impeded(circuit: Circuit, end: int) -> PathSet:
    """The paths from the logits through any chain of a circuit's MLPs to one of its MLPs, or to one of its heads."""
    late, chains = late_half(circuit, end), mlp_chains(circuit, end)
    heads = {node for node in late.ends() if node.kind == "head"}  # not the embeddings that MLPs read
    mlps = chains.ends() - {Node.logits(end)}
    return union(paths.ending_at(kept) for paths, kept in ((late, heads), (chains, mlps)) if kept)
