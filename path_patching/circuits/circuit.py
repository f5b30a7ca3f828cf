"""A circuit as data: a set of links, and the paths along them (section 3 of the paper).

A link leads from one node into one input of another. Nodes are at END or at YY: `m10@END`, `m0@YY`. Or no link of the
circuit has places (`m10`, `a9.h1`, `embeds`, `logits`): then the links hold at every position, and heads read keys and
values at their own and all earlier positions. Below are the embeddings, or `everything`: all that an input reads.

The *full circuit* has all paths from the logits at END along the links, down to the embeddings or to everything. Its
*late half* has these paths down to their first head, whose inputs are then inside as a whole. Every node of a circuit
is on one of these paths: a node that reads nothing can only be a head of the late half.

    >>> several = "m2 → logits; a1.h0 → m2; m0 →v a1.h0; embeds → m0".split("; ")
    >>> bare = Circuit("without places", tuple(map(Link.parse, several)))
    >>> print(full_circuit(bare, YY, END))
    embeds@0 → m0@0 →v a1.h0@12 → m2@12 → logits@12
    ...
    >>> circuit.links[0]  # of a circuit in the paper's shape (`papers_shape`), at END and YY
    Link(reader='a1.h0@END', via='k', sender='m0@YY')
    >>> print(late_half(circuit, END))
    a1.h0@12 → m1@12 → logits@12
    a1.h0@12 → m2@12 → logits@12
    a1.h0@12 → m1@12 → m2@12 → logits@12
    >>> full_circuit(circuit, YY, END).count()  # each goes on through keys, values and whole queries
    9
    >>> probs = engine.isolate(full_circuit(circuit, YY, END))  # what it achieves alone, (N, A)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property

from path_patching.errors import UserError, shortened
from path_patching.gpt2.model import Architecture, Model
from path_patching.paths import ARROW, DEEPEST, INPUTS, Branch, Kind, Node, PathSet, Via, whole_number

LOGITS, EMBEDS, EVERYTHING = "logits", "embeds", "everything"
END, YY = "END", "YY"
VIA_OF_LETTER: dict[str | None, Via] = {"q": "q", "k": "k", "v": "v", None: "in"}  # behind an arrow
LONGEST_NAME = 100  # letters of a circuit's name, which is used in titles

Step = tuple[Node, Via, Node]  # reader, its input, sender


@dataclass(frozen=True, order=True)
class Link:
    """One link of a circuit: `reader` reads what `sender` writes through its input `via`.

    Both have a place, `a9.h1@END`, `m0@YY`, or neither has. The sender `everything` is all that the input reads.
    """

    reader: str
    via: Via
    sender: str

    @classmethod
    def parse(cls, text: str) -> Link:
        """The link of a text that `str` writes, also with `->`. Raises `UserError` for any other text."""
        parts = ARROW.split(text.strip())
        if len(parts) != 3:
            raise UserError(f"{shortened(text)!r} is no link; write one like m0@YY →v a9.h1@END, or m0 → m10")
        sender, letter, reader = parts
        return cls(reader, VIA_OF_LETTER[letter], sender)

    def __str__(self) -> str:
        """As paths are written: `m0@YY →v a9.h1@END`, `a9.h1@END → m10@END`."""
        return f"{self.sender} →{'' if self.via == 'in' else self.via} {self.reader}"


@dataclass(frozen=True)
class Circuit:
    """A set of links. Each is on a path to the logits.

    Raises `UserError` for anything but links, for some links with places and some without, and for a node on no path.
    """

    name: str
    links: tuple[Link, ...]  # in order, each once
    studied: tuple[str, ...] = ()  # heads to look at closely, the most important first, without their place

    def __post_init__(self) -> None:
        for complaint in _complaints(self):
            raise UserError(f"{shortened(self.name)} cannot be a circuit: {complaint}")
        object.__setattr__(self, "links", tuple(sorted({*self.links})))

    @cached_property
    def placed(self) -> bool:
        """Whether its nodes are at END and YY; if not, they are in the circuit at every position."""
        return any("@" in link.reader for link in self.links)

    @cached_property
    def members(self) -> tuple[str, ...]:
        """Its heads and MLPs as links call them, those at YY first, in the order of layers."""
        names = [each for each in _ends(self.links) if is_member(each)]
        return tuple(sorted(names, key=lambda each: (place_of(each) != YY, _order(bare(each)))))

    @cached_property
    def mlps(self) -> tuple[str, ...]:
        """The names of its MLPs at END, or of all if they have no places, in the order of layers."""
        return tuple(bare(each) for each in self.members if place_of(each) != YY and kind_of(each) == "mlp")

    @cached_property
    def heads(self) -> tuple[str, ...]:
        """The names of its heads at END, or of all if they have no places, in the order of layers."""
        return tuple(bare(each) for each in self.members if place_of(each) != YY and kind_of(each) == "head")

    @cached_property
    def lower(self) -> tuple[str, ...]:
        """The names of the heads and MLPs at YY, in the order of layers."""
        return tuple(bare(each) for each in self.members if place_of(each) == YY)

    @cached_property
    def heads_feed(self) -> tuple[str, ...]:
        """The names of the logits and MLPs that its heads write to; with places, its heads at END."""
        fed = {link.reader for link in self.links if link.via == "in" and kind_of(link.sender) == "head"}
        return in_order(bare(each) for each in fed if place_of(each) != YY)


def check_circuit(given: object) -> Circuit:
    """A circuit, as it was given. Raises `UserError` for anything else, such as all that a search has found."""
    if not isinstance(given, Circuit):
        raise UserError(f"{shortened(repr(given))} is no circuit; find_circuit(…).circuit is one, and so is a file's")
    return given


def is_same(one: Circuit, other: Circuit) -> bool:
    """Whether two circuits have the same links and so the same paths, whatever their names are."""
    return one.links == other.links


def nodes(names: Iterable[str], position: int) -> list[Node]:
    """Several nodes at one position."""
    return [Node.named(name, position) for name in names]


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Names of nodes in the order of a forward pass."""
    return tuple(sorted(names, key=_order))


