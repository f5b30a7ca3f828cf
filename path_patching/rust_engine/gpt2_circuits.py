"""GPT-2 as rust_circuit circuits, split by head and position.

Each node is a circuit over the residual streams that it reads. A stream is a symbol of one vector (D,), unless another
circuit replaces it. `a9.h1@12` reads `a9.in@0` … `a9.in@12` through its inputs `a9.h1.q@12`, `a9.h1.k@0` …,
`a9.h1.v@0` …; `m10@12` reads `m10.in@12`. Building a node does not walk the circuits below it, so the time grows in
proportion to the number of nodes. Batches of sentences enter with `rc.Expander`, which widens everything above what it
replaces. The plain forward pass has circuits of whole layers: `head_inputs`, `attention` over all positions at once,
`attention_layer` and `mlp_layer`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import NamedTuple

import rust_circuit as rc
import torch
from rust_circuit.module_library import get_pointwise_mlp, layernorm

from path_patching.gpt2.model import Model
from path_patching.paths import INPUTS, Node, Via


def einsum(formula: str, *operands: rc.Circuit, name: str) -> rc.Circuit:
    """A named Einsum from its usual formula."""
    return rc.Einsum.from_einsum_string(formula, *operands, name=name)


def stream_name(reader: Node) -> str:
    """The residual stream that a node reads: `a9.in`, `m10.in`, `final.in`. All heads of a layer share one."""
    if reader.kind == "logits":
        return "final.in"
    return f"{'a' if reader.kind == 'head' else 'm'}{reader.layer}.in"


class Attention(NamedTuple):
    """The attention of a layer's heads: attention-weighted values z (T, H, d_head), patterns (H, T, T)."""

    z: rc.Circuit
    pattern: rc.Circuit


