"""The engine of the paper, rust_circuit: what `path_patching.reference` defines, by substitutions in a circuit.

A path set becomes a circuit by walking its tree: the changes along the branches are added to the residual stream that
each input reads. Whatever enters from outside is a symbol (a *leaf*): residual streams, nodes' writes, and the changes
at the ends of paths. It is fast because `rc.Expander` binds the symbols: all sentences of a batch, or all senders of a
sweep, take one evaluation of a circuit that was built once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby, islice
from threading import get_ident
from typing import Literal

import rust_circuit as rc
import torch

from path_patching.batches import BYTES, Part
from path_patching.direct_effects import Change, direct_answers
from path_patching.engine import Data, DataSet, Engine, Means, Request, Sentences
from path_patching.errors import UserError
from path_patching.gpt2.model import Model
from path_patching.paths import AnyVia, Node, PathSet, Via
from path_patching.progress import progress
from path_patching.rust_engine.activations import AS_IT_IS, Activations, evaluate
from path_patching.rust_engine.gpt2_circuits import Gpt2Circuit, stream_name
from path_patching.unembedding import Unembedding

BYTES_AT_ONCE = 128_000_000  # in one evaluation; with fewer, rust_circuit's own work would count
WIDTHS_PER_ROW = 40  # tensors of D numbers, with the neurons', that an evaluation holds for a row (sender, pair)

Role = Literal["residual", "write", "inside", "change"]


@dataclass(frozen=True)
class Leaf:
    """A symbol of a path circuit.

    `residual` is `stream` at the node's position on outside data. `write` is the node's write on outside data. `change`
    is what a path that ends here changes: the write, or `stream` if the node is `residual@p`. `inside` is `write` plus
    that change.
    """

    role: Role
    node: Node
    stream: str = ""

    @property
    def name(self) -> str:
        """The symbol's name."""
        place = f"{self.stream}@{self.node.position}" if self.stream else str(self.node)
        return place if self.role == "residual" else f"{self.role}:{place}"


@dataclass(frozen=True, eq=False)
class PathCircuit:
    """The unembedding's input (D,) with a path set patched, as a function of its leaves."""

    circuit: rc.Circuit
    leaves: tuple[Leaf, ...]


