"""The definition of path patching (section 3 of the paper): one recursion in float64, slow and obvious.

A path set P is a tree, seen from the logits. The ends of its paths see *inside* data d′, everything else *outside* data
d. Then a node n writes

    write(n, P) = what n makes of LayerNorm( Σ_s write(s, P_s) ), summed over all earlier nodes s
    write(n, P) = write on d + strength · (write on d′ − write on d), where a path of P ends at n

with P_s the paths that go on from n to s. If no path goes on from n to s, then s has its write on outside data here,
even if other paths of P go through s. A head reads through three inputs, and each has its own paths: queries at the
head's position, keys and values there and at every earlier position. Without paths, a node's write is that of a forward
pass. On *mean* data it is the mean over all clean sentences; on *zero* data it is 0, but embeddings stay clean. The
answers are softmax(U · LayerNorm(Σ_s write(s, P_s))) at END, with U the unembedding.

Nothing is patched into stored activations, and no differences are formed. The other engines compute the same, faster.
Here a cache keeps what was computed for the same node, paths and data.

    >>> reference = Reference(model, sentences.rows(slice(5)))
    >>> paths = PathSet.parse("a1.h0 → m2 → logits", end=END)
    >>> broken = reference.probabilities(paths)  # these paths on corrupted data, all else on clean: (N, A)
    >>> alone = reference.probabilities(paths, inside="clean", outside="corrupted")
    >>> half = reference.probabilities(paths, inside="mean", strength=0.5)
    >>> torch.allclose(engine.patch(paths)[:5], broken, rtol=0, atol=1e-6)
    True

It is an engine as well, `--engine reference` of every script:

    >>> slow = make_engine("reference", "cpu", model, sentences.rows(slice(5)))
    reference engine on cpu, random (seed 0), 5 sentences
    the reference is the definition in float64, some ... times as slow as torch: give it few sentences
    >>> torch.allclose(slow.patch(paths), broken, rtol=0, atol=1e-12)
    True
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from typing import Concatenate, NamedTuple, ParamSpec

import torch
from torch.nn.functional import gelu

from path_patching.batches import placing
from path_patching.engine import Data, DataSet, Engine, Means, Request, Sentences
from path_patching.gpt2.model import LAYER_NORM_EPSILON, Model
from path_patching.paths import AnyVia, Node, PathSet, Via, layer_nodes
from path_patching.progress import progress

Branches = tuple[PathSet, ...]
NO_BRANCH: Branches = ()
Of = ParamSpec("Of")
BYTES = 8  # of a float64


class Stream(NamedTuple):
    """The residual stream at a position, after the first `attentions` attention layers and the first `mlps` MLPs."""

    attentions: int
    mlps: int
    position: int


class Case(NamedTuple):
    """The data outside the paths, the data inside, and how far the ends of paths move from one to the other."""

    outside: Data
    inside: Data
    strength: float = 1.0

    def at_end(self, on: Callable[[Data], torch.Tensor]) -> torch.Tensor:
        """A quantity at the end of a path; `on` gives it on one kind of data."""
        outside, inside = on(self.outside), on(self.inside)
        return inside if self.strength == 1 else outside + self.strength * (inside - outside)


def cached(
    method: Callable[Concatenate[Reference, Of], torch.Tensor],
) -> Callable[Concatenate[Reference, Of], torch.Tensor]:
    """The method with a cache: each value is computed once."""

    def once(self: Reference, /, *of: Of.args, **named: Of.kwargs) -> torch.Tensor:
        known = self.known[method.__name__]
        if of not in known:
            known[of] = method(self, *of, **named)
        return known[of]

    once.__doc__ = method.__doc__
    return once


class Reference:
    """A model in float64, N sentences of T tokens, and everything computed from them.

    Tensors are (N, ...), a row for each sentence. The methods' `data` is the data outside the paths; where paths are
    given, it is the `Case`. `means` are averages over all clean sentences of an engine, of which these may be a batch;
    if empty, they are computed from these sentences.
    """

    def __init__(self, model: Model, sentences: Sentences, means: Means | None = None) -> None:
        self.architecture = model.architecture
        self.sentences = sentences
        self.weights = {name.removesuffix("_arr"): tensor.double() for name, tensor in model.tensors.items()}
        self.means: Means = {} if means is None else means
        self.known: dict[str, dict[tuple[object, ...], torch.Tensor]] = defaultdict(dict)  # the cache, by method

    def __len__(self) -> int:
        return len(self.sentences)

    def probabilities(
        self,
        paths: PathSet | None = None,
        inside: Data = "corrupted",
        outside: Data | None = None,
        strength: float = 1.0,
    ) -> torch.Tensor:
        """Answer probabilities at END, (N, A), with `paths` on `inside` data and all else on `outside`.

        `outside` is clean unless given; corrupted if `inside` is clean.
        """
        case = Case(outside or ("corrupted" if inside == "clean" else "clean"), inside, strength)
        self.known["patched"], self.known["patched_stream"] = {}, {}  # they belong to the last question
        logits = self.logits(self.sentences.end, paths, case.outside if paths is None else case)
        return logits.softmax(-1)[:, self.sentences.answers]

    def logits(self, position: int, paths: PathSet | None, data: Data | Case) -> torch.Tensor:
        """Logits (N, V) at a position."""
        node = Node.logits(position)
        if paths is not None and paths.ends_here:
            paths = PathSet.at(node).extend([Node.residual(position)])
        return self.read(node, "in", position, paths, data) @ self.weights["t.w.unembed"].T

    def read(self, reader: Node, via: Via, position: int, paths: PathSet | None, data: Data | Case) -> torch.Tensor:
        """What a reader gets from a position through one of its inputs: the stream along the paths, normalized."""
        residual = self.residual(reader, via, position, paths, data)
        name = "final" if reader.kind == "logits" else f"{'a' if reader.kind == 'head' else 'm'}{reader.layer}"
        centred = residual - residual.mean(-1, keepdim=True)
        normal = centred / (centred.square().mean(-1, keepdim=True) + LAYER_NORM_EPSILON).sqrt()
        return normal * self.weights[f"{name}.ln.w.scale"] + self.weights[f"{name}.ln.w.bias"]

    def residual(self, reader: Node, via: Via, position: int, paths: PathSet | None, data: Data | Case) -> torch.Tensor:
        """The residual stream (N, D) that a reader finds at a position, with the paths patched that go on there."""
        taken = through(paths, via, position)
        layers = {
            "head": (reader.layer, reader.layer),  # reads before its own layer's attention and MLP have written
            "mlp": (reader.layer + 1, reader.layer),
            "logits": (self.architecture.n_layers, self.architecture.n_layers),
        }
        stream = Stream(*layers[reader.kind], position)
        return self.patched_stream(stream, taken, case_of(data)) if taken else self.plain_stream(stream, outside(data))

    @cached
    def plain_stream(self, stream: Stream, data: Data) -> torch.Tensor:
        """Sum of all writes before a reader, (N, D)."""
        return self.total(stream, NO_BRANCH, data)

    @cached
    def patched_stream(self, stream: Stream, branches: Branches, case: Case) -> torch.Tensor:
        """The same, where a write that has a branch follows it."""
        if any(paths.node.kind == "residual" for paths in branches):  # a path ends at the whole stream
            return case.at_end(lambda on: self.plain_stream(stream, on))
        return self.total(stream, branches, case)

    def total(self, stream: Stream, branches: Branches, data: Data | Case) -> torch.Tensor:
        """Sum of the writes; neurons that have a branch are exchanged within their MLP's write."""
        below = {paths.node: paths for paths in branches}
        position = stream.position

        def value(node: Node) -> torch.Tensor:
            return self.write(node, below.get(node), data)

        total = value(Node.embeds(position))
        for layer in range(stream.attentions):
            heads = [Node.head(layer, head, position) for head in range(self.architecture.n_heads)]
            total = total + sum(value(head) for head in heads) + self.weights[f"a{layer}.w.o_bias"]
        for layer in range(stream.mlps):
            mlp = Node.mlp(layer, position)
            neurons = [node.index for node in below if node.kind == "neuron" and node.layer == layer]
            total = total + value(mlp)
            if neurons and not (mlp in below and below[mlp].ends_here):  # an MLP that ends a path holds its neurons
                total = total + self.exchanged(mlp, below.get(mlp), neurons, case_of(data))
        return total

    def exchanged(self, mlp: Node, paths: PathSet | None, neurons: list[int], case: Case) -> torch.Tensor:
        """What exchanging `neurons` for their activations at ends of paths adds to their MLP's write, (N, D)."""
        own = self.activations(mlp, paths, case.outside if paths is None else case)
        at_end = case.at_end(lambda on: self.activations(mlp, None, on))
        return (at_end - own)[:, neurons] @ self.weights[f"m{mlp.layer}.w.proj_out"].T[neurons]

    def write(self, node: Node, paths: PathSet | None, data: Data | Case) -> torch.Tensor:
        """What an embedding, a head or an MLP writes at its position, (N, D), along the paths that start at it."""
        return self.plain(node, outside(data)) if paths is None else self.patched(paths, case_of(data))

    @cached
    def plain(self, node: Node, data: Data) -> torch.Tensor:
        """What a node writes without paths."""
        if data == "mean":
            return self.mean(node)
        if data == "zero":
            clean = self.plain(node, "clean")
            return clean if node.kind == "embeds" else torch.zeros_like(clean)
        if node.kind == "embeds":
            tokens = self.sentences.of(data)[:, node.position]
            return self.weights["t.w.tok_embeds"][tokens] + self.weights["t.w.pos_embeds"][node.position]
        return self.computed(node, None, data)

    @cached
    def patched(self, paths: PathSet, case: Case) -> torch.Tensor:
        """What the first node of `paths` writes: as the case says if a path ends there, else from what it reads."""
        if paths.ends_here:
            return case.at_end(lambda on: self.plain(paths.node, on))
        return self.computed(paths.node, paths, case)

    def computed(self, node: Node, paths: PathSet | None, data: Data | Case) -> torch.Tensor:
        """What a head or an MLP makes of what it reads, (N, D)."""
        if node.kind == "mlp":
            return self.mlp_output(node.layer, self.activations(node, paths, data))
        return self.mixed(node, paths, data) @ self.weights[f"a{node.layer}.w.o"][node.index].T

    def mixed(self, head: Node, paths: PathSet | None, data: Data | Case) -> torch.Tensor:
        """A head's values, weighted by its attention, (N, d_head)."""
        if paths is None and data == "mean":
            return self.mean(("mixed", head))
        if paths is None and data == "zero":
            return torch.zeros_like(self.mixed(head, None, "clean"))
        values = torch.stack([self.project("v", head, at, paths, data) for at in range(head.position + 1)], 1)
        return torch.einsum("nk,nkh->nh", self.attention(head, paths, data), values)

    def attention(self, head: Node, paths: PathSet | None, data: Data | Case) -> torch.Tensor:
        """A head's attention from its position to this and every earlier one, (N, position + 1)."""
        query = self.project("q", head, head.position, paths, data)  # (N, d_head)
        keys = torch.stack([self.project("k", head, at, paths, data) for at in range(head.position + 1)], 1)
        scores: torch.Tensor = torch.einsum("nh,nkh->nk", query, keys) / self.architecture.d_head**0.5
        return scores.softmax(-1)

    def project(self, via: Via, head: Node, position: int, paths: PathSet | None, data: Data | Case) -> torch.Tensor:
        """A head's query, key or value at a position, (N, d_head)."""
        if not through(paths, via, position):
            return self.plain_project(via, head, position, outside(data))
        return self.projected(via, head, position, paths, data)

    @cached
    def plain_project(self, via: Via, head: Node, position: int, data: Data) -> torch.Tensor:
        """The same where no path goes through it, from the cache."""
        return self.projected(via, head, position, None, data)

    def projected(self, via: Via, head: Node, position: int, paths: PathSet | None, data: Data | Case) -> torch.Tensor:
        """The same, computed from what the head reads there."""
        weight = self.weights[f"a{head.layer}.w.{via}"][head.index]
        bias = self.weights[f"a{head.layer}.w.{via}_bias"][head.index]
        return self.read(head, via, position, paths, data) @ weight.T + bias

    def activations(self, mlp: Node, paths: PathSet | None, data: Data | Case) -> torch.Tensor:
        """Activations of the neurons of an MLP, (N, d_mlp)."""
        if paths is None and data == "mean":
            return self.mean(("activations", mlp))
        if paths is None and data == "zero":
            return torch.zeros_like(self.activations(mlp, None, "clean"))
        weight, bias = self.weights[f"m{mlp.layer}.w.proj_in"], self.weights[f"m{mlp.layer}.w.in_bias"]
        approximate = "tanh" if self.architecture.activation == "gelu_new" else "none"
        return gelu(self.read(mlp, "in", mlp.position, paths, data) @ weight.T + bias, approximate=approximate)

    def mlp_output(self, layer: int, activations: torch.Tensor) -> torch.Tensor:
        """What an MLP writes, (N, D), given its neurons' activations."""
        return activations @ self.weights[f"m{layer}.w.proj_out"].T + self.weights[f"m{layer}.w.out_bias"]

    def mean(self, of: Hashable) -> torch.Tensor:
        """The mean over all clean sentences of what a node writes, a head mixes, or an MLP's neurons have."""
        if not self.means:
            self.means |= {key: clean.mean(0) for key, clean in self.clean()}
        mean: torch.Tensor = self.means[of].expand(len(self), -1)
        return mean

    def clean(self) -> Iterator[tuple[Hashable, torch.Tensor]]:
        """Everything that has a mean, on clean sentences, (N, ...): nodes' writes, heads' mixed values, activations."""
        for position in range(self.sentences.end + 1):
            yield Node.embeds(position), self.plain(Node.embeds(position), "clean")
            for layer in range(self.architecture.n_layers):
                *heads, mlp = layer_nodes(layer, self.architecture.n_heads, position)
                yield from ((node, self.plain(node, "clean")) for node in (*heads, mlp))
                yield from ((("mixed", head), self.mixed(head, None, "clean")) for head in heads)
                yield ("activations", mlp), self.activations(mlp, None, "clean")


