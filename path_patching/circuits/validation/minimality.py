"""Test 4: is every node and every link of the circuit needed? (Minimality, as it was asked of later circuits.)

    alone: F(C) − F(C∖{v}),   given its class K: F(C∖(K∖{v})) − F(C∖K)

for every node v, and the first for every link. C∖K is the circuit without the paths through K, which are on corrupted
data like all outside it. A node may matter alone only because others cannot stand in for it; given that its class
(the heads, the MLPs, the lower nodes) is removed, none of them can.

    >>> paths, scale = full_circuit(circuit, YY, END), Scale.of(engine, metric)
    >>> found = minimality(engine, scale, paths, YY, END, "full circuit")
    >>> print(found.nodes[0])
    m0@YY (lower nodes): ... [..., ...]; given the removal of its class: ... [..., ...]
    >>> [str(each.link) for each in found.links][0]
    'm0@YY →k a1.h0@END'
    >>> [verdict.bar for verdict in found.verdicts()]
    ['minimality', 'minimality_links']
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from path_patching.bootstrap import Estimate
from path_patching.circuits.circuit import Link
from path_patching.circuits.twins import check_yy
from path_patching.circuits.validation.measuring import Scale, is_nothing, isolated, measured
from path_patching.circuits.validation.members import by_name, class_of, classes, link_steps, listed
from path_patching.circuits.validation.verdicts import Verdict, judge
from path_patching.engine import Engine, Request
from path_patching.paths import PathSet


@dataclass(frozen=True)
class NodeLoss:
    """What F loses with a node."""

    name: str
    node_class: str
    alone: Estimate
    given_class: Estimate

    @property
    def needed(self) -> bool:
        """Whether F changes without the node."""
        return not is_nothing(self.alone)

    def __str__(self) -> str:
        return f"{self.name} ({self.node_class}): {self.alone}; given the removal of its class: {self.given_class}"


@dataclass(frozen=True)
class LinkLoss:
    """What F loses with a link."""

    link: Link
    alone: Estimate

    @property
    def needed(self) -> bool:
        """Whether F changes without the link."""
        return not is_nothing(self.alone)


@dataclass(frozen=True)
class Minimality:
    """What F loses with each node and each link of a circuit."""

    subject: str
    nodes: tuple[NodeLoss, ...]
    links: tuple[LinkLoss, ...]

    def verdicts(self) -> tuple[Verdict, ...]:
        """On the share of nodes that are needed, and on that of links; those that are not are named."""
        idle = [node for node in self.nodes if not node.needed]
        remarks = (
            _named("not needed", [node.name for node in idle if is_nothing(node.given_class)]),
            _named("needed only without their class", [node.name for node in idle if not is_nothing(node.given_class)]),
            _named("F is higher without", [node.name for node in self.nodes if node.needed and node.alone.value < 0]),
        )
        idle_links = _named("not needed", [str(each.link) for each in self.links if not each.needed])
        return (
            judge("minimality", _needed(self.nodes), self.subject, "; ".join(filter(None, remarks))),
            judge("minimality_links", _needed(self.links), self.subject, idle_links),
        )


def minimality(
    engine: Engine, scale: Scale, paths: PathSet, yy: int, end: int, subject: str, placed: bool = True
) -> Minimality:
    """What F loses with each node and each link on a circuit's paths, on the metric of a scale.

    In a circuit without places (`placed=False`) a node or link is removed at all positions together.

    Raises `UserError` for paths without a node and, with places, for a `yy` at which no twin differs; `PathSetError`
    for paths that the model or its sentences do not have.
    """
    if placed:
        check_yy(engine.sentences, yy)
    nodes, steps = by_name(paths, yy, end, placed), link_steps(paths, yy, end, placed)
    groups = classes(paths, yy, end, placed)
    rest_of = {name: {*groups[class_of(name)]} - own for name, own in nodes.items()}
    requests = {"": Request.isolate(paths)}
    requests |= {f"without {name}": isolated(paths.avoiding(own)) for name, own in nodes.items()}
    requests |= {f"without {name}": isolated(paths.avoiding(group)) for name, group in groups.items()}
    requests |= {f"without all but {name}": isolated(paths.avoiding(rest)) for name, rest in rest_of.items()}
    requests |= {f"without {link}": isolated(paths.avoiding_steps(taken)) for link, taken in steps.items()}
    scores = dict(zip(requests, measured(engine, [*requests.values()], [scale.metric])[0], strict=True))
    own_class = {name: class_of(name) for name in nodes}
    lost = [scores[""] - scores[f"without {each}"] for each in (*nodes, *steps)]
    lost += [scores[f"without all but {name}"] - scores[f"without {group}"] for name, group in own_class.items()]
    found, of_nodes, of_both = scale.of_spans(torch.stack(lost)), len(nodes), len(nodes) + len(steps)
    losses = [
        NodeLoss(name, own_class[name], alone, given_class)
        for name, alone, given_class in zip(nodes, found[:of_nodes], found[of_both:], strict=True)
    ]
    links = [LinkLoss(link, alone) for link, alone in zip(steps, found[of_nodes:of_both], strict=True)]
    return Minimality(subject, tuple(losses), tuple(links))


def _needed(losses: Sequence[NodeLoss | LinkLoss]) -> float:
    """The share that is needed."""
    return sum(each.needed for each in losses) / len(losses)


def _named(what: str, names: Sequence[str]) -> str:
    return f"{what}: {listed(names)}" if names else ""
