"""Reading and writing circuits as lists of edges, as other people do: graph JSON of EAP-IG and MIB, and text.

An edge is a `Link`. Without places it holds at every position, as the edges of a graph do. These forms are read:

| written by | edges | embeddings, logits |
|---|---|---|
| this repository | `a9.h1 → m10`, `m3 →k a7.h10`, with places `m3@YY →k a7.h10@END` | `embeds`, `logits` |
| EAP-IG and MIB | `a9.h1->m10`, `m3->a7.h10<k>` | `input`, `logits` |
| auto-circuit | `A9.1->MLP 10`, `MLP 3->A7.10.K` | `Resid Start`, `Resid End` |

They may be mixed. A head named without one of its inputs is read through all three.

    >>> read = from_text('''
    ...     embeds → m0       # a comment
    ...     m0->a1.h0<v>
    ...     A1.0->MLP 2
    ...     MLP 2->Resid End
    ... ''')
    >>> print(as_text(read))
    m0 →v a1.h0
    m2 → logits
    embeds → m0
    a1.h0 → m2
    >>> graph = as_graph(read, model.architecture)
    >>> graph["edges"]["m0->a1.h0<v>"]
    {'score': 1.0, 'in_graph': True}
    >>> from_graph(graph) == read
    True
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from path_patching.circuits.circuit import (
    EMBEDS,
    END,
    EVERYTHING,
    LOGITS,
    YY,
    Link,
    in_model,
    in_order,
    is_member,
)
from path_patching.circuits.overlap import without_places
from path_patching.errors import UserError, shortened
from path_patching.gpt2.model import Architecture
from path_patching.paths import ARROW, INPUTS, NUMBER, Node, Via

ENDS = {
    **dict.fromkeys((EMBEDS, "input", "Resid Start"), EMBEDS),
    **dict.fromkeys((LOGITS, "Resid End"), LOGITS),
    EVERYTHING: EVERYTHING,
}
MLP = re.compile(rf"(?:m|MLP ){NUMBER}")
HEAD = re.compile(rf"[aA]{NUMBER}\.h?{NUMBER}(?:<([qkv])>|\.([QKV]))?")
LETTERS: Mapping[str | None, Via] = {"q": "q", "k": "k", "v": "v", "Q": "q", "K": "k", "V": "v"}
EXAMPLES = "m3->a7.h10<k>, m3 →k a7.h10 or MLP 3->A7.10.K"


def from_text(text: str) -> tuple[Link, ...]:
    """The edges of a text, one on each line; `#` begins a comment. Raises `UserError` for a line that is no edge."""
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    found = {link for line in lines if line for link in edge(line)}
    if not found:
        raise UserError(f"it has no edge; write one on each line, as {EXAMPLES}")
    return tuple(sorted(found))


def as_text(links: Iterable[Link]) -> str:
    """The edges, one on each line, as `from_text` reads them."""
    return "\n".join(map(str, links))


def edge(text: str) -> tuple[Link, ...]:
    """The links of one edge: three if it leads to a head and names none of its inputs.

    Raises `UserError` for what is no edge, and if its reader cannot read its sender.
    """
    parts = ARROW.split(text.strip())
    if len(parts) != 3:
        raise UserError(f"{shortened(text)!r} is no edge; write one as {EXAMPLES}")
    sender, reader, way = _named(parts[0]), _named(parts[2]), LETTERS.get(parts[1])
    inputs = () if reader.node is None else INPUTS[reader.node.kind]
    via = way or reader.via
    if sender.via or (way and reader.via) or (via and via not in inputs):
        raise UserError(f"{shortened(text)!r} names an input that its reader does not have; write {EXAMPLES}")
    if reader.node is None or not inputs or (sender.node and not sender.node.reaches(reader.node, inputs[0])):
        raise UserError(f"{shortened(text)!r} does not lead downstream, to what is computed later")
    return tuple(Link(reader.name, each, sender.name) for each in ([via] if via else inputs))


@dataclass(frozen=True)
class _Named:
    """An end of an edge."""

    name: str  # as in links, with its place if it has one
    node: Node | None  # None for `everything`
    via: Via | None = None  # the input, if one is named


def _named(text: str) -> _Named:
    """An end of an edge by any of its names. Raises `UserError` for an unknown name."""
    name, at, place = text.strip().partition("@")
    if at and place not in (YY, END):
        raise UserError(f"{shortened(text)!r} has an unknown place; places are END and YY, as in m3@YY->a7.h10<k>@END")
    if name in ENDS:
        own = ENDS[name]
        return _Named(own + at + place, None if own == EVERYTHING else Node.named(own, 0))
    if match := MLP.fullmatch(name):
        own, via = f"m{match[1]}", None
    elif match := HEAD.fullmatch(name):
        own, via = f"a{match[1]}.h{match[2]}", LETTERS.get(match[3] or match[4])
    else:
        raise UserError(f"{shortened(text)!r} is no node; nodes are called m10 or a9.h1, input or logits")
    return _Named(own + at + place, Node.named(own, 0), via)


def from_graph(described: Mapping[str, object]) -> tuple[Link, ...]:
    """The edges that are in the graph of an EAP-IG or MIB JSON file. The flags of its nodes are not needed.

    Edges from `everything`, which `as_graph` writes, are read too. Raises `UserError` for what is no such graph.
    """
    edges, whole = described.get("edges"), described.get("everything", [])
    if not isinstance(edges, dict) or not isinstance(whole, list):
        raise UserError("a graph has an object 'edges', of each edge by name")
    _check_is_of_gpt2(described)
    inside = [name for name, about in edges.items() if _is_in_graph(name, about)]
    if edges and not inside:
        raise UserError(f"none of its {len(edges):,} edges is in_graph; choose some by their scores first")
    links = {link for name in inside for link in edge(name)}
    return tuple(sorted(links.union(*(edge(f"{EVERYTHING}->{reader}") for reader in whole))))


def edges_outside(described: Mapping[str, object]) -> int:
    """How many edges of such a file are outside the graph."""
    edges = described.get("edges")
    return sum(not _is_in_graph(name, about) for name, about in edges.items()) if isinstance(edges, dict) else 0


def _is_in_graph(name: str, about: object) -> bool:
    flag = about.get("in_graph") if isinstance(about, dict) else about
    if flag not in (True, False):
        raise UserError(f"its edge {shortened(name)!r} has no in_graph that is true or false; choose by score")
    return bool(flag)


def _check_is_of_gpt2(described: Mapping[str, object]) -> None:
    """Raise `UserError` for a graph of parts of heads and MLPs, or of layers that compute both side by side."""
    cfg, nodes = described.get("cfg"), described.get("nodes")
    if isinstance(cfg, dict) and cfg.get("parallel_attn_mlp"):
        raise UserError("its model computes heads and MLPs of a layer side by side (parallel_attn_mlp), not as GPT-2")
    for name, about in nodes.items() if isinstance(nodes, dict) else ():
        kept = about.get("neurons") if isinstance(about, dict) else None
        if isinstance(kept, list) and any(kept) and not all(kept):
            raise UserError(f"it has a part of {shortened(name)} alone; only whole heads and MLPs can be evaluated")


def as_graph(links: Iterable[Link], sizes: Architecture) -> dict[str, object]:
    """The edges as the values of a JSON file that EAP-IG and MIB read, for a model of these sizes.

    Places are left out. EAP-IG has no name for `everything`, so its edges are listed apart, under that name. Nodes
    and edges that are not listed are outside the graph.

    Raises `UserError` if such a model lacks a node.
    """
    unplaced = without_places(links)
    members = {name for link in unplaced for name in (link.reader, link.sender) if is_member(name)}
    if lacking := in_order(members - {*in_model(members, sizes)}):
        raise UserError(
            f"a model of {sizes.n_layers} layers of {sizes.n_heads} heads has no {lacking[0]}; name another"
        )
    edges = [link for link in unplaced if link.sender != EVERYTHING]
    nodes = sorted({_foreign(name) for link in edges for name in (link.sender, link.reader)})
    sized = {"n_layers": sizes.n_layers, "n_heads": sizes.n_heads, "d_model": sizes.d_model}
    return {
        "cfg": sized | {"parallel_attn_mlp": False},
        "nodes": {name: {"in_graph": True} for name in nodes},
        "edges": {f"{_foreign(link.sender)}->{_input(link)}": {"score": 1.0, "in_graph": True} for link in edges},
        "everything": [_input(link) for link in unplaced if link.sender == EVERYTHING],
    }


def _foreign(name: str) -> str:
    return "input" if name == EMBEDS else name


def _input(link: Link) -> str:
    return link.reader if link.via == "in" else f"{link.reader}<{link.via}>"
