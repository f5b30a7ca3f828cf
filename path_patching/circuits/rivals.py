"""Rival circuits for one ability, side by side on the same sentences.

For each circuit C, by the paths of its full circuit:

    size            its heads and MLPs, counted at END and at YY if they have places, and its links; as shares, too
    F(C)            (m(C) − m(∅)) / (m(M) − m(∅)), normalized faithfulness
    recovered       m(C) / m(M), the paper's ratio
    KL              from the model's distribution to that of C alone, in nats
    needed          the nodes v without which F changes: the interval of F(C) − F(C∖{v}) is without 0
    shared          nodes and links that the first circuit has too, and Jaccard's index of each

In C alone everything else is on corrupted data; in ∅ everything is. C∖{v} is C without the paths through v.

    >>> from path_patching.circuits.edge_lists import from_text
    >>> rival = Circuit("a rival", from_text("input->m0 \\n m0->a1.h0<v> \\n a1.h0->logits"))
    >>> print(table(compared(engine, metric, [circuit, rival], YY, END)))
    | circuit | nodes | edges | F | recovered | KL | needed | nodes shared | edges shared |
    |---|---|---|---|---|---|---|---|---|
    | mine | 4 (22.2 %) | 12 (5.0 %) | ... [..., ...] | ... | ... | ... of 4 | – | – |
    | a rival | 2 (22.2 %) | 3 (3.0 %) | ... [..., ...] | ... | ... | ... of 2 | 2 (0.50) | 2 (0.20) |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from path_patching.bootstrap import Clusters, Estimate
from path_patching.circuits.circuit import Circuit, check_fits, full_circuit
from path_patching.circuits.overlap import Overlap, overlap
from path_patching.circuits.size import Size, size_of
from path_patching.circuits.twins import check_yy
from path_patching.circuits.validation.faithfulness import divergence_scale
from path_patching.circuits.validation.measuring import Scale, is_nothing, isolated, measured
from path_patching.circuits.validation.members import by_name
from path_patching.engine import Engine
from path_patching.errors import UserError
from path_patching.sweeps import Metric

COLUMNS = ("circuit", "nodes", "edges", "F", "recovered", "KL", "needed", "nodes shared", "edges shared")


@dataclass(frozen=True)
class Compared:
    """A circuit and its measurements."""

    circuit: Circuit
    size: Size
    faithfulness: Estimate
    """F(C)."""
    recovered: Estimate
    """m(C) / m(M)."""
    divergence: Estimate
    """KL(C), in nats."""
    needed: int
    """The number of its nodes without which F changes."""
    shared: Overlap
    """With the first circuit."""


def compared(
    engine: Engine, metric: Metric, circuits: Sequence[Circuit], yy_position: int, end: int, clusters: Clusters = ()
) -> tuple[Compared, ...]:
    """Compare circuits with the first of them, on an engine's sentences with YY at `yy_position` and END at `end`.

    Raises `UserError` without a circuit, if the model lacks a node, or if a circuit has places and no twin differs at
    YY. This is checked before anything is evaluated.
    """
    if not circuits:
        raise UserError("no circuit is given; give one or more")
    for circuit in circuits:
        check_fits(circuit, engine.model)
        if circuit.placed:
            check_yy(engine.sentences, yy_position)
    scale, apart = Scale.of(engine, metric, clusters), divergence_scale(engine, clusters)
    found = []
    for circuit in circuits:
        paths = full_circuit(circuit, yy_position, end)
        nodes = by_name(paths, yy_position, end, circuit.placed) if circuit.members else {}
        requests = [paths, *map(paths.avoiding, nodes.values())]
        scores, divergences = measured(engine, [*map(isolated, requests)], [scale.metric, apart.metric])
        lost = scale.of_spans(scores[0] - scores)  # the first is the circuit itself, which loses nothing
        found.append(
            Compared(
                circuit,
                size_of(circuit, engine.model.architecture),
                faithfulness=scale.normalized(scores[0]),
                recovered=scale.share(scores[0], scale.whole),
                divergence=scale.mean(divergences[0]),
                needed=sum(not is_nothing(each) for each in lost),
                shared=overlap(circuits[0], circuit),
            )
        )
    return tuple(found)


def table(found: Sequence[Compared]) -> str:
    """The circuits as a Markdown table, a row each."""
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    names = numbered([each.circuit.name for each in found])
    for number, (name, each) in enumerate(zip(names, found, strict=True)):
        size, numbers = each.size, (each.faithfulness, each.recovered, each.divergence)
        row = [name, *(f"{n} ({share})" for n, share in zip((size.nodes, size.links), size.shares, strict=True))]
        row += [str(estimate.without_plain()) for estimate in numbers]
        row += [f"{each.needed} of {size.nodes}"]
        parts = (each.shared.nodes, each.shared.links)
        row += [f"{len(part.both)} ({part.jaccard:.2f})" if number else "–" for part in parts]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def numbered(names: Sequence[str]) -> list[str]:
    """Names for a table, all different: a repeated one, as of files in two folders, gets a number."""
    names = [name.replace("|", r"\|") for name in names]
    before = [names[:place].count(name) for place, name in enumerate(names)]
    return [name + (f" ({count + 1})" if count else "") for name, count in zip(names, before, strict=True)]