@cache
def _order(name: str) -> tuple[int, int]:
    node = Node.named(name, 0)
    return node.depth, node.index


def bare(labelled: str) -> str:
    """The name of a node without its place: `m0` of `m0@YY`."""
    return labelled.partition("@")[0]


def place_of(labelled: str) -> str:
    """The place of a node: `YY` of `m0@YY`, nothing of `m0`."""
    return labelled.partition("@")[2]


@cache
def kind_of(labelled: str) -> Kind:
    """What kind of node an end of a link is; `everything` is a residual stream."""
    return "residual" if labelled == EVERYTHING else Node.named(bare(labelled), 0).kind


def is_member(labelled: str) -> bool:
    """Whether an end of a link is a head or an MLP."""
    return kind_of(labelled) in ("head", "mlp")


def on_paths(links: Iterable[Link]) -> tuple[tuple[Link, ...], tuple[Link, ...]]:
    """The links on paths from the logits down to embeddings or everything, and the other links."""
    given = kept = tuple(sorted({*links}))
    while loose := _loose(kept):
        kept = tuple(link for link in kept if link.reader not in loose and link.sender not in loose)
    return kept, tuple(sorted({*given} - {*kept}))


def _loose(links: Collection[Link]) -> set[str]:
    """The nodes but the logits that nothing reads, and the heads and MLPs that read nothing."""
    readers, senders = {link.reader for link in links}, {link.sender for link in links}
    unread = {reader for reader in readers - senders if kind_of(reader) != "logits"}
    return unread | {sender for sender in senders - readers if is_member(sender)}


def _late_nodes(links: Iterable[Link]) -> set[str]:
    """The nodes of the late half: the logits, the MLPs that they read through MLPs, and what these read."""
    late = {LOGITS, f"{LOGITS}@{END}"}
    for link in sorted(links, key=lambda link: _order(bare(link.reader)), reverse=True):
        if link.via == "in" and link.reader in late:
            late.add(link.sender)
    return late


def _complaints(circuit: Circuit) -> Iterator[str]:
    """What is wrong with a circuit, in sentences."""
    name, links, studied = circuit.name, circuit.links, circuit.studied
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name.strip()) <= len(name) <= LONGEST_NAME:
        yield f"its name has to be a text of 1 to {LONGEST_NAME} letters, all of them printable"
    if not isinstance(links, tuple) or not all(isinstance(each, Link) for each in links):
        yield "links has to be a tuple of links"
    if not isinstance(studied, tuple) or not all(isinstance(each, str) for each in studied):
        yield "studied has to be a tuple of names"
    ends = _ends(links)
    yield from (f"{shortened(each)} is at no place of a circuit, END or YY" for each in ends if not _has_place(each))
    yield from filter(None, [mixed_places(links)])
    yield from filter(None, map(_wrong_with, links))
    if len({_order(bare(each))[0] for each in ends}) > DEEPEST:
        yield f"its paths may have more than {DEEPEST} steps, too many to follow; leave some nodes out"
    heads = {bare(each) for each in ends if kind_of(each) == "head" and place_of(each) != YY}
    yield from (f"{shortened(each)} is studied, but not among its heads" for each in studied if each not in heads)
    late_heads = {each for each in _late_nodes(links) if kind_of(each) == "head"}
    loose = sorted(_loose(links) - late_heads, key=lambda each: _order(bare(each)))
    yield from (f"{each} is on no path of it; link it, or leave it out" for each in loose)
    if not on_paths(links)[0]:
        yield "no path of it leads from the logits down to embeds or everything"


