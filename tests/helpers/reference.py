"""Path patching, slow and obvious: the definition in float64, one recursion over the unrolled tree.

Nothing is patched into cached activations and no differences are formed. The value of a node under a path set is
computed from its inputs, each input from everything that was written before it, and so on down to the embeddings:
a writer that a branch of the path set leads to has its value under that branch, every other writer its plain value.
Functions of (node, paths, data) are remembered, which changes no value. Only the definition of a path set is shared
with the engines under test.

On mean and zero data a node outside the paths writes what the definition says, whatever it reads: the mean over the
sentences of its clean writes, or nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch.nn.functional import gelu

from path_patching.engine import Data, Sentences
from path_patching.gpt2.model import LAYER_NORM_EPSILON, Model
from path_patching.paths import Node, PathSet, Via

Branches = tuple[PathSet, ...]
NO_BRANCH: Branches = ()


class Stream(NamedTuple):
    """What a reader finds at a position: the writes of the first `attentions` attention layers and `mlps` MLPs."""

    attentions: int
    mlps: int
    position: int


class Case(NamedTuple):
    """The data outside the paths, and what the ends of paths are moved towards, all the way if the strength is 1."""

    outside: Data
    inside: Data
    strength: float = 1.0

    def at_end(self, on: Callable[[Data], torch.Tensor]) -> torch.Tensor:
        """A quantity at the end of a path, given what it is on either data."""
        outside, inside = on(self.outside), on(self.inside)
        return inside if self.strength == 1 else outside + self.strength * (inside - outside)


class Reference:
    """A model in float64 and its sentences.

    Throughout, `data` is what everything outside the paths is computed on, or, where paths are given, the case.
    Tensors are (N, ...), one row a sentence.
    """

    def __init__(self, model: Model, sentences: Sentences) -> None:
        self.architecture = model.architecture
        self.sentences = sentences
        self.weights = {name.removesuffix("_arr"): tensor.double() for name, tensor in model.tensors.items()}
        # Remembered per instance, so that they go when it does.
        self.write = cache(self.write)
        self.stream = cache(self.stream)

    def probabilities(
        self,
        paths: PathSet | None = None,
        inside: Data = "corrupted",
        outside: Data | None = None,
        strength: float = 1.0,
    ) -> torch.Tensor:
        """Answer probabilities at END, (N, A), with `paths` on `inside` data and all else on `outside`.

        Where that is not given it is clean, or corrupted if the clean data are inside.
        """
        case = Case(outside or ("corrupted" if inside == "clean" else "clean"), inside, strength)
        logits = self.logits(self.sentences.end, paths, case.outside if paths is None else case)
        return logits.softmax(-1)[:, self.sentences.answers]

    def logits(self, position: int, paths: PathSet | None, data: Data | Case) -> torch.Tensor:
        """Logits (N, V) at a position."""
        node = Node.logits(position)
        if paths is not None and paths.ends_here:
            paths = PathSet.at(node).extend([Node.residual(position)])
        return self.read(node, "in", position, paths, data) @ self.weights["t.w.unembed"].T

    def write(self, node: Node, paths: PathSet | None, data: Data | Case) -> torch.Tensor:
        """What an embedding, a head or an MLP writes at its position, (N, D), under the paths that start at it."""
        if paths is not None and paths.ends_here:
            return case_of(data).at_end(lambda on: self.write(node, None, on))
        if paths is None and data == "mean":
            clean = self.write(node, None, "clean")
            return clean.mean(0).expand(len(clean), -1)
        if paths is None and data == "zero":
            clean = self.write(node, None, "clean")
            return clean if node.kind == "embeds" else torch.zeros_like(clean)
        if node.kind == "embeds":
            tokens = self.sentences.of(data)[:, node.position]
            return self.weights["t.w.tok_embeds"][tokens] + self.weights["t.w.pos_embeds"][node.position]
        if node.kind == "mlp":
            return self.mlp_output(node.layer, self.activations(node, paths, data))
        values = torch.stack([self.project("v", node, at, paths, data) for at in range(node.position + 1)], 1)
        mixed = torch.einsum("nk,nkh->nh", self.attention(node, paths, data), values)
        return mixed @ self.weights[f"a{node.layer}.w.o"][node.index].T

    def attention(self, head: Node, paths: PathSet | None, data: Data | Case) -> torch.Tensor:
        """Attention of a head from its own position to that and every earlier one, (N, position + 1)."""
        query = self.project("q", head, head.position, paths, data)  # (N, d_head)
        keys = torch.stack([self.project("k", head, at, paths, data) for at in range(head.position + 1)], 1)
        return (torch.einsum("nh,nkh->nk", query, keys) / self.architecture.d_head**0.5).softmax(-1)

    def project(self, via: Via, head: Node, position: int, paths: PathSet | None, data: Data | Case) -> torch.Tensor:
        """A head's query, key or value at a position, (N, d_head)."""
        weight = self.weights[f"a{head.layer}.w.{via}"][head.index]
        bias = self.weights[f"a{head.layer}.w.{via}_bias"][head.index]
        return self.read(head, via, position, paths, data) @ weight.T + bias

    def activations(self, mlp: Node, paths: PathSet | None, data: Data | Case) -> torch.Tensor:
        """Activations of the neurons of an MLP, (N, d_mlp)."""
        if paths is None and data in ("mean", "zero"):
            clean = self.activations(mlp, None, "clean")
            return clean.mean(0).expand(len(clean), -1) if data == "mean" else torch.zeros_like(clean)
        weight, bias = self.weights[f"m{mlp.layer}.w.proj_in"], self.weights[f"m{mlp.layer}.w.in_bias"]
        approximate = "tanh" if self.architecture.activation == "gelu_new" else "none"
        return gelu(self.read(mlp, "in", mlp.position, paths, data) @ weight.T + bias, approximate=approximate)

    def mlp_output(self, layer: int, activations: torch.Tensor) -> torch.Tensor:
        return activations @ self.weights[f"m{layer}.w.proj_out"].T + self.weights[f"m{layer}.w.out_bias"]

    def read(self, reader: Node, via: Via, position: int, paths: PathSet | None, data: Data | Case) -> torch.Tensor:
        """What a reader gets from a position through one of its inputs: the stream under the branches, normalized."""
        residual = self.residual(reader, via, position, paths, data)
        name = "final" if reader.kind == "logits" else f"{'a' if reader.kind == 'head' else 'm'}{reader.layer}"
        centred = residual - residual.mean(-1, keepdim=True)
        normal = centred / (centred.square().mean(-1, keepdim=True) + LAYER_NORM_EPSILON).sqrt()
        return normal * self.weights[f"{name}.ln.w.scale"] + self.weights[f"{name}.ln.w.bias"]

    def residual(self, reader: Node, via: Via, position: int, paths: PathSet | None, data: Data | Case) -> torch.Tensor:
        """The residual stream (N, D) that a reader finds at a position, under those paths that go on through there."""
        steps = paths.branches if paths is not None else ()
        taken = tuple(step.paths for step in steps if step.via == via and step.paths.node.position == position)
        layers = {
            "head": (reader.layer, reader.layer),  # reads before its own layer's attention and MLP have written
            "mlp": (reader.layer + 1, reader.layer),
            "logits": (self.architecture.n_layers, self.architecture.n_layers),
        }
        return self.stream(Stream(*layers[reader.kind], position), taken, data)

    def stream(self, stream: Stream, branches: Branches, data: Data | Case) -> torch.Tensor:
        """Sum of all writes before a reader, (N, D), each under its branch if it has one."""
        below = {paths.node: paths for paths in branches}
        position = stream.position
        if Node.residual(position) in below:
            return case_of(data).at_end(lambda on: self.stream(stream, NO_BRANCH, on))

        def value(node: Node) -> torch.Tensor:
            return self.write(node, below[node], data) if node in below else self.write(node, None, outside(data))

        total = value(Node.embeds(position))
        for layer in range(stream.attentions):
            heads = [Node.head(layer, head, position) for head in range(self.architecture.n_heads)]
            total = total + sum(value(head) for head in heads) + self.weights[f"a{layer}.w.o_bias"]
        for layer in range(stream.mlps):
            mlp = Node.mlp(layer, position)
            neurons = [node.index for node in below if node.kind == "neuron" and node.layer == layer]
            total = total + value(mlp)
            if neurons and not (mlp in below and below[mlp].ends_here):  # where the MLP ends a path, they do with it
                total = total + self.exchanged(mlp, below.get(mlp), neurons, data)
        return total

    def exchanged(self, mlp: Node, paths: PathSet | None, neurons: list[int], data: Data | Case) -> torch.Tensor:
        """What is added to an MLP's write, (N, D), by exchanging the writes of `neurons` for those at ends of paths."""
        own = self.activations(mlp, paths, outside(data) if paths is None else data)
        at_end = case_of(data).at_end(lambda on: self.activations(mlp, None, on))
        return (at_end - own)[:, neurons] @ self.weights[f"m{mlp.layer}.w.proj_out"].T[neurons]


def case_of(data: Data | Case) -> Case:
    """A case as it is; of one of the two data sets, the case in which the other is inside."""
    return data if isinstance(data, Case) else Case(data, "corrupted" if data == "clean" else "clean")


def outside(data: Data | Case) -> Data:
    """The data outside the paths."""
    return data.outside if isinstance(data, Case) else data


def reference_probabilities(
    model: Model, sentences: Sentences, paths: PathSet | None = None, inside: Data = "corrupted"
) -> torch.Tensor:
    """What an engine's `probabilities` must give, (N, A) float64."""
    return Reference(model, sentences).probabilities(paths, inside)
