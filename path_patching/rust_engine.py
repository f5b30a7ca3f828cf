"""The engine of the paper: path patching as substitutions in a rust_circuit circuit.

A path set becomes a circuit by walking its tree: each branch is an `rc.IterativeMatcher` that finds one residual
stream as one input reads it, and what is found there is replaced by itself plus the changes that arrive along the
branches. What enters from outside is a symbol (a *leaf*): residual streams, what nodes write, and the changes at the
ends of paths. A leaf is bound with `rc.Expander`, so that a batch of sentences, or of the nodes of a sweep, is one
evaluation of a circuit that was built once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import rust_circuit as rc
import torch

from gpt2 import Model
from path_patching.engine import Data, Engine, Sentences, answer_probabilities, other
from path_patching.gpt2_circuit import Gpt2Circuit, input_matcher, stream_name
from path_patching.paths import Branch, Node, PathSet, Via
from utils import progress

LOGIT_ROWS = 1024  # rows of the vocabulary's width evaluated at once: enough to fill the cores, little memory
COPIES_OF_LOGITS = 3  # the logits, their float64 sum's input and rust_circuit's own copy
NAIVE = rc.OptimizationSettings(scheduling_naive=True, scheduling_simplify=False)


@dataclass(frozen=True)
class Leaf:
    """A symbol of a path circuit: what `role` says of `node`, on sentences to be bound later.

    `residual`: the stream that `node` reads at `position`, outside data. `write`: what `node` writes, outside data.
    `change`: inside minus outside data of what the path's last node writes; the node is `residual@p` where all of the
    stream that `reader` reads is patched.
    """

    role: Literal["residual", "write", "change"]
    node: Node
    stream: str = ""

    @property
    def name(self) -> str:
        """The symbol's name."""
        return (
            f"{self.stream}@{self.node.position}"
            if self.role == "residual"
            else f"{self.role}:{self.stream}{self.node}"
        )


@dataclass(frozen=True, eq=False)
class PathCircuit:
    """The logits (V,) with a path set patched, as a function of its leaves."""

    circuit: rc.Circuit
    leaves: tuple[Leaf, ...]


@dataclass(frozen=True, eq=False)
class Activations:
    """What a forward pass leaves behind, for distinct sentences (U of them) on the device.

    `streams`: residual streams by name, (U, T, D). `z`: per layer (U, H, T, d_head). `rows` says which distinct
    sentence is the clean, or the corrupted, one of each sentence of the batch.
    """

    streams: Mapping[str, torch.Tensor]
    z: Mapping[int, torch.Tensor]
    rows: Mapping[Data, torch.Tensor]