def mixed_places(links: Iterable[Link]) -> str | None:
    """A message if some nodes of the links have a place and some have none; else None."""
    ends = _ends(links)
    with_place, without = ([each for each in ends if ("@" in each) is placed] for placed in (True, False))
    if not with_place or not without:
        return None
    return f"{with_place[0]} has a place, but {without[0]} has none; give all nodes one, or none"


def _ends(links: Iterable[Link]) -> list[str]:
    """The senders and readers of links, each once, without `everything`, which has no place."""
    return sorted({each for link in links for each in (link.reader, link.sender)} - {EVERYTHING})


def _has_place(labelled: str) -> bool:
    """Whether an end of a link has a possible place, or none. Raises `PathSetError` if it is no node."""
    places = (END,) if kind_of(labelled) == "logits" else (END, YY)
    return "@" not in labelled or place_of(labelled) in places


@cache
def _wrong_with(link: Link) -> str | None:
    """A message if a link alone is impossible; else None."""
    for each, kinds in ((link.reader, ("logits", "mlp", "head")), (link.sender, ("mlp", "head", "embeds"))):
        if (kind_of(each) not in kinds and each != EVERYTHING) or link.reader == EVERYTHING:
            return f"{link}: {each} cannot be there; heads and MLPs read them, embeds or everything"
    if link.via not in INPUTS[kind_of(link.reader)]:
        return f"{link}: {link.reader} has the inputs {', '.join(INPUTS[kind_of(link.reader)])}; name one (→v …)"
    if not steps(link, yy_position=0, end=1):
        return f"{link}: {link.sender} is not upstream of {link.reader}, or at a position that is not read"
    return None


def steps(link: Link, yy_position: int, end: int) -> list[Step]:
    """All steps of a link, at every position at which it holds.

    A link from the embeddings at YY into a node at YY has the embeddings of all positions up to YY that the node reads.
    Into a node at END, it has those at YY alone.
    """
    readers = _located(link.reader, yy_position, end)
    up_to_yy = kind_of(link.sender) == "embeds" and place_of(link.sender) == place_of(link.reader) == YY
    senders = (
        tuple(Node.embeds(at) for at in range(yy_position + 1)) if up_to_yy else _located(link.sender, yy_position, end)
    )
    return [(reader, link.via, sender) for reader in readers for sender in senders if sender.reaches(reader, link.via)]


@cache
def _located(labelled: str, yy_position: int, end: int) -> tuple[Node, ...]:
    """The nodes of a link's end: one if it has a place, else one at each position."""
    if labelled == EVERYTHING:
        return tuple(Node.residual(position) for position in range(end + 1))
    name = bare(labelled)
    if name == LOGITS:
        return (Node.logits(end),)
    positions = {END: [end], YY: [yy_position], "": range(end + 1)}[place_of(labelled)]
    return tuple(Node.named(name, position) for position in positions)


def _along(
    links: Iterable[Link], yy_position: int, end: int, through: Collection[Kind], ends: Collection[Kind]
) -> PathSet:
    """The paths from the logits along links, through nodes of some kinds, ending at nodes of some kinds."""
    read: defaultdict[Node, list[tuple[Via, Node]]] = defaultdict(list)
    for link in links:
        if kind_of(link.reader) in through and kind_of(link.sender) in {*through, *ends}:
            for reader, via, sender in steps(link, yy_position, end):
                read[reader].append((via, sender))

    @cache  # a node that several others read is one sub-tree
    def below(node: Node) -> PathSet:
        return PathSet(node, node.kind in ends, tuple(Branch(via, below(sender)) for via, sender in read[node]))

    return below(Node.logits(end))


