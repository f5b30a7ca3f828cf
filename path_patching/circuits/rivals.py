"""Rival circuits for one ability, side by side: one evaluation on the same sentences.

Of each circuit C, whose paths are the full circuit's:

    size            its heads and MLPs, at END and YY if they have places; and its links
    F(C)            (m(C) − m(∅)) / (m(M) − m(∅)), normalized faithfulness
    recovered       m(C) / m(M), the paper's ratio
    KL              from the model's distribution to that of C alone, in nats
    needed          the nodes v without which F is another: F(C) − F(C∖{v}) has an interval without 0
    shared          nodes and links that it has in common with the first circuit, and Jaccard's index of each

C alone has all else on corrupted data, as ∅ has everything. C∖{v} is C without the paths through v.

    >>> rival = Circuit("a rival", tuple(map(Link.parse, ["a1.h0 → logits", "m0 →v a1.h0", "embeds → m0"])))
    >>> print(table(compared(engine, metric, [circuit, rival], YY, END)))
    | circuit | nodes | edges | F | recovered | KL | needed | nodes shared | edges shared |
    |---|---|---|---|---|---|---|---|---|
    | mine | 4 | 9 | ... [..., ...] | ... | ... | ... of 4 | – | – |
    | a rival | 2 | 3 | ... [..., ...] | ... | ... | ... of 2 | 2 (0.50) | 2 (0.20) |
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence, Set
from dataclasses import dataclass

from path_patching.bootstrap import Clusters, Estimate
from path_patching.circuits.circuit import Circuit, bare, check_fits, full_circuit
from path_patching.circuits.edge_lists import without_places
from path_patching.circuits.validation.faithfulness import divergence_scale
from path_patching.circuits.validation.measuring import Scale, is_nothing, isolated, measured
from path_patching.engine import Engine
from path_patching.errors import UserError
from path_patching.paths import Node, PathSet
from path_patching.sweeps import Metric

COLUMNS = ("circuit", "nodes", "edges", "F", "recovered", "KL", "needed", "nodes shared", "edges shared")


@dataclass(frozen=True)
class Shared:
    """What two circuits have in common: how much, and as a share of what either has (Jaccard's index)."""

    count: int
    index: float

    @classmethod
    def of(cls, one: Set[object], other: Set[object]) -> Shared:
        """Of two sets, not both empty."""
        return cls(len(one & other), len(one & other) / len(one | other))

    def __str__(self) -> str:
        return f"{self.count} ({self.index:.2f})"


@dataclass(frozen=True)
class Compared:
    """A circuit and what was measured of it."""

    circuit: Circuit
    faithfulness: Estimate
    """F(C)."""
    recovered: Estimate
    """m(C) / m(M)."""
    divergence: Estimate
    """KL(C), in nats."""
    needed: int
    """How many of its nodes F is another without."""
    shared_nodes: Shared
    """With the first circuit, places apart."""
    shared_links: Shared


def compared(
    engine: Engine, metric: Metric, circuits: Sequence[Circuit], yy: int, end: int, clusters: Clusters = ()
) -> tuple[Compared, ...]:
    """Circuits beside the first of them, on an engine's sentences, whose YY and END are at `yy` and `end`.

    Raises `UserError` if there is none, or if the model lacks a node of one, before anything is evaluated.
    """
    if not circuits:
        raise UserError("no circuit is given; give one or more")
    for circuit in circuits:
        check_fits(circuit, engine.model)
    scale, apart = Scale.of(engine, metric, clusters), divergence_scale(engine, clusters)
    found = []
    for circuit in circuits:
        paths = full_circuit(circuit, yy, end)
        requests = [paths, *(paths.avoiding(each) for each in _nodes_of_members(circuit, paths))]
        scores, divergences = measured(engine, [*map(isolated, requests)], [scale.metric, apart.metric])
        lost = scale.of_spans(scores[0] - scores)  # its own loss, the first, is nothing
        found.append(
            Compared(
                circuit,
                faithfulness=scale.normalized(scores[0]),
                recovered=scale.share(scores[0], scale.whole),
                divergence=scale.mean(divergences[0]),
                needed=sum(not is_nothing(each) for each in lost),
                shared_nodes=Shared.of(*({*map(bare, each.members)} for each in (circuits[0], circuit))),
                shared_links=Shared.of(*({*without_places(each.links)} for each in (circuits[0], circuit))),
            )
        )
    return tuple(found)


def _nodes_of_members(circuit: Circuit, paths: PathSet) -> list[list[Node]]:
    """The nodes on a circuit's paths, those together that are one member of it: one, or the same at every position."""
    found: defaultdict[tuple[str, int | None], list[Node]] = defaultdict(list)
    for node in sorted(paths.nodes()):
        if node.kind in ("head", "mlp"):
            found[node.name, node.position if circuit.placed else None].append(node)
    return [*found.values()]


def table(found: Sequence[Compared]) -> str:
    """Circuits side by side as a Markdown table, a row each; what is shared is that with the first."""
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    for number, each in enumerate(found):
        size, numbers = len(each.circuit.members), (each.faithfulness, each.recovered, each.divergence)
        row = [each.circuit.name, f"{size}", f"{len(each.circuit.links)}"]
        row += [str(estimate.without_plain()) for estimate in numbers]
        row += [f"{each.needed} of {size}"]
        row += [str(each.shared_nodes), str(each.shared_links)] if number else ["–", "–"]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)
