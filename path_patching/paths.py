"""Path sets: which paths of a model are patched (section 3 of the paper; `reference` defines what that computes).

A *path* runs from a node up to the logits. A *path set* is a tree of such paths, seen from the logits. At each node it
says whether a path ends there: then the node, with all it depends on, is taken from the other data. It also says
through which inputs paths go on, and to which senders. Path sets are values: they know neither an engine nor a script,
are checked when they are made, can be hashed and compared, and print as the paths they hold.

    >>> END, YY = 12, 8
    >>> print(PathSet.parse("a9.h1 → m10 → logits", end=END))
    a9.h1@12 → m10@12 → logits@12

They are also built step by step, from the logits down:

    >>> logits = PathSet.at(Node.logits(END))
    >>> through_mlps = logits.through_chains([Node.mlp(layer, END) for layer in (10, 11)])
    >>> late_half = through_mlps.extend([Node.head(9, 1, END)])
    >>> print(late_half.extend([Node.mlp(3, YY)], via="v"))
    m3@8 →v a9.h1@12 → logits@12
    m3@8 →v a9.h1@12 → m10@12 → logits@12
    m3@8 →v a9.h1@12 → m11@12 → logits@12
    m3@8 →v a9.h1@12 → m10@12 → m11@12 → logits@12
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, reduce
from typing import Any, Literal

from path_patching.errors import UserError, is_whole, shortened

Kind = Literal["embeds", "head", "mlp", "neuron", "residual", "logits"]
Via = Literal["q", "k", "v", "in"]
AnyVia = Via | Literal["all"]

INPUTS: dict[Kind, tuple[Via, ...]] = {
    "embeds": (),
    "neuron": (),
    "residual": (),
    "head": ("q", "k", "v"),
    "mlp": ("in",),
    "logits": ("in",),
}
VIAS: tuple[Via, ...] = ("q", "k", "v", "in")
NUMBER = r"(0|[1-9][0-9]{0,5})"  # one spelling for each: m8 and never m08
NAMES: dict[Kind, str] = {
    "mlp": f"m{NUMBER}",
    "head": rf"a{NUMBER}\.h{NUMBER}",
    "neuron": rf"m{NUMBER}\.n{NUMBER}",
    "embeds": "embeds",
    "residual": "residual",
    "logits": "logits",
}
ARROW = re.compile(r"\s*(?:→|->)(?:([qkv])(?=\s))?\s*")
ARROW_INPUTS: dict[str | None, AnyVia] = {"q": "q", "k": "k", "v": "v", None: "all"}
LARGEST = 999_999  # layer, number or position: what `NUMBER` reads
BELOW_ALL, ABOVE_ALL = -1, LARGEST + 1  # the layers of embeddings and logits, which have none
LAYERS: dict[Kind, tuple[int, int]] = {  # the first and the last allowed
    "embeds": (BELOW_ALL, BELOW_ALL),
    "neuron": (0, LARGEST),
    "residual": (BELOW_ALL, BELOW_ALL),
    "head": (0, LARGEST),
    "mlp": (0, LARGEST),
    "logits": (ABOVE_ALL, ABOVE_ALL),
}
NUMBERED: tuple[Kind, ...] = ("head", "neuron")  # have a number within their layer
PATHS_SHOWN = 12
DEEPEST = 200  # steps of a path: two for each of 100 layers; Python's recursion limit allows about as many


class PathSetError(UserError):
    """A path set that no model has: it is empty, does not go upstream, or names an unknown node."""


@dataclass(frozen=True, order=True)
class Node:
    """A node at one position: `a9.h1@12`, `m10@12`, `embeds@8`, `logits@12`.

    `m10.n5@12` is one neuron of an MLP: only the neuron's write is exchanged, also where other paths lead through its
    MLP. `residual@12` is a reader's whole input: everything that it finds in the residual stream at that position. Both
    can only end a path.
    """

    layer: int
    kind: Kind
    index: int
    position: int

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in NAMES:
            raise PathSetError(f"there is no node of kind {shortened(repr(self.kind))}; kinds are {', '.join(NAMES)}")
        for name in ("layer", "index", "position"):
            given = getattr(self, name)
            if type(given) is not int:  # NumPy's are welcome, and become Python's, which do not overflow
                object.__setattr__(self, name, whole_number(given))
        least, most = LAYERS[self.kind]
        if not least <= self.layer <= most:
            raise PathSetError(f"{self.kind} has no layer {shortened(self.layer)}; write one like Node.head(9, 1, END)")
        if self.index and self.kind not in NUMBERED:
            raise PathSetError(f"{self.name} has no number {shortened(self.index)}; write one like Node.mlp(10, END)")
        if not 0 <= self.index <= LARGEST or not 0 <= self.position <= LARGEST:
            raise PathSetError(f"{shortened(self)}: numbers and positions are counted from 0 to {LARGEST}")

    @classmethod
    def head(cls, layer: int, head: int, position: int) -> Node:
        """Head `head` of layer `layer`, writing at `position`."""
        return cls(layer, "head", head, position)

    @classmethod
    def mlp(cls, layer: int, position: int) -> Node:
        """The MLP of a layer, writing at `position`."""
        return cls(layer, "mlp", 0, position)

    @classmethod
    def neuron(cls, layer: int, neuron: int, position: int) -> Node:
        """One neuron of an MLP."""
        return cls(layer, "neuron", neuron, position)

    @classmethod
    def embeds(cls, position: int) -> Node:
        """The sum of token and position embedding at `position`."""
        return cls(BELOW_ALL, "embeds", 0, position)

    @classmethod
    def residual(cls, position: int) -> Node:
        """Everything that the reader finds in the residual stream at `position`."""
        return cls(BELOW_ALL, "residual", 0, position)

    @classmethod
    def logits(cls, position: int) -> Node:
        """The logits at `position`, where every path starts."""
        return cls(ABOVE_ALL, "logits", 0, position)

    @classmethod
    def named(cls, name: str, position: int) -> Node:
        """The node of a name: `a9.h1`, `m10`, `m10.n5`, `embeds`, `residual` or `logits`.

        Raises `PathSetError` for any other name, also for another spelling of a number (`m08`).
        """
        if not isinstance(name, str):
            raise PathSetError(f"{shortened(repr(name))} is no node's name; names are m10, a9.h1, m10.n5, embeds, …")
        kind, layer, index = _read_name(name)
        whole = {"embeds": cls.embeds, "residual": cls.residual, "logits": cls.logits}.get(kind)
        return whole(position) if whole else cls(layer, kind, index, position)

    @property
    def name(self) -> str:
        """The paper's name, without the position: `a9.h1`, `m10`."""
        if self.kind == "head":
            return f"a{self.layer}.h{self.index}"
        if self.kind == "mlp":
            return f"m{self.layer}"
        return f"m{self.layer}.n{self.index}" if self.kind == "neuron" else self.kind

    @property
    def depth(self) -> int:
        """Place in the order of a forward pass: embeddings 0, heads of layer l 2l + 1, the MLP of layer l 2l + 2."""
        if self.kind in ("embeds", "residual"):
            return 0
        return 2 * self.layer + (1 if self.kind == "head" else 2)

    def reaches(self, reader: Node, via: Via) -> bool:
        """Whether this node writes into what `reader` reads through its input `via`.

        A head reads queries at its own position, keys and values at that and every earlier one; MLPs and logits read
        at their own.
        """
        if via not in INPUTS[reader.kind] or self.kind == "logits" or self.depth >= reader.depth:
            return False
        return self.position <= reader.position if via in ("k", "v") else self.position == reader.position

    def check_fits(self, n_layers: int, n_heads: int, d_mlp: int, n_positions: int) -> None:
        """Raise `PathSetError` if a model of these sizes, or its sentences, do not have the node."""
        in_model = self.kind in ("embeds", "residual", "logits") or 0 <= self.layer < n_layers
        if not in_model or (self.kind == "head" and not 0 <= self.index < n_heads):
            raise PathSetError(f"{self}: the model has {n_layers} layers of {n_heads} heads")
        if self.kind == "neuron" and not 0 <= self.index < d_mlp:
            raise PathSetError(f"{self}: the model has {d_mlp} neurons in each layer")
        if not 0 <= self.position < n_positions:
            raise PathSetError(f"{self}: the sentences have positions 0 to {n_positions - 1}")

    def __str__(self) -> str:
        return f"{self.name}@{self.position}"