class PathCircuitBuilder:
    """Builds the circuits of path sets and says which leaves each has. Equal parts are shared.

    With `open_ends`, a path that ends at `residual@p` stands not for the whole stream, but for a change bound later.
    """

    def __init__(self, circuit: Gpt2Circuit, open_ends: bool = False) -> None:
        self._circuit = circuit
        self._open_ends = open_ends
        self._leaves: dict[Leaf, rc.Circuit] = {}
        self._recomputed = cache(self._recompute)
        self._rewritten = cache(self._rewrite)
        self._read = cache(self._add)  # heads of a layer that read the same share it and its LayerNorm
        self._normed = cache(self._normalize)
        self._input = cache(self._project)
        self.build = cache(self._build)

    def _build(self, paths: PathSet) -> PathCircuit:
        """The circuit in which the paths of the set, and nothing else, are recomputed."""
        if paths.ends_here:
            paths = PathSet.at(paths.node).extend([Node.residual(paths.node.position)])
        circuit = self._recomputed(paths)
        present: set[str] = set()
        circuit.visit(lambda each: present.add(each.name) if isinstance(each, rc.Symbol) else None)
        leaves = [*self._leaves, *_streams_read(paths)]
        return PathCircuit(circuit, tuple(leaf for leaf in leaves if leaf.name in present))

    def _recompute(self, paths: PathSet) -> rc.Circuit:
        """What the node of `paths` writes when the changes along its branches are added to what it reads."""
        node, arriving = paths.node, _by_input(paths)
        if node.kind == "head":
            projected = {(via, at): self._input(_anywhere(node), via, at, each) for (via, at), each in arriving.items()}
            return self._circuit.head(node, projected)
        return self._circuit.reading(node, self._read(stream_name(node), node.position, arriving["in", node.position]))

    def _project(self, head: Node, via: Via, position: int, senders: tuple[PathSet, ...]) -> rc.Circuit:
        return self._circuit.projection(head, via, position, self._normed(stream_name(head), position, senders))

    def _normalize(self, stream: str, position: int, senders: tuple[PathSet, ...]) -> rc.Circuit:
        return self._circuit.normed(stream, position, self._read(stream, position, senders))

    def _add(self, stream: str, position: int, senders: tuple[PathSet, ...]) -> rc.Circuit:
        """A residual stream at a position, plus what the senders change there."""
        arriving = senders if self._open_ends else _not_absorbed(senders)
        changes = (self._change(stream, paths, senders) for paths in arriving)
        return rc.Add(self._circuit.residual(stream, position), *changes)

    def _change(self, stream: str, paths: PathSet, beside: tuple[PathSet, ...]) -> rc.Circuit:
        """What the paths through one sender change in a stream."""
        node = paths.node
        if node.kind == "residual":
            return self._leaf("change", node, stream)
        if not paths.ends_here:
            return self._rewritten(paths)
        own = _mlp_of(node)
        for mlp in beside if own else ():
            if mlp.node == own:  # exchange the neuron within its recomputed MLP's write
                read = self._read(stream_name(node), node.position, _by_input(mlp)["in", node.position])
                return rc.Add.minus(self._leaf("inside", node), self._circuit.reading(node, read))
        return self._leaf("change", node)

    def _rewrite(self, paths: PathSet) -> rc.Circuit:
        """A recomputed node's write minus its write on outside data."""
        return rc.Add.minus(self._recomputed(paths), self._leaf("write", paths.node))

    def _leaf(self, role: Role, node: Node, stream: str = "") -> rc.Circuit:
        leaf = Leaf(role, node, stream)
        if leaf not in self._leaves:
            shape = (self._circuit.architecture.d_model,)
            self._leaves[leaf] = rc.Symbol.new_with_random_uuid(shape, leaf.name)
        return self._leaves[leaf]


