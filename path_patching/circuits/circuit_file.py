"""A circuit as a JSON file and as a table; `python reproduce.py circuit [FILE]` prints either.

A file holds the fields of `Circuit`. What a run of circuit_discovery.py leaves as circuit.json is such a file:
it can be edited, and given to the scripts' `--circuit`, or to `read_circuit`.

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
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import TypedDict

from path_patching.circuits.circuit import EMBEDS, LOGITS, Circuit
from path_patching.circuits.links import Link
from path_patching.errors import UserError, first_line, shortened
from path_patching.files import parse_json, regular
from path_patching.paths import Via

BESIDE_A_CIRCUIT = ("links", "search")  # what a run's circuit.json holds beside the circuit


class LinkRecord(TypedDict):
    """A link of a circuit and its effect, as a run's circuit.json has them."""

    reader: str
    via: Via
    sender: str
    effect: float


def as_json(circuit: Circuit) -> dict[str, object]:
    """The circuit as plain values, as a circuit's JSON file has them."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(circuit).items()}


def from_json(described: object) -> Circuit:
    """The circuit of a JSON file's values. Raises `UserError` for what is missing, unknown or contradicts itself."""
    if not isinstance(described, dict):
        raise UserError("a circuit is a JSON object")
    known = {each.name: each for each in fields(Circuit)}
    if unknown := sorted(set(described) - {*known, *BESIDE_A_CIRCUIT}):
        raise UserError(f"a circuit has no {shortened(unknown[0])!r}; it has {', '.join(known)}")
    if missing := [name for name, each in known.items() if each.default is MISSING and name not in described]:
        raise UserError(f"{missing[0]!r} is missing")
    given = {name: value for name, value in described.items() if name in known}
    lists = {name: value for name, value in given.items() if name != "name"}
    if wrong := [name for name, value in lists.items() if not _is_list_of_names(value)]:
        raise UserError(f"{wrong[0]!r} must be a list of names")
    return Circuit(given["name"], **{name: tuple(value) for name, value in lists.items()})


def links_as_json(effects: Mapping[Link, float]) -> list[LinkRecord]:
    """The links of a circuit with their effects, as plain values."""
    return [
        LinkRecord(reader=link.reader, via=link.via, sender=link.sender, effect=effect)
        for link, effect in effects.items()
    ]


def links_from_json(described: Sequence[LinkRecord]) -> dict[Link, float]:
    """What `links_as_json` gave."""
    return {Link(each["reader"], each["via"], each["sender"]): each["effect"] for each in described}


def read_circuit(path: Path) -> Circuit:
    """The circuit that a JSON file describes. Raises `UserError` if it cannot be read or describes none."""
    try:
        described = parse_json(regular(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"no circuit can be read from {path} ({error.strerror}); give paper, auto or a file") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({first_line(error)}); see python reproduce.py circuit --json") from error
    try:
        return from_json(described)
    except UserError as error:
        raise UserError(f"{path}: {error}; see python reproduce.py circuit --json") from error


def table(circuit: Circuit) -> str:
    """The circuit as a Markdown table: which nodes, at which position, read what."""
    fed = [mlp for mlp in circuit.mlps if mlp in circuit.heads_feed]
    rows = [(LOGITS, "END", _late_sources(circuit, "the MLPs at END", LOGITS in circuit.heads_feed))]
    for group, reads_heads in ((fed, True), ([mlp for mlp in circuit.mlps if mlp not in fed], False)):
        rows.append((_listed(group), "END", _late_sources(circuit, "the MLPs at END before it", reads_heads)))
    inputs = [f"{_inputs(circuit.whole)}: everything"] if circuit.whole else []
    inputs += [f"{_inputs(circuit.followed)}: {_listed(circuit.first_below)} at YY"] if circuit.followed else []
    rows.append((_listed(circuit.heads), "END", "; ".join(inputs)))
    before = [f"{_listed(circuit.further_below)} before it"] if circuit.further_below else []
    rows.append((_listed(circuit.lower), "YY", "; ".join([*before, EMBEDS])))
    lines = ["| nodes | at | read |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows if row[0])])


def _late_sources(circuit: Circuit, mlps: str, reads_heads: bool) -> str:
    return " and ".join([*([mlps] if circuit.mlps else []), *(["the heads at END"] if reads_heads else [])])


def _inputs(ways: Iterable[Via]) -> str:
    return " and ".join({"q": "queries", "k": "keys", "v": "values"}[way] for way in ways)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _is_list_of_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)