def through(paths: PathSet | None, via: Via, position: int) -> Branches:
    """The paths that go on through an input at a position."""
    steps = paths.branches if paths is not None else ()
    return tuple(step.paths for step in steps if step.via == via and step.paths.node.position == position)


def case_of(data: Data | Case) -> Case:
    """A case as it is; for outside data, the case with the corrupted data inside if it is clean, else the clean."""
    return data if isinstance(data, Case) else Case(data, "corrupted" if data == "clean" else "clean")


def outside(data: Data | Case) -> Data:
    """The data outside the paths."""
    return data.outside if isinstance(data, Case) else data


class ReferenceEngine(Engine[Reference]):
    """The definition as an engine: any script's `--engine reference`."""

    name = "reference"
    remark = "the reference is the definition in float64, some 100 times as slow as torch: give it few sentences"

    def __init__(self, model: Model, sentences: Sentences, device: str = "cpu", memory_gb: float = 4.0) -> None:
        super().__init__(model, sentences, device, memory_gb)
        with placing(f"the weights of {model.name}", self.device):
            tensors = {name: tensor.to(self.device, torch.float64) for name, tensor in model.tensors.items()}
        self._in_float64 = replace(model, tensors=tensors)

    def _activations(self, clean: torch.Tensor, corrupted: torch.Tensor) -> Reference:
        tokens = (each.to(self.device) for each in (clean, corrupted, self.sentences.answers))
        return Reference(self._in_float64, Sentences(*tokens), self._means)

    def _bytes_needed(self, pairs: torch.Tensor) -> int:
        """Every write and stream of both data sets, and as much again for what is patched and in between."""
        sizes = self.model.architecture
        values = pairs[:, :, 0].numel() * pairs.shape[2] * (sizes.n_nodes + 2 * sizes.n_layers + 2)
        return 2 * BYTES * sizes.d_model * values

    def _weighted(self, batch: Reference, weights: torch.Tensor, neurons: Sequence[Node]) -> Means:
        means = {key: weights.to(self.device) @ clean for key, clean in batch.clean()}
        of_mlp = {node: means["activations", Node.mlp(node.layer, node.position)] for node in neurons}
        return means | {node: activations[node.index] for node, activations in of_mlp.items()}

    def _evaluate(self, batch: Reference, requests: Sequence[Request]) -> Iterator[torch.Tensor]:
        return (batch.probabilities(each.paths, *each.data) for each in requests)

    def _sweep(
        self, batch: Reference, receivers: PathSet, senders: list[Node], via: AnyVia, inside: Data
    ) -> torch.Tensor:
        patched = progress([receivers.extend([sender], via) for sender in senders], f"patching {len(senders)} nodes")
        return torch.stack([batch.probabilities(paths, inside, "clean") for paths in patched])

    def _writes(self, batch: Reference, nodes: Sequence[Node], data: Data) -> torch.Tensor:
        return torch.stack([self._write(batch, node, data) for node in nodes]).float()

    def _write(self, batch: Reference, node: Node, data: Data) -> torch.Tensor:
        if node.kind != "neuron":
            return batch.write(node, None, data)
        activations = batch.activations(Node.mlp(node.layer, node.position), None, data)
        return activations[:, node.index, None] * batch.weights[f"m{node.layer}.w.proj_out"][:, node.index]

    def _mixed_values(self, batch: Reference, heads: Sequence[Node], data: Data) -> torch.Tensor:
        return torch.stack([batch.mixed(head, None, data) for head in heads]).float()

    def _residual(self, batch: Reference, reader: Node, data: Data) -> torch.Tensor:
        return batch.residual(reader, "in", reader.position, None, data).float()

    def _attention(self, batch: Reference, heads: Sequence[tuple[int, int]], data: DataSet) -> torch.Tensor:
        n, length = len(batch), self.sentences.end + 1
        patterns = torch.zeros(len(heads), n, length, length, device=self.device)
        for place, head in enumerate(heads):
            for query in range(length):
                patterns[place, :, query, : query + 1] = batch.attention(Node.head(*head, query), None, data).float()
        return patterns
