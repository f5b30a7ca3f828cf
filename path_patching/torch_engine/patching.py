"""The method in plain PyTorch: what a path set changes, as differences to what nodes write and read outside of it.

The change that a path set makes to what its node writes follows from the changes that its branches make to what the
node reads. That is a recursion over the tree, remembered by sub-tree, since equal sub-trees make equal changes, in
whichever path sets they occur. A node on the way changes by what it makes of the stream that it finds, less what it
writes outside; on mean and zero data that is not what it makes of the outside stream. A sweep is the same recursion
with the changes of S senders stacked on a leading axis: shapes are (..., N, D) for N sentences and width D, where `...`
is nothing or S.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable
from functools import partial

import torch

from path_patching.engine import Data
from path_patching.paths import Node, PathSet, Via
from path_patching.torch_engine.forward import Activations


class Patching:
    """What path sets change in a batch of sentences on `outside` data, with `inside` data at their ends."""

    def __init__(self, activations: Activations, inside: Data, outside: Data, strength: float = 1.0) -> None:
        self.activations = activations
        self.transformer = activations.transformer
        self.inside, self.outside, self.strength = inside, outside, strength
        self._numbered: dict[int, tuple[PathSet, int]] = {}  # by id; the path set is kept, so that its id is no other's
        self._numbers: dict[Hashable, int] = {}
        self._known: dict[tuple[int, tuple[int, ...]], torch.Tensor] = {}
        self._outside: dict[Hashable, torch.Tensor] = {}

    @property
    def data(self) -> tuple[Data, Data, float]:
        """All but the sentences, as in a request."""
        return self.inside, self.outside, self.strength

    def n_bytes(self) -> int:
        """The memory of what is remembered."""
        return sum(each.nbytes for each in (*self._known.values(), *self._outside.values()))

    def give(self, sender: Node, change: torch.Tensor) -> None:
        """Let `sender` write `change` more, (..., N, D), wherever a path ends at it."""
        self._known[self._number(PathSet.at(sender)), ()] = change

    def end_stream(self, paths: PathSet) -> torch.Tensor:
        """The residual stream that the logits read, (..., N, D)."""
        logits = paths.node
        if paths.ends_here:
            return self._graded(partial(self.activations.stream, logits, logits.position))
        return self._patched_stream(paths)

    def sent(self, sender: Node) -> torch.Tensor:
        """Change of a node's write if all of the node is inside, (N, D)."""
        if sender.kind in ("head", "neuron"):
            return self.sent_coefficients(sender) @ self.transformer.directions(sender)
        return self._change(partial(self.activations.write, sender))

    def sent_coefficients(self, sender: Node) -> torch.Tensor:
        """The same along the `directions` of a head or a neuron, (N, r)."""
        return self._change(partial(self.activations.coefficients, sender))

    def _change(self, on: Callable[[Data], torch.Tensor]) -> torch.Tensor:
        """Change of something at the end of a path."""
        change = on(self.inside) - on(self.outside)
        return change if self.strength == 1 else self.strength * change

    def _graded(self, on: Callable[[Data], torch.Tensor]) -> torch.Tensor:
        """What something becomes at the end of a path."""
        return on(self.inside) if self.strength == 1 else on(self.outside) + self._change(on)

    def _written(self, paths: PathSet, neurons: tuple[int, ...] = ()) -> torch.Tensor:
        """Change of what `paths.node` writes. These `neurons` of an MLP are inside, whatever the MLP reads."""
        key = self._number(paths), neurons
        if key not in self._known:
            self._known[key] = self._computed(paths, neurons)
        return self._known[key]

    def _number(self, paths: PathSet) -> int:
        """The same number for equal sub-trees. Comparing these whole, once for each that is met, would take longer."""
        if id(paths) not in self._numbered:
            below = tuple((branch.via, self._number(branch.paths)) for branch in paths.branches)
            number = self._numbers.setdefault((paths.node, paths.ends_here, below), len(self._numbers))
            self._numbered[id(paths)] = paths, number
        return self._numbered[id(paths)][1]

    def _computed(self, paths: PathSet, neurons: tuple[int, ...]) -> torch.Tensor:
        if paths.ends_here:
            return self.sent(paths.node)
        return self._written_by_head(paths) if paths.node.kind == "head" else self._written_by_mlp(paths, neurons)

    def _written_by_mlp(self, paths: PathSet, neurons: tuple[int, ...]) -> torch.Tensor:
        """Change of an MLP's write when what it reads changes."""
        mlp = paths.node
        activations = self.transformer.neurons(mlp.layer, self._patched_stream(paths))
        for index in neurons:
            neuron = Node.neuron(mlp.layer, index, mlp.position)
            activations[..., [index]] = self._graded(partial(self.activations.coefficients, neuron))
        written = self._once(("write", mlp), partial(self.activations.write, mlp, self.outside))
        return self.transformer.mlp_write(mlp.layer, activations) - written

    def _written_by_head(self, paths: PathSet) -> torch.Tensor:
        """Change of a head's write when some of its queries, keys and values change."""
        head = paths.node

        def patched(via: Via) -> dict[int, torch.Tensor]:  # at each position that changes, (..., N, d_head)
            return {
                at: self._projected(head, via, self._outside_stream(head, at) + change)
                for at, change in self._read(paths, via).items()
            }

        keys, values = (self._outside_input(head, via) for via in ("k", "v"))
        queries = patched("q")
        query = queries[head.position] if queries else self._outside_input(head, "q")
        pattern = self._scores(query, keys, patched("k")).softmax(-1)  # (..., N, keys)
        z = torch.einsum("...nk,nkc->...nc", pattern, values)
        for at, value in patched("v").items():
            z = z + pattern[..., at, None] * (value - values[:, at])
        return (z - self.activations.coefficients(head, self.outside)) @ self.transformer.directions(head)

    def _outside_input(self, head: Node, via: Via) -> torch.Tensor:
        """A head's query (N, d_head), or its keys or values (N, keys, d_head), from outside streams."""

        def compute() -> torch.Tensor:
            at = head.position if via == "q" else slice(head.position + 1)
            return self._projected(head, via, self.activations.stream(head, at, self.outside))

        return self._once((via, head), compute)

    def _outside_stream(self, reader: Node, position: int) -> torch.Tensor:
        """The stream (N, D) that a reader finds outside; all heads of a layer find the same."""
        of = partial(self.activations.stream, reader, position, self.outside)
        return self._once(("stream", reader.depth, position), of)

    def _once(self, key: Hashable, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Something of the outside data, which many paths ask for."""
        if key not in self._outside:
            self._outside[key] = compute()
        return self._outside[key]

    def _projected(self, head: Node, via: Via, stream: torch.Tensor) -> torch.Tensor:
        return self.transformer.head_input(head.layer, head.index, via, stream)

    def _scores(self, query: torch.Tensor, keys: torch.Tensor, patched: dict[int, torch.Tensor]) -> torch.Tensor:
        """Attention scores (..., N, keys) of a query (..., N, d_head) on keys (N, keys, d_head), some of them patched.

        A patched key (..., N, d_head) may have a sweep's axis that the query has not.
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
        return self._outside_stream(reader, at) + self._read(paths, "in")[at]

    def _read(self, paths: PathSet, via: Via) -> dict[int, torch.Tensor]:
        """Change of what `paths.node` reads through `via`, at each position where there is one."""
        senders = defaultdict(list)
        for branch in paths.branches:
            if branch.via == via:
                senders[branch.paths.node.position].append(branch.paths)
        return {position: self._sum(paths.node, position, below) for position, below in senders.items()}

    def _sum(self, reader: Node, position: int, senders: list[PathSet]) -> torch.Tensor:
        """Sum of what the senders change at a position of the stream that `reader` finds."""
        if any(paths.node.kind == "residual" for paths in senders):  # all that is there: the others add nothing
            return self._change(partial(self.activations.stream, reader, position))
        neurons: dict[int, tuple[int, ...]] = defaultdict(tuple)  # of each layer
        for node in (paths.node for paths in senders if paths.node.kind == "neuron"):
            neurons[node.layer] += (node.index,)
        mlp_layers = {paths.node.layer for paths in senders if paths.node.kind == "mlp"}
        written = []
        for paths in senders:
            node = paths.node
            if node.kind == "mlp":
                written.append(self._written(paths, neurons[node.layer]))
            elif node.kind != "neuron" or node.layer not in mlp_layers:  # else it is patched within its MLP
                written.append(self._written(paths))
        return sum(written[1:], start=written[0])
