"""GPT-2 in plain PyTorch: the parts that path patching recomputes, and the forward pass that caches what it needs.

The forward pass runs over the distinct prefixes (P) of sentences (B); positions: T; width: D.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import partial

import torch
from torch.nn import functional

from path_patching.batches import placing
from path_patching.engine import Data, DataSet, Means
from path_patching.gpt2.model import LAYER_NORM_EPSILON, Model
from path_patching.paths import INPUTS, Node, Via
from path_patching.prefixes import Prefixes, distinct_prefixes, weighted_sums

SENTENCES_AT_ONCE = 256  # in attention, where every sentence copies its queries, keys and values


class Transformer:
    """A model's tensors on a device, and what its parts compute from a residual stream `x` (..., D)."""

    def __init__(self, model: Model, device: str) -> None:
        self.architecture, self.device = model.architecture, device
        with placing(f"the weights of {model.name}", device):
            self.tensors = {name.removesuffix("_arr"): tensor.to(device) for name, tensor in model.tensors.items()}
        self.approximate = "tanh" if model.architecture.activation == "gelu_new" else "none"

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    def normalized(self, reader: str, x: torch.Tensor) -> torch.Tensor:
        """The LayerNorm of `a3`, `m3` or `final`."""
        scale, bias = self[f"{reader}.ln.w.scale"], self[f"{reader}.ln.w.bias"]
        return functional.layer_norm(x, scale.shape, scale, bias, LAYER_NORM_EPSILON)

    def head_input(self, layer: int, head: int, via: Via, x: torch.Tensor) -> torch.Tensor:
        """Query, key or value of one head, (..., d_head)."""
        weight, bias = self[f"a{layer}.w.{via}"][head], self[f"a{layer}.w.{via}_bias"][head]
        return functional.linear(self.normalized(f"a{layer}", x), weight, bias)

    def heads_input(self, layer: int, via: Via, x: torch.Tensor) -> torch.Tensor:
        """Queries, keys or values of all heads of a layer, (..., heads, d_head)."""
        weight, bias = self[f"a{layer}.w.{via}"], self[f"a{layer}.w.{via}_bias"]
        found = functional.linear(self.normalized(f"a{layer}", x), weight.flatten(0, 1), bias.flatten())
        by_head: torch.Tensor = found.unflatten(-1, bias.shape)
        return by_head

    def heads_write(self, layer: int, z: torch.Tensor) -> torch.Tensor:
        """Sum of a layer's heads' writes (..., D), from their attention-weighted values z (..., heads, d_head)."""
        to_stream = self[f"a{layer}.w.o"].permute(1, 0, 2).flatten(1)  # (D, heads * d_head)
        return functional.linear(z.flatten(-2), to_stream, self[f"a{layer}.w.o_bias"])

    def neurons(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        """Activations of an MLP's neurons, (..., d_mlp)."""
        before = functional.linear(
            self.normalized(f"m{layer}", x), self[f"m{layer}.w.proj_in"], self[f"m{layer}.w.in_bias"]
        )
        return functional.gelu(before, approximate=self.approximate)

    def mlp_write(self, layer: int, neurons: torch.Tensor) -> torch.Tensor:
        """What an MLP writes, (..., D), given its neurons' activations."""
        return functional.linear(neurons, self[f"m{layer}.w.proj_out"], self[f"m{layer}.w.out_bias"])

    def directions(self, node: Node) -> torch.Tensor:
        """The output directions (r, D) of a head, r = d_head, or of a neuron, r = 1."""
        if node.kind == "head":
            return self[f"a{node.layer}.w.o"][node.index].T
        return self[f"m{node.layer}.w.proj_out"][:, node.index][None]

    def attention_pattern(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Causal attention of T queries to T keys: (..., T, d_head) each to (..., T, T)."""
        ahead = torch.ones(queries.shape[-2], keys.shape[-2], dtype=torch.bool, device=queries.device).triu(1)
        root: float = self.architecture.d_head**0.5
        scores = queries @ keys.mT / root
        return scores.masked_fill(ahead, -torch.inf).softmax(-1)

    def z(self, layer: int, x: torch.Tensor, prefixes: Prefixes) -> torch.Tensor:
        """Each head's attention-weighted values, from the streams (P, D): (P, heads, d_head)."""
        inputs = [self.heads_input(layer, via, x) for via in INPUTS["head"]]
        z = []
        for rows in prefixes.of_sentence.split(SENTENCES_AT_ONCE):
            q, k, v = (each[rows].transpose(1, 2) for each in inputs)  # (B, heads, T, d_head)
            z.append((self.attention_pattern(q, k) @ v).transpose(1, 2).flatten(0, 1))  # (B * T, heads, d_head)
        return torch.cat(z)[prefixes.example]

    def run(self, prefixes: Prefixes) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """A forward pass: the stream that each half-layer reads, and the heads' attention-weighted values z.

        There are 2 · layers + 1 streams (P, D): the heads of layer 0 read the first, its MLP the second, the logits the
        last. z has one tensor for each layer, (P, heads, d_head).
        """
        streams = [self["t.w.tok_embeds"][prefixes.tokens] + self["t.w.pos_embeds"][prefixes.positions]]
        z = []
        for layer in range(self.architecture.n_layers):
            z.append(self.z(layer, streams[-1], prefixes))
            streams.append(streams[-1] + self.heads_write(layer, z[-1]))
            streams.append(streams[-1] + self.mlp_write(layer, self.neurons(layer, streams[-1])))
        return streams, z


class Activations:
    """What the nodes read and write on a batch of N clean sentences and their N corrupted twins, tokens (N, T).

    `means`, over all clean sentences, may be filled in later. It has the streams (T, D) by their index in `run`'s list,
    the attention-weighted values (T, heads, d_head) by layer, and the activations (1,) of some neurons by node.
    """

    def __init__(
        self, transformer: Transformer, clean: torch.Tensor, corrupted: torch.Tensor, means: Means | None = None
    ) -> None:
        sentences, which = torch.cat([clean, corrupted]).unique(dim=0, return_inverse=True)
        prefixes = Prefixes(*(each.to(transformer.device) for each in distinct_prefixes(sentences)))
        of_clean, of_corrupted = prefixes.of_sentence[which.to(transformer.device)].split(len(clean))  # (N, T)
        self._prefix: dict[DataSet, torch.Tensor] = {"clean": of_clean, "corrupted": of_corrupted}
        self._streams, self._z = transformer.run(prefixes)
        self._neurons: dict[tuple[int, int, DataSet], torch.Tensor] = {}
        self.transformer = transformer
        self._means: Means = {} if means is None else means

    def __len__(self) -> int:
        return len(self._prefix["clean"])

    def weighted(self, weights: torch.Tensor, neurons: Sequence[Node]) -> Means:
        """Sums over the clean sentences with weights (N,) float64; those of all batches add up to `means`."""
        weights = weights.to(self.transformer.device)
        total = partial(weighted_sums, of_sentence=self._prefix["clean"], weights=weights)
        streams: Means = {("stream", place): total(rows) for place, rows in enumerate(self._streams)}
        z: Means = {("z", layer): total(rows) for layer, rows in enumerate(self._z)}
        return streams | z | {node: weights @ self.coefficients(node, "clean").double() for node in neurons}

    def stream(self, reader: Node, position: int | slice, data: Data) -> torch.Tensor:
        """The residual stream that `reader` finds at a position, (N, D), or at several, (N, positions, D)."""
        return self._stream(min(reader.depth, len(self._streams)) - 1, position, data)

    def _stream(self, place: int, position: int | slice, data: Data) -> torch.Tensor:
        if data == "mean":
            return self._mean(("stream", place), position)
        if data == "zero":
            shared = [self.transformer[f"a{layer}.w.o_bias"] for layer in range((place + 1) // 2)]
            return sum(shared, start=self._stream(0, position, "clean"))
        return self._streams[place][self._prefix[data][:, position]]

    def _mean(self, key: Hashable, place: int | slice = slice(None)) -> torch.Tensor:
        """One of the means, or a part of it, repeated for each of the N sentences."""
        mean = self._means[key][place].to(self._streams[0])
        return mean.expand(len(self), *mean.shape)

    def coefficients(self, node: Node, data: Data) -> torch.Tensor:
        """How far a head or a neuron writes along each of its `directions`, (N, r)."""
        if data == "zero":
            return self._streams[0].new_zeros(len(self), len(self.transformer.directions(node)))
        if data == "mean":
            of_head = ("z", node.layer), node.position
            return self._mean(*of_head)[:, node.index] if node.kind == "head" else self._mean(node)
        if node.kind == "head":
            return self._z[node.layer][self._prefix[data][:, node.position], node.index]
        return self._neurons_on(node, data)[:, node.index, None]

    def _neurons_on(self, node: Node, data: DataSet) -> torch.Tensor:
        """Activations of all neurons of the MLP that a neuron belongs to, (N, d_mlp)."""
        key = node.layer, node.position, data
        if key not in self._neurons:
            mlp = Node.mlp(node.layer, node.position)
            self._neurons[key] = self.transformer.neurons(node.layer, self.stream(mlp, node.position, data))
        return self._neurons[key]

    def write(self, node: Node, data: Data) -> torch.Tensor:
        """What a node writes at its position, (N, D)."""
        if node.kind == "embeds":
            return self._stream(0, node.position, data)
        if node.kind == "mlp":
            before, after = (self._stream(place, node.position, data) for place in (node.depth - 1, node.depth))
            return after - before
        return self.coefficients(node, data) @ self.transformer.directions(node)

    def pattern(self, layer: int, head: int, data: DataSet) -> torch.Tensor:
        """Attention of a head, (N, queries, keys)."""
        streams = self.stream(Node.head(layer, head, 0), slice(None), data)
        queries = self.transformer.head_input(layer, head, "q", streams)
        keys = self.transformer.head_input(layer, head, "k", streams)
        return self.transformer.attention_pattern(queries, keys)
