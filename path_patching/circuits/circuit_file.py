"""A circuit as a JSON file and as a table; `python reproduce.py circuit [FILE]` prints either.

A file has the lists of a circuit of the paper's shape (`papers_shape`), or else its links as text. A run of
circuit_discovery.py writes such a file, circuit.json. It can be edited, and given to the scripts' `--circuit` or to
`read_circuit`, which also reads other people's formats (`edge_lists`).

    >>> print(table(circuit))
    | nodes | at | read |
    |---|---|---|
    | logits | END | the MLPs at END |
    | m1, m2 | END | the MLPs at END before it and the heads at END |
    | a1.h0 | END | queries: everything; keys and values: m0 at YY |
    | m0 | YY | embeds |
    >>> import json
    >>> text = json.dumps(as_json(circuit))  # written to a file, `read_circuit` reads it
    >>> from_json(json.loads(text)) == circuit
    True
    >>> bare = from_json({"name": "of links", "links": ["a1.h0 → logits", "m0 →v a1.h0", "embeds → m0"]})
    >>> print(table(bare))
    | nodes | at | read |
    |---|---|---|
    | logits | END | a1.h0 |
    | a1.h0 | every position | values: m0 |
    | m0 | every position | embeds |
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TypedDict

from path_patching.circuits import edge_lists
from path_patching.circuits.circuit import (
    EMBEDS,
    END,
    EVERYTHING,
    LOGITS,
    LONGEST_NAME,
    YY,
    Circuit,
    Link,
    bare,
    in_order,
    mixed_places,
    on_paths,
    place_of,
)
from path_patching.circuits.papers_shape import Lists, in_papers_shape, lists_of
from path_patching.errors import UserError, first_line, one_line, shortened
from path_patching.files import named_path, parse_json, regular
from path_patching.paths import VIAS, Via

LISTS = tuple(Lists.__annotations__)
WITH_A_DEFAULT = ("followed", "whole", "studied")
OF_A_CIRCUIT = ("name", *LISTS, "studied", "links")
BESIDE_A_CIRCUIT = ("search",)  # what else a run's circuit.json has
INPUTS_READ = {"q": "queries", "k": "keys", "v": "values"}


class LinkRecord(TypedDict):
    """A link of a circuit and its effect in a run's circuit.json."""

    reader: str
    via: Via
    sender: str
    effect: float


def as_json(circuit: Circuit) -> dict[str, object]:
    """The circuit as the values of a JSON file: its lists if it is of the paper's shape, else its links."""
    lists = lists_of(circuit)
    described: Mapping[str, Any] = lists or {"links": map(str, circuit.links)}
    return {"name": circuit.name, **{name: [*each] for name, each in described.items()}, "studied": [*circuit.studied]}


def from_json(described: object) -> Circuit:
    """The circuit of a JSON file's values. Raises `UserError` for what is missing, unknown or contradictory.

    Without lists, it is made of links: texts, or records with their effects, as a run writes them.
    """
    if not isinstance(described, dict):
        raise UserError("a circuit is a JSON object")
    if unknown := sorted(set(described) - {*OF_A_CIRCUIT, *BESIDE_A_CIRCUIT}):
        raise UserError(f"a circuit has no {shortened(unknown[0])!r}; it has {', '.join(OF_A_CIRCUIT)}")
    of_links = "links" in described and not set(described) & {*LISTS}
    wanted = ("name", "links") if of_links else ("name", *LISTS)
    if missing := [name for name in wanted if name not in (*described, *WITH_A_DEFAULT)]:
        raise UserError(f"{missing[0]!r} is missing")
    given = {name: described[name] for name in (*wanted, "studied") if name in described}
    lists = {name: value for name, value in given.items() if name not in ("name", "links")}
    if wrong := [name for name, value in lists.items() if not _is_list_of_names(value)]:
        raise UserError(f"{wrong[0]!r} must be a list of names")
    tuples = {name: tuple(value) for name, value in lists.items()}
    if of_links:
        return Circuit(given["name"], _links(given["links"]), **tuples)
    return in_papers_shape(given["name"], **tuples)


def _links(described: object) -> tuple[Link, ...]:
    """The links of a file, each a text or a record."""
    if not isinstance(described, list):
        raise UserError("'links' must be a list of links, as m0@YY →v a9.h1@END")
    return tuple(Link.parse(each) if isinstance(each, str) else _link(each) for each in described)


def _link(record: object) -> Link:
    fields = [record.get(name) for name in ("reader", "via", "sender")] if isinstance(record, dict) else [None]
    if not all(isinstance(each, str) for each in fields):
        raise UserError(f"{shortened(str(record))} is no link; write one like m0@YY →v a9.h1@END")
    return Link(*fields)


def links_as_json(effects: Mapping[Link, float]) -> list[LinkRecord]:
    """The links of a circuit with their effects, as plain values."""
    return [
        LinkRecord(reader=link.reader, via=link.via, sender=link.sender, effect=effect)
        for link, effect in effects.items()
    ]


def links_from_json(described: Sequence[LinkRecord]) -> dict[Link, float]:
    """The inverse of `links_as_json`."""
    return {Link(each["reader"], each["via"], each["sender"]): each["effect"] for each in described}