class RustCircuitEngine(Engine[Activations]):
    """Path patching with rust_circuit."""

    name = "rust_circuit"
    unembedding: Unembedding

    def __init__(self, model: Model, sentences: Sentences, device: str = "cpu", memory_gb: float = 4.0) -> None:
        super().__init__(model, sentences, device, memory_gb)
        self.unembedding = Unembedding(model, sentences.answers, self.device)
        self._circuit = Gpt2Circuit(model, self.device)
        self._thread = get_ident()

    def _parts(self, bytes_each: int = 0) -> Iterator[Part]:
        if get_ident() != self._thread:
            raise UserError(
                "a rust_circuit engine works only in the thread that made it: make one in this thread, or use torch"
            )
        return super()._parts(bytes_each)

    def _activations(self, clean: torch.Tensor, corrupted: torch.Tensor) -> Activations:
        return Activations(self._circuit, clean, corrupted, self._means)

    def _weighted(self, batch: Activations, weights: torch.Tensor, neurons: Sequence[Node]) -> Means:
        return batch.weighted(weights, neurons)

    def _evaluate(self, batch: Activations, requests: Sequence[Request]) -> Iterator[torch.Tensor]:
        return self.unembedding.of_each(self._reads(batch, requests), len(batch), self.memory_gb)

    def _reads(self, batch: Activations, requests: Sequence[Request]) -> Iterator[torch.Tensor]:
        builder, size = PathCircuitBuilder(self._circuit), self._requests_at_once(batch)
        for _, on_same_data in groupby(requests, key=lambda request: request.data):
            while together := [*islice(on_same_data, size)]:
                yield from self._read_together(batch, builder, together)

    def _read_together(
        self, batch: Activations, builder: PathCircuitBuilder, requests: list[Request]
    ) -> Iterator[torch.Tensor]:
        """`_reads` of requests on the same data, their circuits evaluated at once."""
        templates = [builder.build(each.paths) if each.paths else self._unpatched() for each in requests]

        def bind(leaves: Collection[Leaf], part: slice) -> dict[Leaf, torch.Tensor]:
            return _values(leaves, batch, part, requests[0])

        parts = [self._evaluate_part(templates, bind, part) for part in self._slices(batch, len(requests))]
        return map(torch.cat, zip(*parts, strict=True))

    def _sweep(
        self, batch: Activations, receivers: PathSet, senders: list[Node], via: AnyVia, inside: Data
    ) -> torch.Tensor:
        answers = {} if receivers.branches else self._direct_answers(batch, receivers.node, senders, inside)
        rest = [sender for sender in senders if sender not in answers]
        if rest:
            answers |= zip(rest, self._evaluate_sweep(batch, receivers, rest, via, inside), strict=True)
        return torch.stack([answers[sender] for sender in senders])

    def _direct_answers(
        self, batch: Activations, logits: Node, senders: list[Node], inside: Data
    ) -> dict[Node, torch.Tensor]:
        def change(sender: Node) -> Change | None:
            if sender.kind != "head":
                return None
            on_inside, on_clean = (batch.z(sender.layer, sender.position, data) for data in (inside, "clean"))
            return Change((on_inside - on_clean)[:, sender.index], self._circuit.head_directions(sender))

        stream = self._residual(batch, logits, "clean")
        return direct_answers(stream, senders, change, self.model.architecture, self.unembedding)

    def _evaluate_sweep(
        self, batch: Activations, receivers: PathSet, senders: list[Node], via: AnyVia, inside: Data
    ) -> torch.Tensor:
        """A sweep as one circuit that is built once and evaluated for all senders, (S, B, A)."""
        # The receivers' inputs become open ends, which each sender fills where it is read.
        positions = sorted({sender.position for sender in senders})
        open_ended = receivers.extend([Node.residual(position) for position in positions], via)
        template = PathCircuitBuilder(self._circuit, open_ends=True).build(open_ended)
        changes = batch.writes(senders, inside) - batch.writes(senders, "clean")  # (S, B, D)
        request = Request.patch(open_ended, inside)

        def bind(leaves: Collection[Leaf], part: slice) -> dict[Leaf, torch.Tensor]:
            filled = {leaf: _where_read(leaf, senders, changes[:, part]) for leaf in leaves if leaf.role == "change"}
            return filled | _values([leaf for leaf in leaves if leaf not in filled], batch, part, request)

        def answers(part: slice) -> torch.Tensor:
            return self.unembedding.probabilities(self._evaluate_part([template], bind, part)[0])

        parts = progress(self._slices(batch, len(senders)), f"patching {len(senders)} nodes")
        return torch.cat([answers(part) for part in parts], dim=1)

    def _evaluate_part(
        self,
        templates: Sequence[PathCircuit],
        bind: Callable[[Collection[Leaf], slice], dict[Leaf, torch.Tensor]],
        part: slice,
    ) -> list[torch.Tensor]:
        """The unembedding's input (..., part, D) from circuits; `bind` gives their leaves for a part of the batch."""
        leaves = dict.fromkeys(leaf for template in templates for leaf in template.leaves)
        bound = {leaf.name: value for leaf, value in bind(leaves, part).items()}
        return evaluate([each.circuit for each in templates], bound, AS_IT_IS)

    def _unpatched(self) -> PathCircuit:
        logits = Node.logits(self.sentences.end)
        return PathCircuit(self._circuit.node(logits), (Leaf("residual", logits, stream_name(logits)),))

    def _slices(self, batch: Activations, rows_per_pair: int) -> list[slice]:
        """The pairs of a batch in parts small enough to evaluate at once."""
        size = max(1, self._rows_at_once() // rows_per_pair)
        return [slice(first, min(first + size, len(batch))) for first in range(0, len(batch), size)]

    def _requests_at_once(self, batch: Activations) -> int:
        return max(1, self._rows_at_once() // len(batch))

    def _rows_at_once(self) -> int:
        bytes_per_row = BYTES * WIDTHS_PER_ROW * self.model.architecture.d_model
        return int(min(BYTES_AT_ONCE, self.memory_gb * 1e9 / 4) / bytes_per_row)

    def _writes(self, batch: Activations, nodes: Sequence[Node], data: Data) -> torch.Tensor:
        return batch.writes(nodes, data)

    def _residual(self, batch: Activations, reader: Node, data: Data) -> torch.Tensor:
        return batch.stream(stream_name(reader), reader.position, data)

    def _mixed_values(self, batch: Activations, heads: Sequence[Node], data: Data) -> torch.Tensor:
        return torch.stack([batch.z(head.layer, head.position, data)[:, head.index] for head in heads])

    def _attention(self, batch: Activations, heads: Sequence[tuple[int, int]], data: DataSet) -> torch.Tensor:
        patterns = {layer: batch.pattern(layer, data) for layer in {layer for layer, _ in heads}}
        return torch.stack([patterns[layer][:, head] for layer, head in heads])


def _values(leaves: Collection[Leaf], batch: Activations, part: slice, request: Request) -> dict[Leaf, torch.Tensor]:
    """The tensors (part, D) of leaves on the data of a request."""
    ends = [leaf for leaf in leaves if leaf.role in ("change", "inside")]
    outside, inside = _on(request.outside, leaves, batch, part), _on(request.inside, ends, batch, part)
    changes = {leaf: request.strength * (inside[leaf] - outside[leaf]) for leaf in ends}
    return outside | {leaf: each if leaf.role == "change" else outside[leaf] + each for leaf, each in changes.items()}


def _on(data: Data, leaves: Collection[Leaf], batch: Activations, part: slice) -> dict[Leaf, torch.Tensor]:
    """The values of leaves on one kind of data: their streams, or what their nodes write."""
    streams = {leaf: batch.stream(leaf.stream, leaf.node.position, data, part) for leaf in leaves if leaf.stream}
    writing = [leaf for leaf in leaves if not leaf.stream]
    written = batch.writes([leaf.node for leaf in writing], data, part) if writing else ()
    return streams | dict(zip(writing, written, strict=True))


def _where_read(leaf: Leaf, senders: list[Node], changes: torch.Tensor) -> torch.Tensor:
    """Senders' changes (S, B, D); zero for senders that do not write into the leaf's stream before it is read."""
    read = [sender.position == leaf.node.position and _writes_into(sender, leaf.stream) for sender in senders]
    return changes if all(read) else changes * torch.tensor(read, device=changes.device)[:, None, None]


def _writes_into(sender: Node, stream: str) -> bool:
    if stream == "final.in":
        return True
    layer = int(stream[1:].removesuffix(".in"))
    reader = Node.head(layer, 0, sender.position) if stream[0] == "a" else Node.mlp(layer, sender.position)
    return sender.depth < reader.depth


def _streams_read(paths: PathSet) -> Iterator[Leaf]:
    """The residual streams that a path circuit may read."""
    streams = {stream_name(node) for node in paths.nodes() if node.kind in ("head", "mlp", "logits")}
    for stream in sorted(streams):
        for position in range(paths.node.position + 1):
            yield Leaf("residual", Node.residual(position), stream)


def _anywhere(head: Node) -> Node:
    """A head without its position: keys and values of a position serve the heads at all later ones."""
    return Node.head(head.layer, head.index, 0)


def _by_input(paths: PathSet) -> dict[tuple[Via, int], tuple[PathSet, ...]]:
    """The senders of a node by input and position."""
    grouped: dict[tuple[Via, int], list[PathSet]] = defaultdict(list)
    for branch in paths.branches:
        grouped[branch.via, branch.paths.node.position].append(branch.paths)
    return {key: tuple(senders) for key, senders in grouped.items()}


def _not_absorbed(senders: Sequence[PathSet]) -> Sequence[PathSet]:
    """The senders into one stream that add something: a whole stream or a whole MLP holds its parts already."""
    whole = [paths for paths in senders if paths.node.kind == "residual"]
    ended = {paths.node for paths in senders if paths.ends_here}
    return whole[:1] or [paths for paths in senders if _mlp_of(paths.node) not in ended]


def _mlp_of(node: Node) -> Node | None:
    """The MLP that a neuron belongs to; None for any other node."""
    return Node.mlp(node.layer, node.position) if node.kind == "neuron" else None
