"""Test 4: is every node and every link of the circuit needed? (Minimality, from *Interpretability in the Wild*.)

    alone: F(C) − F(C∖{v}),   after the rest of its class K: F(C∖(K∖{v})) − F(C∖K)

for every node v and every link v. C∖K is the circuit with its paths through K on corrupted data, too. The classes of
nodes are heads, MLPs and lower nodes. A link is in one class with all links between the same two classes of nodes
through the same input.

v is *needed* if one of the two is a change of F by 0.01 or more with its whole interval, up or down. If only the second
is, v is *redundant*: others of its class stand in for it, and the circuit needs one of them. If both intervals lie
within ±0.01, v is not needed. Otherwise more sentences would tell. Links that are needed alone are not removed after
their class. At the end all links that are not needed are removed together.

    >>> paths, scale = full_circuit(circuit, YY, END), Scale.of(engine, metric)
    >>> found = minimality(engine, scale, paths, YY, END, "full circuit")
    >>> print(found.nodes[0])
    m0@YY (lower nodes): ... [..., ...]; after the rest of its class: ... [..., ...]
    >>> [str(each.link) for each in found.links][0]
    'm0@YY →k a1.h0@END'
    >>> [verdict.bar for verdict in found.verdicts()]
    ['minimality', 'minimality_links']
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from path_patching.bootstrap import Estimate
from path_patching.circuits.circuit import EMBEDS, EVERYTHING, LOGITS, Link, Step, bare
from path_patching.circuits.twins import check_yy
from path_patching.circuits.validation.measuring import Scale, is_change, is_no_change, isolated, measured
from path_patching.circuits.validation.members import by_name, class_of, classes, link_steps, listed
from path_patching.circuits.validation.verdicts import Verdict, joined, judge
from path_patching.engine import Engine, Request
from path_patching.numbers import shown
from path_patching.paths import PathSet

Kind = tuple[str, str, str]  # the class of a link: the classes of its ends, and the input between


class Loss:
    """What F loses when a part of a circuit is removed: alone, and after the rest of its class."""

    alone: Estimate
    given_class: Estimate | None

    @property
    def needed(self) -> bool:
        """Whether F changes without it, alone or after the rest of its class."""
        return is_change(self.alone) or self.redundant

    @property
    def redundant(self) -> bool:
        """Whether F changes without it only after the rest of its class: others stand in for it."""
        return not is_change(self.alone) and self.given_class is not None and is_change(self.given_class)

    @property
    def unclear(self) -> bool:
        """Whether it is not needed, but an interval includes changes: more sentences would tell."""
        return not self.needed and not all(map(is_no_change, filter(None, (self.alone, self.given_class))))


@dataclass(frozen=True)
class NodeLoss(Loss):
    """What F loses with a node."""

    name: str
    node_class: str
    alone: Estimate
    given_class: Estimate

    def __str__(self) -> str:
        return f"{self.name} ({self.node_class}): {self.alone}; after the rest of its class: {self.given_class}"


@dataclass(frozen=True)
class LinkLoss(Loss):
    """What F loses with a link."""

    link: Link
    alone: Estimate
    given_class: Estimate | None = None
    """None for a link that is needed alone."""

    @property
    def name(self) -> str:
        """The link as it is printed."""
        return str(self.link)


@dataclass(frozen=True)
class Minimality:
    """What F loses with each node and each link of a circuit."""

    subject: str
    nodes: tuple[NodeLoss, ...]
    links: tuple[LinkLoss, ...]
    idle_links: Estimate | None = None
    """What F loses without all links that are not needed; None if there are none."""

    def verdicts(self) -> tuple[Verdict, ...]:
        """On the shares of nodes and of links that are needed; the remarks name the others."""
        lost = self.idle_links and shown(self.idle_links.without_plain(), "%")
        together = f"F loses {lost} without all of these" if lost else ""
        return (
            _judged("minimality", self.nodes, self.subject, ""),
            _judged("minimality_links", self.links, self.subject, together),
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
    return Minimality(subject, tuple(losses), *_given_class(engine, scale, paths, links, steps, scores[""]))


def _given_class(
    engine: Engine,
    scale: Scale,
    paths: PathSet,
    links: Sequence[LinkLoss],
    steps: Mapping[Link, frozenset[Step]],
    whole: torch.Tensor,
) -> tuple[tuple[LinkLoss, ...], Estimate | None]:
    """The links, with `given_class` unless they are needed alone; and what F loses without all that are not needed.

    `whole` is the metric of the circuit, (N,).
    """
    asked = [each.link for each in links if not each.needed]
    if not asked:
        return tuple(links), None
    groups: defaultdict[Kind, set[Step]] = defaultdict(set)
    for link, taken in steps.items():
        groups[class_of_link(link)] |= taken
    all_of = [groups[class_of_link(link)] for link in asked]
    requests = [
        isolated(paths.avoiding_steps(of_class - steps[link])) for link, of_class in zip(asked, all_of, strict=True)
    ]
    requests += [isolated(paths.avoiding_steps(of_class)) for of_class in all_of]
    with_it, without = measured(engine, requests, [scale.metric])[0].tensor_split(2)
    given = dict(zip(asked, scale.of_spans(with_it - without), strict=True))
    found = tuple(LinkLoss(each.link, each.alone, given.get(each.link)) for each in links)
    idle = [each.link for each in found if not each.needed]
    if not idle:
        return found, None
    rest = isolated(paths.avoiding_steps(frozenset().union(*(steps[link] for link in idle))))
    return found, scale.of_span(whole - measured(engine, [rest], [scale.metric])[0, 0])


def class_of_link(link: Link) -> Kind:
    """The class of a link; logits, embeddings and everything are classes of their own."""
    return _class_of_end(link.reader), link.via, _class_of_end(link.sender)


def _class_of_end(labelled: str) -> str:
    name = bare(labelled)
    return name if name in (LOGITS, EMBEDS, EVERYTHING) else class_of(labelled)


def _judged(bar: str, losses: Sequence[NodeLoss | LinkLoss], subject: str, together: str) -> Verdict:
    """The verdict on the share that is needed; the remark names what is not, is redundant, or works against F."""
    idle = [each for each in losses if not each.needed]
    remark = joined(
        _named("not needed (cut one at a time)", [each.name for each in idle if not each.unclear]),
        _named("unclear, more sentences would tell", [each.name for each in idle if each.unclear]),
        together,
        _named("redundant with others of their class", [each.name for each in losses if each.redundant]),
        _named("F is higher without", [each.name for each in losses if is_change(each.alone) and each.alone.value < 0]),
    )
    doubt = next((each.alone.doubt for each in losses if each.alone.doubt), "")
    return judge(bar, sum(each.needed for each in losses) / len(losses), subject, remark, doubt)


def _named(what: str, names: Sequence[str]) -> str:
    return f"{what}: {listed(names)}" if names else ""
