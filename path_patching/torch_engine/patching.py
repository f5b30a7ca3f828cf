"""The method in plain PyTorch: how a path set changes what nodes read and write, compared with the outside data.

The change of a node's write follows from the changes that its branches make to what the node reads. So it is computed
from the ends of the paths up to the logits. A cache keeps it by sub-tree: equal sub-trees make equal changes in all
path sets. A node on the way changes by what it computes from the patched stream, minus its write on outside data; on
mean and zero data, that write is not what the node computes from the outside stream. In a sweep the changes of S
senders are stacked on a leading axis: shapes are (..., N, D) for N sentences and width D, where `...` is nothing or S.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable
from functools import partial
from typing import NamedTuple

import torch

from path_patching.engine import Data
from path_patching.paths import Node, PathSet, Via
from path_patching.torch_engine.forward import Activations


class Sender(NamedTuple):
    """The paths that start at a node, and, for an MLP, which of its neurons end a path."""

    paths: PathSet
    neurons: tuple[int, ...] = ()


Key = tuple[int, tuple[int, ...]]  # of a sender: the number of its paths, and the neurons


class Reads(NamedTuple):
    """What changes in what a node reads: the senders by input and position, and those to be computed first."""

    arriving: dict[tuple[Via, int], list[tuple[Key, Sender]]]
    below: list[tuple[Key, Sender]]


class Patching:
    """How path sets with `inside` data at their ends change a batch of sentences on `outside` data."""

    def __init__(self, activations: Activations, inside: Data, outside: Data, strength: float = 1.0) -> None:
        self.activations = activations
        self.transformer = activations.transformer
        self.inside, self.outside, self.strength = inside, outside, strength
        self._numbered: dict[int, tuple[PathSet, int]] = {}  # by id; the path set is kept so that no other gets its id
        self._numbers: dict[Hashable, int] = {}
        self._known: dict[Key, torch.Tensor] = {}
        self._known_reads: dict[int, Reads] = {}
        self._outside: dict[Hashable, torch.Tensor] = {}

    @property
    def data(self) -> tuple[Data, Data, float]:
        """Everything but the sentences, as in a request."""
        return self.inside, self.outside, self.strength

    def n_bytes(self) -> int:
        """The cache's size."""
        return sum(each.nbytes for each in (*self._known.values(), *self._outside.values()))

    def give(self, sender: Node, change: torch.Tensor) -> None:
        """Add `change` (..., N, D) to what `sender` writes wherever a path ends at it."""
        self._known[self._number(PathSet.at(sender)), ()] = change

    def end_stream(self, paths: PathSet) -> torch.Tensor:
        """The residual stream that the logits read, (..., N, D)."""
        logits = paths.node
        if paths.ends_here:
            return self._graded(partial(self.activations.stream, logits, logits.position))
        waiting = [(key, sender, False) for key, sender in self._reads(paths).below]
        while waiting:
            key, sender, is_ready = waiting.pop()
            if key in self._known:
                continue
            if sender.paths.ends_here:
                self._known[key] = self.sent(sender.paths.node)
            elif is_ready:
                compute = self._written_by_mlp if sender.paths.node.kind == "mlp" else self._written_by_head
                self._known[key] = compute(*sender)
            else:  # first what is below it
                waiting.append((key, sender, True))
                waiting += [(*each, False) for each in self._reads(sender.paths).below if each[0] not in self._known]
        return self._patched_stream(paths)

    def sent(self, sender: Node) -> torch.Tensor:
        """Change of a node's write where a path ends at it, (N, D)."""
        if sender.kind in ("head", "neuron"):
            return self.sent_coefficients(sender) @ self.transformer.directions(sender)
        return self._change(partial(self.activations.write, sender))

    def sent_coefficients(self, sender: Node) -> torch.Tensor:
        """The same along the `directions` of a head or a neuron, (N, r)."""
        return self._change(partial(self.activations.coefficients, sender))

    def _change(self, on: Callable[[Data], torch.Tensor]) -> torch.Tensor:
        """Change of a quantity at the end of a path; `on` gives it on one kind of data."""
        change = on(self.inside) - on(self.outside)
        return change if self.strength == 1 else self.strength * change

    def _graded(self, on: Callable[[Data], torch.Tensor]) -> torch.Tensor:
        """The quantity itself at the end of a path."""
        return on(self.inside) if self.strength == 1 else on(self.outside) + self._change(on)

    def _reads(self, paths: PathSet) -> Reads:
        """What changes in what the node of `paths` reads."""
        number = self._number(paths)
        if number not in self._known_reads:
            arriving = {place: self._senders(together) for place, together in _by_place(paths).items()}
            below = [each for senders in arriving.values() for each in senders if each[1].paths.node.kind != "residual"]
            self._known_reads[number] = Reads(arriving, below)
        return self._known_reads[number]

    def _senders(self, together: list[PathSet]) -> list[tuple[Key, Sender]]:
        return [((self._number(each.paths), each.neurons), each) for each in _not_absorbed(together)]

    def _number(self, paths: PathSet) -> int:
        """The same number for equal sub-trees: comparing numbers is faster than comparing sub-trees."""
        if id(paths) not in self._numbered:
            below = tuple((branch.via, self._number(branch.paths)) for branch in paths.branches)
            number = self._numbers.setdefault((paths.node, paths.ends_here, below), len(self._numbers))
            self._numbered[id(paths)] = paths, number
        return self._numbered[id(paths)][1]

    def _written_by_mlp(self, paths: PathSet, neurons: tuple[int, ...]) -> torch.Tensor:
        """Change of an MLP's write when what it reads changes."""
        mlp = paths.node
        activations = self.transformer.neurons(mlp.layer, self._patched_stream(paths))
        for index in neurons:
            neuron = Node.neuron(mlp.layer, index, mlp.position)
            activations[..., [index]] = self._graded(partial(self.activations.coefficients, neuron))
        written = self._once(("write", mlp), partial(self.activations.write, mlp, self.outside))
        return self.transformer.mlp_write(mlp.layer, activations) - written

    def _written_by_head(self, paths: PathSet, _: tuple[int, ...] = ()) -> torch.Tensor:
        """Change of a head's write when some of its queries, keys and values change."""
        head = paths.node
        keys, values = (self._outside_input(head, via) for via in ("k", "v"))
        queries = self._patched_input(paths, "q")
        query = queries[head.position] if queries else self._outside_input(head, "q")
        pattern = self._scores(query, keys, self._patched_input(paths, "k")).softmax(-1)  # (..., N, keys)
        z = torch.einsum("...nk,nkc->...nc", pattern, values)
        for at, value in self._patched_input(paths, "v").items():
            z = z + pattern[..., at, None] * (value - values[:, at])
        return (z - self.activations.coefficients(head, self.outside)) @ self.transformer.directions(head)

    def _patched_input(self, paths: PathSet, via: Via) -> dict[int, torch.Tensor]:
        """A head's query, key or value (..., N, d_head) at each position where what it reads changes."""
        head, found = paths.node, {}
        for (way, at), senders in self._reads(paths).arriving.items():
            if way == via:
                stream = self._outside_stream(head, at) + self._sum(head, at, senders)
                found[at] = self.transformer.head_input(head.layer, head.index, via, stream)
        return found

    def _outside_input(self, head: Node, via: Via) -> torch.Tensor:
        """A head's query (N, d_head), or its keys or values (N, keys, d_head), from outside streams."""
        if (via, head) not in self._outside:
            stream = self.activations.stream(
                head, head.position if via == "q" else slice(head.position + 1), self.outside
            )
            self._outside[via, head] = self.transformer.head_input(head.layer, head.index, via, stream)
        return self._outside[via, head]

    def _outside_stream(self, reader: Node, position: int) -> torch.Tensor:
        """The stream (N, D) that a reader finds outside; all heads of a layer find the same."""
        of = partial(self.activations.stream, reader, position, self.outside)
        return self._once(("stream", reader.depth, position), of)

    def _once(self, key: Hashable, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """A cache for quantities on outside data, which many paths need."""
        if key not in self._outside:
            self._outside[key] = compute()
        return self._outside[key]

    def _scores(self, query: torch.Tensor, keys: torch.Tensor, patched: dict[int, torch.Tensor]) -> torch.Tensor:
        """Attention scores (..., N, keys) of a query (..., N, d_head) on keys (N, keys, d_head), some of them patched.

        A patched key (..., N, d_head) may have a sweep's axis that the query does not have.
        """
        scores = torch.einsum("...nc,nkc->...nk", query, keys)
        for at, key in patched.items():
            column = (query * key).sum(-1)
            scores = scores.expand(*column.shape, -1).clone()
            scores[..., at] = column
        root: float = query.shape[-1] ** 0.5
        return scores / root

    def _patched_stream(self, paths: PathSet) -> torch.Tensor:
        """The residual stream that an MLP or the logits read."""
        reader, at = paths.node, paths.node.position
        return self._outside_stream(reader, at) + self._sum(reader, at, self._reads(paths).arriving["in", at])

    def _sum(self, reader: Node, position: int, senders: list[tuple[Key, Sender]]) -> torch.Tensor:
        """Sum of what the senders change at a position of the stream that `reader` finds."""
        if senders[0][1].paths.node.kind == "residual":  # it is the only one
            return self._change(partial(self.activations.stream, reader, position))
        written = [self._known[key] for key, _ in senders]
        return sum(written[1:], start=written[0])


def _by_place(paths: PathSet) -> dict[tuple[Via, int], list[PathSet]]:
    """The paths that go on from a node, by input and position."""
    found: dict[tuple[Via, int], list[PathSet]] = defaultdict(list)
    for branch in paths.branches:
        found[branch.via, branch.paths.node.position].append(branch.paths)
    return found


def _not_absorbed(senders: list[PathSet]) -> list[Sender]:
    """The senders that add something: a whole stream holds all others, and an MLP takes its neurons along."""
    kinds = {paths.node.kind for paths in senders}
    if "residual" in kinds:
        return [Sender(paths) for paths in senders if paths.node.kind == "residual"]
    if "neuron" not in kinds or "mlp" not in kinds:
        return [Sender(paths) for paths in senders]
    neurons: dict[int, tuple[int, ...]] = defaultdict(tuple)  # of each layer
    for node in (paths.node for paths in senders if paths.node.kind == "neuron"):
        neurons[node.layer] += (node.index,)
    mlp_layers = {paths.node.layer for paths in senders if paths.node.kind == "mlp"}
    return [
        Sender(paths, neurons[paths.node.layer] if paths.node.kind == "mlp" else ())
        for paths in senders
        if paths.node.kind != "neuron" or paths.node.layer not in mlp_layers
    ]