class RustCircuitEngine(Engine):
    """Path patching with rust_circuit."""

    name = "rust_circuit"

    def __init__(self, model: Model, sentences: Sentences, device: str = "cpu", memory_gb: float = 4.0) -> None:
        super().__init__(model, sentences, device, memory_gb)
        self._circuit = Gpt2Circuit(model, device)
        self._answers = sentences.answers.to(device)
        self._kept: Activations | None = None

    def _probabilities(self, paths: PathSet | None, inside: Data) -> torch.Tensor:
        template = self._path_circuit(paths) if paths else self._unpatched()
        batches = []
        for activations, part in self._parts(rows_per_sentence=1):
            bound = {leaf: self._value(leaf, activations, part, inside) for leaf in template.leaves}
            batches.append(self._evaluate(template, bound))
        return torch.cat(batches)

    def _sweep(self, receivers: PathSet, senders: list[Node], via: Via | Literal["all"]) -> torch.Tensor:
        # The receivers' inputs become open ends; each sender then fills those that it can reach.
        positions = sorted({sender.position for sender in senders})
        template = self._path_circuit(receivers.extend([Node.residual(p) for p in positions], via))
        batches = []
        for activations, part in self._parts(rows_per_sentence=len(senders)):
            writes = [self._change(sender, activations, part) for sender in senders]
            bound = {
                leaf: _stacked_changes(leaf, senders, writes)
                if leaf.role == "change"
                else self._value(leaf, activations, part, "corrupted")
                for leaf in template.leaves
            }
            batches.append(self._evaluate(template, bound))
        return torch.cat(batches, dim=1)

    # From path sets to circuits

    def _unpatched(self) -> PathCircuit:
        node = Node.logits(self.sentences.end)
        return PathCircuit(self._circuit.node(node), (Leaf("residual", node, stream_name(node)),))

    def _path_circuit(self, paths: PathSet) -> PathCircuit:
        """The logits as a circuit in which the paths of the set, and nothing else, are recomputed."""
        if paths.ends_here:
            paths = PathSet.at(paths.node).extend([Node.residual(paths.node.position)])
        leaves: dict[Leaf, rc.Circuit] = {}

        def leaf(role: Literal["residual", "write", "change"], node: Node, stream: str = "") -> rc.Circuit:
            wanted = Leaf(role, node, stream)
            if wanted not in leaves:
                shape = (self.model.architecture.d_model,)
                leaves[wanted] = rc.Symbol.new_with_random_uuid(shape, wanted.name)
            return leaves[wanted]

        @cache
        def recomputed(paths: PathSet) -> rc.Circuit:
            circuit = self._circuit.node(paths.node)
            for via, position, branches in _by_input(paths):
                changes = [change(paths.node, branch.paths) for branch in branches]
                circuit = circuit.update(
                    input_matcher(paths.node, via, position), lambda read, changes=changes: rc.Add(read, *changes)
                )
            return circuit

        def change(reader: Node, paths: PathSet) -> rc.Circuit:
            if paths.node.kind == "residual":
                return leaf("change", paths.node, stream_name(reader))
            if paths.ends_here:
                return leaf("change", paths.node)
            return rc.Add.minus(recomputed(paths), leaf("write", paths.node))

        circuit = recomputed(paths)
        streams = [Leaf("residual", node, stream) for node, stream in self._streams_in(circuit, paths)]
        return PathCircuit(circuit, (*leaves, *streams))

    def _streams_in(self, circuit: rc.Circuit, paths: PathSet) -> set[tuple[Node, str]]:
        """The residual streams that a circuit reads, as (a node at the position, name)."""
        nodes = [node for node in paths.nodes() if node.kind in ("head", "mlp", "logits")]
        read = {(Node.residual(p), stream_name(node)) for node in nodes for p in range(node.position + 1)}
        present = {symbol.name for symbol in circuit.get(rc.Symbol)}
        return {(node, stream) for node, stream in read if f"{stream}@{node.position}" in present}

    # From leaves to numbers

    def _evaluate(self, template: PathCircuit, bound: Mapping[Leaf, torch.Tensor]) -> torch.Tensor:
        """Answer probabilities (..., N, A) float64 on the CPU, of logits that the bound circuit gives."""
        arrays = [(leaf.name, rc.Array(value.contiguous(), leaf.name)) for leaf, value in bound.items()]
        expander = rc.Expander(*((name, lambda _, array=array: array) for name, array in arrays))
        [logits] = rc.optimize_and_evaluate_many([expander(template.circuit)], NAIVE)
        return answer_probabilities(logits, self._answers).cpu()

    def _value(self, leaf: Leaf, activations: Activations, part: slice, inside: Data) -> torch.Tensor:
        """The tensor (B, D) of a leaf for a part of a batch, with `inside` data at the ends of paths."""
        outside = other(inside)
        if leaf.role == "residual":
            return _stream(activations, leaf.stream, leaf.node.position, outside, part)
        if leaf.role == "write":
            return self._write(leaf.node, activations, outside, part)
        if leaf.node.kind == "residual":
            of = [_stream(activations, leaf.stream, leaf.node.position, data, part) for data in (inside, outside)]
        else:
            of = [self._write(leaf.node, activations, data, part) for data in (inside, outside)]
        return of[0] - of[1]

    def _change(self, sender: Node, activations: Activations, part: slice) -> torch.Tensor:
        return self._value(Leaf("change", sender), activations, part, "corrupted")

    def _write(self, node: Node, activations: Activations, data: Data, part: slice) -> torch.Tensor:
        """What a node writes, (B, D)."""
        rows, position = activations.rows[data][part], node.position
        if node.kind == "embeds":
            return _stream(activations, "a0.in", position, data, part)
        if node.kind == "head":
            z = rc.Symbol.new_with_random_uuid((self.model.architecture.d_head,), "z")
            value = rc.Array(activations.z[node.layer][rows, node.index, position].contiguous(), "z")
            return rc.Expander(("z", lambda _: value))(self._circuit.head_write(node, z)).evaluate()
        before = _stream(activations, f"m{node.layer}.in", position, data, part)
        mlp = Node.mlp(node.layer, position)
        circuit = self._circuit.node(mlp) if node.kind == "mlp" else self._circuit.neuron(node)
        value = rc.Array(before.contiguous(), "read")
        return rc.Expander((f"{stream_name(mlp)}@{position}", lambda _: value))(circuit).evaluate()

    # The plain forward pass

    def _parts(self, rows_per_sentence: int) -> Iterator[tuple[Activations, slice]]:
        """The sentences in order: activations of a batch, and the part of it to evaluate at once."""
        bytes_per_row = COPIES_OF_LOGITS * 4 * self.model.architecture.vocab_size
        rows = min(LOGIT_ROWS, int(self.memory_gb * 1e9 / 2 / bytes_per_row))
        size = max(1, rows // rows_per_sentence)
        starts = range(0, len(self.sentences), self._batch_size())
        for start in progress(starts, "sentences"):
            batch = slice(start, min(start + self._batch_size(), len(self.sentences)))
            activations = self._activations(batch)
            length = batch.stop - batch.start
            for first in progress(range(0, length, size), "patching"):
                yield activations, slice(first, min(first + size, length))

    def _batch_size(self) -> int:
        """Sentences whose activations, clean and corrupted, fit in half the memory."""
        a = self.model.architecture
        bytes_per_sentence = 2 * 4 * (self.sentences.end + 1) * a.d_model * (3 * a.n_layers + 1)
        return max(1, min(len(self.sentences), int(self.memory_gb * 1e9 / 2 / bytes_per_sentence)))

    def _activations(self, batch: slice) -> Activations:
        """Activations of a batch; kept from call to call where one batch holds all sentences."""
        if self._kept is not None:
            return self._kept
        twins = torch.cat([self.sentences.clean[batch], self.sentences.corrupted[batch]])
        distinct, rows = twins.unique(dim=0, return_inverse=True)
        clean, corrupted = rows.to(self.device).chunk(2)
        activations = Activations(*self._forward(distinct), {"clean": clean, "corrupted": corrupted})
        if len(clean) == len(self.sentences):
            self._kept = activations
        return activations

    def _forward(self, tokens: torch.Tensor) -> tuple[dict[str, torch.Tensor], dict[int, torch.Tensor]]:
        """Residual streams (U, T, D) by name and attention-weighted values z by layer, for tokens (U, T)."""
        streams, z = {"a0.in": self._embeddings(tokens)}, {}
        n_layers, n_positions = self.model.architecture.n_layers, tokens.shape[1]
        for layer in progress(range(n_layers), "forward pass"):
            z[layer], _, after = self._attention_layer(layer, streams[f"a{layer}.in"])
            streams[f"m{layer}.in"] = after
            following = f"a{layer + 1}.in" if layer + 1 < n_layers else "final.in"
            read = rc.Array(after, "read")
            mlp = rc.Expander((f"m{layer}.in", lambda _, read=read: read))(self._circuit.mlp_layer(layer, n_positions))
            [streams[following]] = rc.optimize_and_evaluate_many([mlp], NAIVE)
        return streams, z

    def _attention_layer(self, layer: int, read: torch.Tensor) -> list[torch.Tensor]:
        """z (U, H, T, d_head), patterns (U, H, T, T), stream after the heads (U, T, D), from the stream before."""
        array = rc.Array(read.contiguous(), "read")
        expander = rc.Expander((f"a{layer}.in", lambda _: array))
        circuits = self._circuit.attention_layer(layer, read.shape[1])
        return rc.optimize_and_evaluate_many([expander(circuit) for circuit in circuits], NAIVE)

    def _embeddings(self, tokens: torch.Tensor) -> torch.Tensor:
        weights = self.model.tensors
        embedded = weights["t.w.tok_embeds"][tokens] + weights["t.w.pos_embeds"][: tokens.shape[1]]
        return embedded.to(self.device)

    # What scripts look at besides probabilities

    def writes(self, nodes: Sequence[Node], data: Data = "clean") -> torch.Tensor:
        """See `Engine.writes`."""
        batches = [
            torch.stack([self._write(node, activations, data, part).cpu() for node in nodes])
            for activations, part in self._parts(rows_per_sentence=1)
        ]
        return torch.cat(batches, dim=1)

    def residual(self, reader: Node, data: Data = "clean") -> torch.Tensor:
        """See `Engine.residual`."""
        return torch.cat(
            [
                _stream(activations, stream_name(reader), reader.position, data, part).cpu()
                for activations, part in self._parts(rows_per_sentence=1)
            ]
        )

    def attention(self, heads: Sequence[tuple[int, int]], data: Data = "clean") -> torch.Tensor:
        """See `Engine.attention`."""
        batches = []
        for activations, part in self._parts(rows_per_sentence=1):
            rows = activations.rows[data][part]
            patterns = {
                layer: self._attention_layer(layer, activations.streams[f"a{layer}.in"][rows])[1].cpu()
                for layer in {layer for layer, _ in heads}
            }
            batches.append(torch.stack([patterns[layer][:, head] for layer, head in heads]))
        return torch.cat(batches, dim=1)


def _by_input(paths: PathSet) -> Iterator[tuple[Via, int, list[Branch]]]:
    """The branches of a node grouped by the input and position they enter through."""
    keys = sorted({(branch.via, branch.paths.node.position) for branch in paths.branches})
    for via, position in keys:
        yield via, position, [b for b in paths.branches if (b.via, b.paths.node.position) == (via, position)]


def _stream(activations: Activations, stream: str, position: int, data: Data, part: slice) -> torch.Tensor:
    return activations.streams[stream][activations.rows[data][part], position]


def _stacked_changes(leaf: Leaf, senders: list[Node], changes: list[torch.Tensor]) -> torch.Tensor:
    """(S, B, D): each sender's change where the stream of the leaf holds what it writes, else zero."""
    return torch.stack(
        [
            change
            if sender.position == leaf.node.position and _is_upstream(sender, leaf.stream)
            else change.new_zeros(()).expand_as(change)
            for sender, change in zip(senders, changes, strict=True)
        ]
    )


def _is_upstream(sender: Node, stream: str) -> bool:
    """Whether a node writes before the stream `a9.in`, `m10.in` or `final.in` is read."""
    if stream == "final.in":
        return True
    kind: Literal["head", "mlp"] = "head" if stream[0] == "a" else "mlp"
    layer = int(stream[1:].removesuffix(".in"))
    return sender.depth < Node(layer, kind, 0, sender.position).depth