def full_circuit(circuit: Circuit, yy_position: int, end: int) -> PathSet:
    """All paths of a circuit, from the logits at END down to the embeddings, or to everything.

    Raises `UserError` if the circuit has places and YY does not come before END.
    """
    if check_circuit(circuit).placed and not 0 <= whole_number(yy_position) <= whole_number(end):
        raise UserError(
            f"YY at {yy_position} and END at {end}: {circuit.name} reads at END what was written at YY, before it"
        )
    links, _ = on_paths(circuit.links)
    return _along(links, yy_position, end, through=("logits", "mlp", "head"), ends=("embeds", "residual"))


def late_half(circuit: Circuit, end: int) -> PathSet:
    """The paths of a circuit down to their first head, whose inputs are inside as a whole.

    A path without a head goes down to the embeddings or to everything.
    """
    return _along(_at_end(circuit), end, end, through=("logits", "mlp"), ends=("head", "embeds", "residual"))


def late_half_by_values(circuit: Circuit, end: int) -> PathSet | None:
    """The late half with only the values of its heads inside; paths without a head stay. None without heads."""
    late = late_half(circuit, end)
    heads = {node for node in late.ends() if node.kind == "head"}
    if not heads:
        return None
    values = late.ending_at(heads).extend([Node.residual(position) for position in range(end + 1)], via="v")
    others = late.ends() - heads
    return values | late.ending_at(others) if others else values


def mlp_chains(circuit: Circuit, end: int) -> PathSet:
    """The logits, and every chain of the circuit's MLPs below them."""
    return _along(_at_end(circuit), end, end, through=("logits", "mlp"), ends=("logits", "mlp"))


def _at_end(circuit: Circuit) -> list[Link]:
    """The links of a circuit into nodes at END, or all if it has no places."""
    return [link for link in check_circuit(circuit).links if place_of(link.reader) != YY]


def down_to(paths: PathSet, *ends: Node) -> PathSet | None:
    """The upper parts, down to `ends`, of the paths that pass through one of them; None if none does."""

    @cache
    def upper(part: PathSet) -> PathSet | None:
        if part.node in ends:
            return PathSet.at(part.node)
        parts = [(branch.via, upper(branch.paths)) for branch in part.branches]
        branches = tuple(Branch(via, below) for via, below in parts if below is not None)
        return PathSet(part.node, ends_here=False, branches=branches) if branches else None

    return upper(paths)


def into_mlp(circuit: Circuit, mlp: str, end: int) -> PathSet:
    """The paths that end at one MLP at END, from the logits through chains of the circuit's MLPs.

    The MLP need not be in the circuit: then all chains of the circuit's later MLPs lead to it.
    """
    chains, node = mlp_chains(circuit, end), Node.named(mlp, end)
    return down_to(chains, node) or chains.extend([node])


def indirect_into_mlp(circuit: Circuit, mlp: str, end: int) -> PathSet | None:
    """The paths of `into_mlp` without the one from the MLP directly to the logits; None if there is no other."""
    return into_mlp(circuit, mlp, end).avoiding_steps([(Node.logits(end), "in", Node.named(mlp, end))])


def heads_readers(circuit: Circuit, end: int) -> PathSet:
    """The paths to what the circuit's heads write to."""
    return mlp_chains(circuit, end).ending_at(nodes(circuit.heads_feed, end))


def into_lower(circuit: Circuit, name: str, yy_position: int, end: int) -> PathSet:
    """The paths of a circuit that end at one of its nodes at YY."""
    paths = down_to(full_circuit(circuit, yy_position, end), Node.named(name, yy_position))
    if paths is None:
        raise UserError(f"{circuit.name} has no {name} at YY; it has {', '.join(circuit.lower) or 'nothing'} there")
    return paths


def in_model(names: Iterable[str], architecture: Architecture) -> tuple[str, ...]:
    """The heads and MLPs among `names` that a model has."""
    found = {name: Node.named(name, 0) for name in names}
    return tuple(
        name
        for name, each in found.items()
        if each.layer < architecture.n_layers and (each.kind == "mlp" or each.index < architecture.n_heads)
    )


def check_fits(circuit: Circuit, model: Model) -> None:
    """Raise `UserError` if the model lacks a node of the circuit."""
    names, sizes = (*circuit.mlps, *circuit.heads, *circuit.lower), model.architecture
    had = in_model(names, sizes)
    for lacking in (name for name in names if name not in had):
        raise UserError(
            f"{circuit.name} has {lacking}, but {model.name} has {sizes.n_layers} layers of {sizes.n_heads} heads: "
            "take its own circuit, found automatically"
        )