class Gpt2Circuit:
    """The circuits of one model. Weights are arrays on `device`.

    A circuit over symbols alone is built once, at first use; circuits over other circuits are not cached.
    """

    def __init__(self, model: Model, device: str) -> None:
        self.architecture = model.architecture
        self.device = device
        self._embedding = {name: model.tensors[name].to(device) for name in ("t.w.tok_embeds", "t.w.pos_embeds")}
        self._weights = {name: rc.Array(tensor.to(device), name) for name, tensor in model.tensors.items()}
        self.node = cache(self._node)
        self.residual = cache(self._residual)
        self._input = cache(self._unpatched_input)
        self._template = cache(self._built_template)

    def embeddings(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Token plus position embeddings (P, D) of token ids and their positions, (P,) each."""
        token, position = self._embedding.values()
        return token[tokens.to(self.device)] + position[positions.to(self.device)]

    def around_mlp(self, layer: int) -> tuple[str, str]:
        """The residual streams before and after an MLP."""
        last = layer + 1 == self.architecture.n_layers
        return f"m{layer}.in", "final.in" if last else f"a{layer + 1}.in"

    def attention_biases(self, stream: str) -> list[torch.Tensor]:
        """The shared biases (D,) of the attention layers that write into a residual stream."""
        kind, layer = stream[0], stream[1:].removesuffix(".in")
        n_layers = self.architecture.n_layers if stream == "final.in" else int(layer) + (kind == "m")
        return [self._weights[f"a{each}.w.o_bias_arr"].value for each in range(n_layers)]

    def _weight(self, name: str) -> rc.Circuit:
        return self._weights[f"{name}_arr"]

    def _residual(self, stream: str, position: int) -> rc.Circuit:
        """The symbol of the residual stream at a position, (D,), which all readers share."""
        return rc.Symbol.new_with_random_uuid((self.architecture.d_model,), f"{stream}@{position}")

    def _node(self, node: Node) -> rc.Circuit:
        """An MLP, a neuron or the logits, as a function of the symbol of the stream that it reads."""
        return self.reading(node, self.residual(stream_name(node), node.position))

    def reading(self, node: Node, read: rc.Circuit) -> rc.Circuit:
        """What an MLP or a neuron writes (D,) when it reads `read` (D,); for the logits, the unembedding's input."""
        build = {"mlp": self._mlp, "neuron": self._neuron, "logits": self._final}[node.kind]
        return self._in_place(build, node, read)

    def normed(self, stream: str, position: int, read: rc.Circuit) -> rc.Circuit:
        """LayerNorm of `read` (D,): a residual stream that heads read at a position, or what replaces it."""
        return self._in_place(self._normed, Node(int(stream[1:].removesuffix(".in")), "head", 0, position), read)

    def projection(self, head: Node, via: Via, position: int, normed: rc.Circuit) -> rc.Circuit:
        """A head's query (d_head,), or its key or value at a position (1, d_head), from its LayerNorm's output (D,)."""
        weight = self._of_head(f"a{head.layer}.w.{via}", head.index)
        bias = self._of_head(f"a{head.layer}.w.{via}_bias", head.index)
        name = f"{head.name}.{via}@{position}"
        formula, one = ("d,cd->c", ()) if via == "q" else ("d,cd,k->kc", (self._ones(1),))
        return rc.Add(einsum(formula, normed, weight, *one, name=f"{name}.without_bias"), bias, name=name)

    def head(self, head: Node, patched: Mapping[tuple[Via, int], rc.Circuit]) -> rc.Circuit:
        """What a head writes (D,): its query against keys and values of every position up to its own.

        `patched` has some of its inputs, made by `projection`; the others read the streams' symbols.
        """
        of_any_position = Node.head(head.layer, head.index, 0)

        def read(via: Via, position: int) -> rc.Circuit:
            return patched.get((via, position)) or self._input(of_any_position, via, position)

        name, at, positions = head.name, head.position, range(head.position + 1)
        keys = rc.Concat(*(read("k", each) for each in positions), axis=0, name=f"{name}.keys@{at}")
        values = rc.Concat(*(read("v", each) for each in positions), axis=0, name=f"{name}.values@{at}")
        scores = einsum("c,kc,->k", read("q", at), keys, self._score_scale(), name=f"{name}.scores@{at}")
        pattern = rc.softmax(scores, name=f"{name}.pattern@{at}")
        z = einsum("k,kc->c", pattern, values, name=f"{name}.z@{at}")
        return einsum("c,dc->d", z, self._of_head(f"a{head.layer}.w.o", head.index), name=str(head))

    def _unpatched_input(self, head: Node, via: Via, position: int) -> rc.Circuit:
        stream = stream_name(head)
        normed = self.normed(stream, position, self.residual(stream, position))
        return self.projection(head, via, position, normed)

    def _in_place(self, build: Callable[[Node, rc.Circuit], rc.Circuit], node: Node, read: rc.Circuit) -> rc.Circuit:
        """`build` of a node that reads `read`: a template is built once, and `read` is put into it."""
        place, template = self._template(build, node)
        return template if read == place else rc.Expander((place, lambda _: read))(template)

    def _built_template(
        self, build: Callable[[Node, rc.Circuit], rc.Circuit], node: Node
    ) -> tuple[rc.Circuit, rc.Circuit]:
        place = self.residual(stream_name(node), node.position)
        return place, build(node, place)

    def _final(self, logits: Node, read: rc.Circuit) -> rc.Circuit:
        return self._layer_norm(read, "final", str(logits))

    def _normed(self, head: Node, read: rc.Circuit) -> rc.Circuit:
        return self._layer_norm(read, f"a{head.layer}", f"a{head.layer}.normed@{head.position}")

    def _neuron(self, node: Node, read: rc.Circuit) -> rc.Circuit:
        """What one neuron writes (D,): its activation times its output weights, from the stream that its MLP reads."""
        prefix = f"m{node.layer}"
        normed = self._layer_norm(read, prefix, f"{node}.normed")
        weight = rc.Index(self._weight(f"{prefix}.w.proj_in"), [node.index], name=f"{node}.w.in")
        bias = rc.Index(self._weight(f"{prefix}.w.in_bias"), [node.index], name=f"{node}.w.in_bias")
        before = rc.Add(einsum("d,d->", normed, weight, name=f"{node}.weighted"), bias, name=f"{node}.before")
        activation = (rc.gelu if self.architecture.activation == "gelu" else rc.gelu_new)(before)
        out = rc.Index(self._weight(f"{prefix}.w.proj_out"), [slice(None), node.index], name=f"{node}.w.out")
        return einsum(",d->d", activation, out, name=str(node))

    def heads_write(self, layer: int, heads: list[int]) -> rc.Circuit:
        """What h heads of a layer write (h, D), from the symbol `z` (h, d_head), their attention-weighted values."""
        weight = rc.Array(self._weights[f"a{layer}.w.o_arr"].value[heads], f"a{layer}.w.o.of_heads")
        return einsum("hc,hdc->hd", self._z(len(heads)), weight, name=f"a{layer}.writes")

    def head_directions(self, head: Node) -> torch.Tensor:
        """The directions along which a head writes, (d_head, D)."""
        weights: torch.Tensor = self._weights[f"a{head.layer}.w.o_arr"].value
        return weights[head.index].T

    def _of_head(self, name: str, head: int) -> rc.Circuit:
        return rc.Index(self._weight(name), [head], name=f"{name}.h{head}")

    def _score_scale(self) -> rc.Circuit:
        return rc.Scalar(1 / math.sqrt(self.architecture.d_head), name="score_scale")

    def _ones(self, *shape: int) -> rc.Circuit:
        return rc.Scalar(1.0, shape=shape, name="ones")

    def _layer_norm(self, read: rc.Circuit, prefix: str, name: str) -> rc.Circuit:
        bias, scale = self._weight(f"{prefix}.ln.w.bias"), self._weight(f"{prefix}.ln.w.scale")
        bound = {"ln.input": read, "ln.w.bias": bias, "ln.w.scale": scale}
        return rc.substitute_all_modules(rc.Module(layernorm.spec, name, **bound))

    def _mlp(self, mlp: Node, read: rc.Circuit) -> rc.Circuit:
        return self._mlp_reading(read, mlp.layer, str(mlp))

    def _mlp_reading(self, read: rc.Circuit, layer: int, name: str) -> rc.Circuit:
        weights = {f"m.w.{part}": self._weight(f"m{layer}.w.{part}") for part in ("proj_in", "in_bias", "proj_out")}
        weights |= {"m.w.out_bias": self._weight(f"m{layer}.w.out_bias")}
        spec = get_pointwise_mlp(self.architecture.activation, output_bias=True).spec
        normed = self._layer_norm(read, f"m{layer}", f"{name}.normed")
        return rc.substitute_all_modules(rc.Module(spec, name, **{"m.input": normed}, **weights))

    def mlp_layer(self, layer: int) -> rc.Circuit:
        """The residual stream after MLP `layer` at any position, (D,), from the symbol `m{layer}.in`."""
        read = self._any_position(f"m{layer}.in")
        return rc.Add(read, self._mlp_reading(read, layer, f"m{layer}"), name=f"m{layer}.out")

    def head_inputs(self, layer: int) -> dict[str, rc.Circuit]:
        """Queries, keys and values (H, d_head) of a layer's heads at any position, from the symbol `a{layer}.in`."""
        name = f"a{layer}"
        normed = self._layer_norm(self._any_position(f"{name}.in"), name, f"{name}.normed")

        def projected(via: Via) -> rc.Circuit:
            weight, bias = self._weight(f"{name}.w.{via}"), self._weight(f"{name}.w.{via}_bias")
            without_bias = einsum("d,hcd->hc", normed, weight, name=f"{name}.{via}.without_bias")
            return rc.Add(without_bias, bias, name=f"{name}.{via}")

        return {via: projected(via) for via in INPUTS["head"]}

    def attention(self, n_positions: int) -> Attention:
        """Attention of any layer's heads at all positions, from the symbols `q`, `k` and `v` (T, H, d_head)."""
        shape = (n_positions, self.architecture.n_heads, self.architecture.d_head)
        q, k, v = (rc.Symbol.new_with_random_uuid(shape, via) for via in INPUTS["head"])
        raw_scores = einsum("qhc,khc,->hqk", q, k, self._score_scale(), name="raw_scores")
        later = torch.full((n_positions, n_positions), -torch.inf, device=self.device).triu(1)
        pattern = rc.softmax(rc.Add(raw_scores, rc.Array(later, "causal_mask"), name="scores"), name="pattern")
        return Attention(einsum("hqk,khc->qhc", pattern, v, name="z"), pattern)

    def attention_layer(self, layer: int) -> rc.Circuit:
        """The residual stream after a layer's heads at any position, (D,), from the symbols `a{layer}.in` and `z`."""
        name, read, z = f"a{layer}", self._any_position(f"a{layer}.in"), self._z(self.architecture.n_heads)
        write = einsum("hc,hdc->d", z, self._weight(f"{name}.w.o"), name=f"{name}.write")
        return rc.Add(read, write, self._weight(f"{name}.w.o_bias"), name=f"{name}.out")

    def _any_position(self, stream: str) -> rc.Circuit:
        """A residual stream at a position that does not matter, (D,)."""
        return rc.Symbol.new_with_random_uuid((self.architecture.d_model,), stream)

    def _z(self, n_heads: int) -> rc.Circuit:
        """The attention-weighted values of some heads of a layer, (n_heads, d_head)."""
        return rc.Symbol.new_with_random_uuid((n_heads, self.architecture.d_head), "z")
