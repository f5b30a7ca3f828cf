"""The cached results of a forward pass of the rust_circuit circuit, from which paths are patched.

Shapes: B pairs of sentences in a batch, U distinct sentences among their 2B, P distinct prefixes of these, T positions,
D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import rust_circuit as rc
import torch

from path_patching.engine import Data, DataSet, Means
from path_patching.interrupts import interrupts_held
from path_patching.paths import Node
from path_patching.prefixes import distinct_prefixes, weighted_sums
from path_patching.progress import progress
from path_patching.rust_engine.gpt2_circuits import Gpt2Circuit, stream_name

# Rows times neurons of an MLP in one evaluation: three times slower if they do not fit in the processor's caches.
NEURONS_AT_ONCE = {"cpu": 2**20 * 3, "cuda": 2**25 * 3}
# Take any order of evaluation: searching for the best one costs more than it saves in circuits so small.
AS_IT_COMES = rc.OptimizationSettings(scheduling_naive=True, scheduling_simplify=False)
# Path circuits have thousands of nodes: simplifying them would take half of the time and save little.
AS_IT_IS = rc.OptimizationSettings(
    scheduling_naive=True,
    scheduling_simplify=False,
    push_down_index=False,
    deep_maybe_distribute=False,
    simp_fn_subset=rc.SimpFnSubset.none(),
)


def evaluate(
    circuits: Sequence[rc.Circuit],
    bound: Mapping[str, torch.Tensor],
    settings: rc.OptimizationSettings = AS_IT_COMES,
) -> list[torch.Tensor]:
    """Evaluate circuits with their symbols bound, by name, to tensors that may have batch axes in front."""
    arrays = {name: rc.Array(value.contiguous(), name) for name, value in bound.items()}
    # One matcher for all names: each circuit below is tried with each matcher.
    expander = rc.Expander((set(arrays), lambda symbol: arrays[symbol.name]))
    with interrupts_held():  # within rust_circuit, an interrupt would print hundreds of lines
        evaluated: list[torch.Tensor] = rc.optimize_and_evaluate_many(
            [expander(circuit) for circuit in circuits], settings
        )
        rc.clear_module_circuit_caches()  # they would keep every tensor ever bound
    return evaluated


class Activations:
    """Residual streams and attention-weighted values of all nodes, on B clean sentences and their twins (B, T).

    `means`, over all clean sentences, may be filled in later. It has the streams (T, D) by name, the attention-weighted
    values (T, H, d_head) by layer, and the writes (D,) of some neurons by node.
    """

    def __init__(
        self, circuit: Gpt2Circuit, clean: torch.Tensor, corrupted: torch.Tensor, means: Means | None = None
    ) -> None:
        sentences, row = torch.cat([clean, corrupted]).unique(dim=0, return_inverse=True)
        prefixes = distinct_prefixes(sentences)
        self._of_sentence = prefixes.of_sentence.to(circuit.device)  # (U, T)
        of_clean, of_corrupted = self._of_sentence[row.to(circuit.device)].chunk(2)
        self._prefix: dict[DataSet, torch.Tensor] = {"clean": of_clean, "corrupted": of_corrupted}  # each (B, T)
        self._circuit = circuit
        self._means: Means = {} if means is None else means
        self._rows_at_once = NEURONS_AT_ONCE[torch.device(circuit.device).type] // circuit.architecture.d_mlp or 1
        self._streams = {"a0.in": circuit.embeddings(prefixes.tokens, prefixes.positions)}  # each (P, D)
        self._z: list[torch.Tensor] = []  # each (P, H, d_head)
        self._run()

    def __len__(self) -> int:
        return len(self._prefix["clean"])

    def weighted(self, weights: torch.Tensor, neurons: Sequence[Node]) -> Means:
        """Sums over the clean sentences with weights (B,) float64; those of all batches add up to `means`."""
        weights = weights.to(self._circuit.device)
        total = partial(weighted_sums, of_sentence=self._prefix["clean"], weights=weights)
        streams: Means = {name: total(rows) for name, rows in self._streams.items()}
        z: Means = {layer: total(rows) for layer, rows in enumerate(self._z)}
        written = self.writes(neurons, "clean") if neurons else ()
        return streams | z | {node: weights @ each.double() for node, each in zip(neurons, written, strict=True)}

    def stream(self, name: str, position: int, data: Data, part: slice = slice(None)) -> torch.Tensor:
        """A residual stream at a position, for some of the pairs: (B, D)."""
        if data == "mean":
            return self._mean(self._means[name][position], part)
        if data == "zero":
            clean = self.stream("a0.in", position, "clean", part)
            return sum(self._circuit.attention_biases(name), start=clean)
        return self._streams[name][self._prefix[data][part, position]]

    def _mean(self, mean: torch.Tensor, part: slice) -> torch.Tensor:
        """A mean, repeated for each of some pairs."""
        return mean.to(self._streams["a0.in"]).expand(len(self._prefix["clean"][part]), *mean.shape)

    def writes(self, nodes: Sequence[Node], data: Data, part: slice = slice(None)) -> torch.Tensor:
        """What nodes write, (len(nodes), B, D). Heads, or neurons, of one layer and position are evaluated together."""
        together: dict[tuple[int, str, int], list[Node]] = {}
        for node in dict.fromkeys(nodes):
            together.setdefault((node.layer, node.kind, node.position), []).append(node)
        written: dict[Node, torch.Tensor] = {}
        for alike in together.values():
            written |= zip(alike, self._written(alike, data, part), strict=True)
        return torch.stack([written[node] for node in nodes])

    def z(self, layer: int, position: int, data: Data, part: slice = slice(None)) -> torch.Tensor:
        """The attention-weighted values of a layer's heads at a position, (B, H, d_head)."""
        if data == "mean":
            return self._mean(self._means[layer][position], part)
        if data == "zero":
            return torch.zeros_like(self.z(layer, position, "clean", part))
        return self._z[layer][self._prefix[data][part, position]]

    def pattern(self, layer: int, data: DataSet) -> torch.Tensor:
        """Attention patterns of a layer's heads, (B, H, T, T)."""
        inputs = self._head_inputs(layer)
        rows = self._prefix[data]
        bound = {via: each[rows] for via, each in inputs.items()}
        return evaluate([self._circuit.attention(rows.shape[1]).pattern], bound)[0]

    def _written(self, alike: list[Node], data: Data, part: slice) -> Sequence[torch.Tensor]:
        """Writes (B, D) of heads, or of neurons, of one layer and position, or of a single other node."""
        node = alike[0]
        if node.kind == "embeds":
            return [self.stream("a0.in", node.position, data, part)]
        if node.kind == "head":
            heads = [head.index for head in alike]
            z = self.z(node.layer, node.position, data, part)[:, heads]
            return evaluate([self._circuit.heads_write(node.layer, heads)], {"z": z})[0].unbind(1)
        if node.kind == "mlp":
            before, after = self._circuit.around_mlp(node.layer)
            return [self.stream(after, node.position, data, part) - self.stream(before, node.position, data, part)]
        if data == "zero":
            return [torch.zeros_like(self.stream("a0.in", node.position, "clean", part))] * len(alike)
        if data == "mean":
            return [self._mean(self._means[neuron], part) for neuron in alike]
        stream = stream_name(Node.mlp(node.layer, node.position))
        read = self.stream(stream, node.position, data, part)
        return evaluate([self._circuit.node(each) for each in alike], {f"{stream}@{node.position}": read}, AS_IT_IS)

    def _run(self) -> None:
        for layer in progress(range(self._circuit.architecture.n_layers), "forward pass"):
            start, (read, write) = f"a{layer}.in", self._circuit.around_mlp(layer)
            self._z.append(self._attend(layer))
            bound = {start: self._streams[start], "z": self._z[layer]}
            (self._streams[read],) = self._of_prefixes([self._circuit.attention_layer(layer)], bound)
            (self._streams[write],) = self._of_prefixes([self._circuit.mlp_layer(layer)], {read: self._streams[read]})

    def _attend(self, layer: int) -> torch.Tensor:
        """The attention-weighted values of a layer's heads, (P, H, d_head)."""
        n_positions = self._of_sentence.shape[1]
        inputs, circuit = self._head_inputs(layer), self._circuit.attention(n_positions).z
        z = torch.empty_like(inputs["v"])
        for prefixes in self._of_sentence.split(max(1, self._rows_at_once // n_positions)):
            z[prefixes] = evaluate([circuit], {via: each[prefixes] for via, each in inputs.items()})[0]
        return z

    def _head_inputs(self, layer: int) -> dict[str, torch.Tensor]:
        """The queries, keys and values of a layer's heads, each (P, H, d_head)."""
        name, inputs = f"a{layer}.in", self._circuit.head_inputs(layer)
        found = self._of_prefixes([*inputs.values()], {name: self._streams[name]})
        return dict(zip(inputs, found, strict=True))

    def _of_prefixes(self, circuits: Sequence[rc.Circuit], bound: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """Circuits evaluated for all prefixes, some at a time: (P, ...) each, with symbols bound to (P, ...)."""
        parts = [
            evaluate(circuits, dict(zip(bound, rows, strict=True)))
            for rows in zip(*(each.split(self._rows_at_once) for each in bound.values()), strict=True)
        ]
        return [*map(torch.cat, zip(*parts, strict=True))]