def read_circuit(path: str | Path) -> Circuit:
    """The circuit of a file: our JSON, a graph of EAP-IG or MIB, or a text of edges (`edge_lists`).

    Edges on no path are left out, and a line says so. Raises `UserError` if the file cannot be read or describes no
    circuit.
    """
    path = named_path(path)
    try:
        text = regular(path).read_text(encoding="utf-8-sig")  # some editors put a mark before the text
        is_json, is_graph = text.lstrip().startswith(("{", "[")), '"edges"' in text
        described = parse_json(text, nan_as_null=is_graph) if is_json else text  # EAP-IG writes NaN for no score
    except OSError as error:
        raise UserError(f"no circuit can be read from {path} ({error.strerror}); give paper, auto or a file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text in UTF-8; save it as one, or give another file") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({first_line(error)}); see python reproduce.py circuit --json") from error
    try:
        if isinstance(described, str):
            return _of_edges(path, edge_lists.from_text(described), outside=0)
        if isinstance(described, dict) and "edges" in described:
            return _of_edges(path, edge_lists.from_graph(described), edge_lists.edges_outside(described))
        return from_json(described)
    except UserError as error:
        shown = "--to edges" if isinstance(described, str) else "--json"
        raise UserError(f"{path}: {error}; see python reproduce.py circuit {shown}") from error


def _of_edges(path: Path, edges: Sequence[Link], outside: int) -> Circuit:
    """The circuit of the edges that are on paths, named after its file."""
    if mixed := mixed_places(edges):  # said first: some would be on no path
        raise UserError(mixed)
    links, loose = on_paths(edges)
    if not links:
        raise UserError("none of its edges is on a path from the embeddings to the logits")
    left_out = [f"{outside:,} not in its graph"] * (outside > 0)
    left_out += [f"{len(loose):,} on no path from the embeddings to the logits"] * (len(loose) > 0)
    if left_out:
        print(f"edges left out of {one_line(path.name)}: {', and '.join(left_out)}", file=sys.stderr)
    return Circuit(one_line(path.stem)[:LONGEST_NAME], links)


def table(circuit: Circuit) -> str:
    """The circuit as a Markdown table: which nodes, at which position, read what."""
    lists = lists_of(circuit)
    rows = _rows_of_links(circuit) if lists is None else _rows_of_lists(circuit, lists)
    lines = ["| nodes | at | read |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows if row[0])])


def _rows_of_lists(circuit: Circuit, lists: Lists) -> list[tuple[str, str, str]]:
    """The rows of a circuit of the paper's shape, from its lists."""
    mlps, feeds = lists["mlps"], lists["heads_feed"]
    fed = [mlp for mlp in mlps if mlp in feeds]
    rows = [(LOGITS, END, _late_sources(mlps, "the MLPs at END", LOGITS in feeds))]
    for group, reads_heads in ((fed, True), ([mlp for mlp in mlps if mlp not in fed], False)):
        rows.append((_listed(group), END, _late_sources(mlps, "the MLPs at END before it", reads_heads)))
    inputs = [f"{_inputs(lists['whole'])}: everything"] if lists["whole"] else []
    inputs += [f"{_inputs(lists['followed'])}: {_listed(lists['first_below'])} at YY"] if lists["followed"] else []
    rows.append((_listed(lists["heads"]), END, "; ".join(inputs)))
    before = [f"{_listed(lists['further_below'])} before it"] if lists["further_below"] else []
    return [*rows, (_listed(circuit.lower), YY, "; ".join([*before, EMBEDS]))]


def _late_sources(mlps: Sequence[str], of_mlps: str, reads_heads: bool) -> str:
    return " and ".join([*([of_mlps] if mlps else []), *(["the heads at END"] if reads_heads else [])])


def _rows_of_links(circuit: Circuit) -> list[tuple[str, str, str]]:
    """The rows of any circuit, from the logits down, END first; nodes that read the same share a row."""
    logits = LOGITS + (f"@{END}" if circuit.placed else "")
    at_yy, others = ([each for each in circuit.members if (place_of(each) == YY) is yy] for yy in (True, False))
    read = [(each, _read_by(circuit, each)) for each in (logits, *reversed(others), *reversed(at_yy))]
    rows = []
    for (place, what), group in groupby(read, key=lambda row: (place_of(row[0]), row[1])):
        names = in_order(bare(each) for each, _ in group)
        rows.append((_listed(names), END if names == (LOGITS,) else place or "every position", what))
    return rows


def _read_by(circuit: Circuit, reader: str) -> str:
    """What a node reads by input; inputs that read the same are named together."""
    senders: dict[Via, list[str]] = {}
    for link in circuit.links:
        if link.reader == reader:
            senders.setdefault(link.via, []).append(link.sender)
    said = {way: _senders(of_way, place_of(reader)) for way, of_way in senders.items()}
    ways = {said[way]: [each for each in VIAS if said.get(each) == said[way]] for way in VIAS if way in said}
    return "; ".join(f"{_inputs(of_what)}: {what}" if of_what != ["in"] else what for what, of_what in ways.items())


def _senders(labelled: Sequence[str], at: str) -> str:
    """Senders in order, with their place if it is not their reader's."""
    named = [each for each in labelled if each != EVERYTHING]
    places = [place for place in (END, YY, "") if any(place_of(each) == place for each in named)]
    said = [EVERYTHING] if EVERYTHING in labelled else []
    for place in places:
        names = _listed(in_order(bare(each) for each in named if place_of(each) == place))
        said.append(names if place == at else f"{names} at {place}")
    return "; ".join(said)


def _inputs(ways: Iterable[Via]) -> str:
    return " and ".join(", ".join(INPUTS_READ[way] for way in ways).rsplit(", ", 1))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _is_list_of_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)