def whole_number(given: Any) -> int:
    """A layer, number or position as Python's own number. Raises `PathSetError` for what is no whole number."""
    if not is_whole(given):
        raise PathSetError(f"a node's layer, number and position are whole numbers, not {shortened(repr(given))}")
    return int(given)


@cache  # drawing circuits at random asks for the same few names again and again
def _read_name(name: str) -> tuple[Kind, int, int]:
    """A node's kind, layer and number within the layer from its name; 0 where it has none."""
    for kind, pattern in NAMES.items():
        if match := re.fullmatch(pattern, name):
            layer, index = (*map(int, match.groups()), 0, 0)[:2]
            return kind, layer, index
    raise PathSetError(
        f"{shortened(name)!r} is not a node; nodes are called m10, a9.h1, m10.n5, embeds, residual or logits"
        + ("; write several paths out, with ; between them" if "," in name else "")
    )


@dataclass(frozen=True)
class Branch:
    """One step upstream: from the node above, through its input `via`, to the paths that start at `paths.node`."""

    via: Via
    paths: PathSet

    @property
    def key(self) -> tuple[Via, Node]:
        """The step itself; two branches with one key can be merged."""
        return self.via, self.paths.node


@dataclass(frozen=True, eq=False)
class PathSet:
    """The paths that start at `node`: the one that ends here if `ends_here`, and those through `branches`.

    A path set for an engine starts at the logits. Where a path ends, everything below is inside, so longer paths
    through the same node add nothing. Raises `PathSetError` if it is empty or a branch does not go upstream.
    """

    node: Node
    ends_here: bool
    branches: tuple[Branch, ...] = ()
    _hash: int = field(init=False, repr=False, compare=False)
    _steps: int = field(init=False, repr=False, compare=False)  # of its longest path

    def __post_init__(self) -> None:
        check_nodes([self.node])
        if not isinstance(self.ends_here, bool):
            raise PathSetError(f"a path ends at {self.node} or not: give True or False, not {self.ends_here!r}")
        if not self.ends_here and not self.branches:
            raise PathSetError(f"no path ends at or above {self.node}: the path set is empty")
        for branch in self.branches:
            _check_step(self.node, branch.via, branch.paths.node)
        object.__setattr__(self, "_steps", 1 + max((branch.paths._steps for branch in self.branches), default=-1))
        if self._steps > DEEPEST:
            raise _too_deep(self._steps)
        object.__setattr__(self, "branches", _merged(self.branches))  # one order, so that equal sets are equal values
        # Sub-trees are shared: hashing once keeps memo look-ups in an engine from unrolling them.
        object.__setattr__(self, "_hash", hash((self.node, self.ends_here, self.branches)))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PathSet):
            return NotImplemented
        seen, waiting = set(), [(self, other)]  # each pair of sub-trees is compared once, however often it is shared
        while waiting:
            a, b = waiting.pop()
            if a is b or (id(a), id(b)) in seen:
                continue
            if a._hash != b._hash or a._step_keys() != b._step_keys():
                return False
            seen.add((id(a), id(b)))
            waiting += [(x.paths, y.paths) for x, y in zip(a.branches, b.branches, strict=True)]
        return True

    def _step_keys(self) -> tuple[object, ...]:
        """Everything about the set except what lies below its branches."""
        return self.node, self.ends_here, tuple(branch.key for branch in self.branches)

    def __reduce__(self) -> tuple[type[PathSet], tuple[Node, bool, tuple[Branch, ...]]]:
        return PathSet, (self.node, self.ends_here, self.branches)  # another process hashes strings differently

    @classmethod
    def at(cls, node: Node) -> PathSet:
        """The path of length zero: it ends where it starts."""
        return cls(node, ends_here=True)

    @classmethod
    def parse(cls, text: str, end: int | None = None, yy: int | None = None) -> PathSet:
        """The paths that a text holds, one a line (or with `;` between them), as `print` shows them.

            m3@YY →v a9.h1@END -> m10 → logits

        An arrow is `→` or `->`. A letter behind it (`→v`) names the head's input; without one, the path goes through
        all inputs that can be reached. A position is a number, `END` or `YY`; `end` and `yy` are their numbers. A node
        without a position is at END. Raises `PathSetError` for what is no path, and for a text that `print` has cut
        short.
        """
        if not isinstance(text, str):
            raise PathSetError(f"{shortened(repr(text))} is no text; write one like a9.h1 → m10 → logits")
        lines = [line.strip() for line in re.split(r"[;\n]", text) if line.strip()]
        if not lines:
            raise PathSetError("the text holds no path; write one like a9.h1 → m10 → logits")
        if any(line.startswith("…") for line in lines):
            raise PathSetError(
                f"the text was cut short when it was printed, to {PATHS_SHOWN} paths; "
                r'"\n".join(paths) has all paths of a set, each on a line'
            )
        return union(cls._parse_path(line, {"END": end, "YY": yy}) for line in lines)

    @classmethod
    def _parse_path(cls, line: str, places: dict[str, int | None]) -> PathSet:
        """The path of one line; several paths where a head's input is not named."""
        parts = ARROW.split(line)
        *senders, top = [_located(name, places) for name in parts[::2]]
        if top.kind != "logits":
            raise PathSetError(f"{shortened(line)!r} goes up to {top}; a path goes up to the logits: … → logits")
        inputs = [ARROW_INPUTS[letter] for letter in parts[1::2]]
        steps = zip(senders, inputs, strict=True)  # each with the input that reads it
        return reduce(lambda paths, step: paths.extend([step[0]], step[1]), reversed([*steps]), cls.at(top))

    @classmethod
    def all_downstream(cls, nodes: Iterable[Node], end: int, n_layers: int, n_heads: int) -> PathSet:
        """Every path from some nodes to the logits at `end`: everything downstream of them is recomputed.

        Activation patching in other tools does this, and edges of a graph mean this. The nodes' change reaches the
        logits through every chain of heads and MLPs at all positions, instead of along single paths. The set is large:
        an engine takes seconds for it.
        """
        wanted, logits = _some(nodes), cls.at(Node.logits(end))
        first = min(node.position for node in wanted)
        between = [
            node
            for position in range(first, end + 1)
            for layer in range(whole_number(n_layers))
            for node in layer_nodes(layer, whole_number(n_heads), position)
        ]
        return logits.through_chains(between).extend(wanted)

    def through(self, *chain: Node) -> PathSet:
        """Every path of the set, extended through exactly these nodes, one below the other.

        `PathSet.at(logits).through(m11, m10)` is the one path m10 → m11 → logits. Raises `PathSetError` where a node
        cannot be reached from the one above it.
        """
        return reduce(lambda paths, node: paths.extend([node]), chain, self)

    def extend(self, senders: Iterable[Node], via: AnyVia = "all") -> PathSet:
        """Every path of the set, extended by one step through input `via` to each of `senders`.

        Impossible extensions are left out: to a sender downstream of the path's end, or at a position that is not read.
        Raises `PathSetError` if none is possible.
        """
        if via not in (*VIAS, "all"):
            raise PathSetError(f"there is no input {via!r}; inputs are {', '.join(VIAS)}, or all of them")
        wanted = _some(senders)

        def step(end: Node) -> PathSet | None:
            branches = [Branch(way, PathSet.at(node)) for way, node in _steps(end, wanted, via)]
            return PathSet(end, ends_here=False, branches=tuple(branches)) if branches else None

        extended = self._replace_ends(step)
        if extended is None:
            ends = sorted(self.ends())
            has_input = via == "all" or any(via in INPUTS[end.kind] for end in ends)
            why = "not upstream, or at a position not read" if has_input else f"none of these has an input {via!r}"
            raise PathSetError(f"{_listed(wanted)} cannot be reached from {_listed(ends)} (via {via}): {why}")
        return extended

    def through_chains(self, nodes: Iterable[Node]) -> PathSet:
        """Every path of the set, extended by every chain of `nodes`: by none of them, one, or several in a row.

        Each step goes upstream, so no chain repeats a node. For one given chain, see `through`.
        """
        wanted = sorted(set(check_nodes(nodes)))
        if (steps := len({node.depth for node in wanted})) > DEEPEST:  # the longest possible chain
            raise _too_deep(steps)

        @cache
        def chains(end: Node) -> PathSet:
            branches = [Branch(way, chains(node)) for way, node in _steps(end, wanted, "all")]
            return PathSet(end, ends_here=True, branches=tuple(branches))

        grown = self._replace_ends(chains)
        assert grown is not None, "every end stays an end"
        return grown

    def ending_at(self, nodes: Iterable[Node]) -> PathSet:
        """Only the paths that end at one of `nodes`. Raises `PathSetError` if none does."""
        wanted = set(check_nodes(nodes))
        kept = self._replace_ends(lambda end: PathSet.at(end) if end in wanted else None)
        if kept is None:
            raise PathSetError(f"no path of the set ends at {', '.join(map(str, sorted(wanted))) or 'no node'}")
        return kept

    def passing(self, nodes: Iterable[Node]) -> PathSet | None:
        """The paths that pass through one of `nodes` or end there; None if there is no such path."""
        wanted = set(check_nodes(nodes))
        return self if self.node in wanted else self._taking(lambda reader, via, sender: sender in wanted)

    def passing_steps(self, steps: Iterable[tuple[Node, Via, Node]]) -> PathSet | None:
        """The paths that take one of the steps (reader, via, sender); None if there is no such path."""
        wanted = set(steps)
        return self._taking(lambda *step: step in wanted)

    def avoiding(self, nodes: Iterable[Node]) -> PathSet | None:
        """The paths that neither pass through one of `nodes` nor end there; None if there is no such path."""
        unwanted = set(check_nodes(nodes))
        return None if self.node in unwanted else self._keeping(lambda reader, via, sender: sender not in unwanted)

    def avoiding_steps(self, steps: Iterable[tuple[Node, Via, Node]]) -> PathSet | None:
        """The paths that take none of the steps (reader, via, sender); None if there is no such path."""
        unwanted = set(steps)
        for each in unwanted:
            if not isinstance(each, tuple) or [type(part) for part in each] != [Node, str, Node]:
                raise PathSetError(
                    f"{shortened(repr(each))} is no step; write one like (reader, 'v', sender), of nodes"
                )
        return self._keeping(lambda *step: step not in unwanted)

    def __or__(self, other: PathSet) -> PathSet:
        """The union of two sets that start at the same node."""
        if self.node != check_path_set(other).node:
            raise PathSetError(f"paths from {self.node} and from {other.node} have no union; start both at the logits")

        @cache  # sub-trees that both sets share are united once
        def united(a: PathSet, b: PathSet) -> PathSet:
            if a == b:
                return a
            below = {branch.key: branch.paths for branch in a.branches}
            for via, paths in ((branch.via, branch.paths) for branch in b.branches):
                key = via, paths.node
                below[key] = united(below[key], paths) if key in below else paths
            branches = tuple(Branch(via, paths) for (via, _), paths in below.items())
            return PathSet(a.node, a.ends_here or b.ends_here, branches)

        return united(self, other)

    def reachable(self, sender: Node, via: AnyVia = "all") -> bool:
        """Whether `extend([sender], via)` adds anything."""
        check_nodes([sender])
        return any(next(_steps(end, [sender], via), None) for end in self.ends())

    def ends(self) -> frozenset[Node]:
        """The nodes at which paths of the set end: the receivers of iterative path patching."""
        return frozenset(paths.node for paths in self._distinct() if paths.ends_here)

    def nodes(self) -> frozenset[Node]:
        """Every node on a path of the set."""
        return frozenset(paths.node for paths in self._distinct())

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        return self.count()

    def count(self) -> int:
        """The number of paths, which may be too large for `len`."""

        @cache
        def count(paths: PathSet) -> int:
            return paths.ends_here + sum(count(branch.paths) for branch in paths.branches)

        return count(self)

    def __iter__(self) -> Iterator[str]:
        """Each path as text, from its end to the logits: `m3@8 →v a9.h1@12 → m10@12 → logits@12`."""
        if self.ends_here:
            yield str(self.node)
        for branch in self.branches:
            arrow = "→" if branch.via == "in" else f"→{branch.via}"
            for path in branch.paths:
                yield f"{path} {arrow} {self.node}"

    def __str__(self) -> str:
        shown = [path for path, _ in zip(self, range(PATHS_SHOWN), strict=False)]
        rest = self.count() - len(shown)
        return "\n".join([*shown, *([f"… and {rest} more"] if rest else [])])

    def __repr__(self) -> str:
        shown = "; ".join(str(self).splitlines())
        count = self.count()
        return f"<PathSet of {count} {'path' if count == 1 else 'paths'}: {shown}>"

    def _distinct(self) -> set[PathSet]:
        """The set and all its sub-trees, each once however many paths share it."""
        found, waiting = {self}, [self]
        while waiting:
            below = {branch.paths for branch in waiting.pop().branches} - found
            found |= below
            waiting.extend(below)
        return found

    def _replace_ends(self, grow: Callable[[Node], PathSet | None]) -> PathSet | None:
        """The set with every end replaced by the paths that `grow` gives from there (None: the path is dropped)."""

        @cache
        def replaced(paths: PathSet) -> PathSet | None:
            below = [(branch.via, replaced(branch.paths)) for branch in paths.branches]
            kept = [Branch(via, grown) for via, grown in below if grown is not None]
            at_end = grow(paths.node) if paths.ends_here else None
            branches = (*kept, *(at_end.branches if at_end is not None else ()))
            ends_here = at_end is not None and at_end.ends_here
            return PathSet(paths.node, ends_here, branches) if ends_here or branches else None

        return replaced(self)

    def _taking(self, wanted: Callable[[Node, Via, Node], bool]) -> PathSet | None:
        """The paths that take a wanted step (reader, via, sender); None if there is no such path."""

        @cache
        def taking(paths: PathSet) -> PathSet | None:
            return _tree(paths.node, False, [(branch.via, below(paths.node, branch)) for branch in paths.branches])

        def below(reader: Node, branch: Branch) -> PathSet | None:
            return branch.paths if wanted(reader, branch.via, branch.paths.node) else taking(branch.paths)

        return taking(self)

    def _keeping(self, keep: Callable[[Node, Via, Node], bool]) -> PathSet | None:
        """The paths all of whose steps (reader, via, sender) are kept; None if there is no such path."""

        @cache
        def kept(paths: PathSet) -> PathSet | None:
            steps = [branch for branch in paths.branches if keep(paths.node, branch.via, branch.paths.node)]
            return _tree(paths.node, paths.ends_here, [(branch.via, kept(branch.paths)) for branch in steps])

        return kept(self)


def union(path_sets: Iterable[PathSet]) -> PathSet:
    """The union of one or more path sets. Raises `PathSetError` if there is none."""
    path_sets = [check_path_set(each) for each in path_sets]
    if not path_sets:
        raise PathSetError("the union of no path sets is empty")
    return reduce(PathSet.__or__, path_sets)


def check_path_set(given: object) -> PathSet:
    """A path set, as it was given. Raises `PathSetError` for anything else, such as the text of a path."""
    if not isinstance(given, PathSet):
        raise PathSetError(f"{shortened(repr(given))} is no path set; PathSet.parse makes one of a text")
    return given


def check_nodes(given: object) -> list[Node]:
    """Several nodes, as they were given. Raises `PathSetError` for anything else, such as a name, or a single node."""
    if isinstance(given, Node | str) or not isinstance(given, Iterable):
        raise PathSetError(f"{shortened(repr(given))} is no list of nodes; write one like [Node.head(9, 1, END)]")
    nodes = [*given]
    for each in nodes:
        if not isinstance(each, Node):
            raise PathSetError(f"{shortened(repr(each))} is no node; write one like Node.head(9, 1, END)")
    return nodes


def layer_nodes(layer: int, n_heads: int, position: int) -> list[Node]:
    """The nodes of one layer at a position, heads first, then the MLP: a row of a sweep."""
    return [*(Node.head(layer, head, position) for head in range(n_heads)), Node.mlp(layer, position)]


def _too_deep(steps: int) -> PathSetError:
    return PathSetError(f"a path of {steps} steps or more: at most {DEEPEST} are followed; leave some nodes out")


def _some(given: object) -> list[Node]:
    """The nodes given, each once and in order. Raises `PathSetError` if there is none."""
    if not (nodes := sorted(set(check_nodes(given)))):
        raise PathSetError("no node is given to extend the paths to; name at least one")
    return nodes


def _listed(nodes: Sequence[Node]) -> str:
    """Nodes in a message, at most `PATHS_SHOWN`."""
    rest = len(nodes) - PATHS_SHOWN
    return ", ".join([*map(str, nodes[:PATHS_SHOWN]), *([f"and {rest} more"] if rest > 0 else [])])


def _located(name: str, places: dict[str, int | None]) -> Node:
    """The node of `m3@8`, `m3@YY`, or `m3` at END."""
    bare, at, place = name.partition("@")
    place = place if at else "END"
    position = int(place) if re.fullmatch(NUMBER, place) else places.get(place)
    if position is None:
        where = shortened(place) or "nothing"
        raise PathSetError(
            f"{shortened(name)!r}: where is {where}? Positions are numbers, END or YY; say end=… and yy=…"
        )
    return Node.named(bare, position)


def _steps(end: Node, senders: list[Node], via: AnyVia) -> Iterator[tuple[Via, Node]]:
    ways = INPUTS[end.kind] if via == "all" else (via,)
    return ((way, sender) for way in ways for sender in senders if sender.reaches(end, way))


def _tree(node: Node, ends_here: bool, below: Iterable[tuple[Via, PathSet | None]]) -> PathSet | None:
    """The paths from a node through the sets below it that are left; None if none is left."""
    branches = tuple(Branch(via, paths) for via, paths in below if paths is not None)
    return PathSet(node, ends_here, branches) if ends_here or branches else None


def _merged(branches: Iterable[Branch]) -> tuple[Branch, ...]:
    """Branches in order; those with the same step are united."""
    merged: dict[tuple[Via, Node], PathSet] = {}
    for branch in branches:
        merged[branch.key] = merged[branch.key] | branch.paths if branch.key in merged else branch.paths
    return tuple(Branch(via, merged[via, node]) for via, node in sorted(merged))


def _check_step(reader: Node, via: Via, sender: Node) -> None:
    if sender.reaches(reader, via):
        return
    if via not in INPUTS[reader.kind]:
        raise PathSetError(f"{reader} has no input {via!r}; it has {', '.join(INPUTS[reader.kind]) or 'none'}")
    if sender.depth >= reader.depth:
        raise PathSetError(f"{sender} is not upstream of {reader}")
    raise PathSetError(f"{sender} cannot reach input {via!r} of {reader}: it is read at another position")
