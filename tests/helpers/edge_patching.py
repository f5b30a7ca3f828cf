"""Edge patching in a graph, slow and obvious, in float64: what a list of edges achieves alone, node by node.

Every node has a residual input of its own, a head one each for its queries, keys and values: the sum of what all
earlier nodes write, as it is with the circuit if the edge from there is in the list, and as it is on corrupted data if
not. Nothing is known of paths here. Names are those of EAP-IG's edges; tensors are (N, T, D).
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch.nn.functional import gelu

from path_patching.engine import Sentences
from path_patching.gpt2.model import LAYER_NORM_EPSILON, Architecture, Model

Writes = dict[str, torch.Tensor]


def all_edges(sizes: Architecture) -> list[str]:
    """Every edge of a model's graph: of 12 layers of 12 heads 32,491."""
    edges, earlier = [], ["input"]
    for layer in range(sizes.n_layers):
        heads = [f"a{layer}.h{head}" for head in range(sizes.n_heads)]
        edges += [f"{sender}->{head}<{letter}>" for head in heads for letter in "qkv" for sender in earlier]
        earlier += heads
        edges += [f"{sender}->m{layer}" for sender in earlier]
        earlier.append(f"m{layer}")
    return edges + [f"{sender}->logits" for sender in earlier]


def edges_alone(model: Model, sentences: Sentences, edges: Collection[str]) -> torch.Tensor:
    """Answer probabilities at END, (N, A), with these edges on clean data and all others on corrupted."""
    weights = {name.removesuffix("_arr"): tensor.double() for name, tensor in model.tensors.items()}
    everything = frozenset(all_edges(model.architecture))
    assert set(edges) <= everything
    corrupted = _forward(model, weights, sentences.corrupted, everything, {})
    logits = _forward(model, weights, sentences.clean, frozenset(edges), corrupted)["logits"][:, -1]
    return logits.softmax(-1)[:, sentences.answers]


def _forward(model: Model, weights: Writes, tokens: torch.Tensor, edges: frozenset[str], elsewhere: Writes) -> Writes:
    """What each node writes, given what it writes `elsewhere`: that is what a reader gets without an edge."""
    sizes = model.architecture
    writes = {"input": weights["t.w.tok_embeds"][tokens] + weights["t.w.pos_embeds"][: tokens.shape[1]]}

    def read(reader: str, norm: str, attentions: int) -> torch.Tensor:
        got = [own if f"{name}->{reader}" in edges else elsewhere[name] for name, own in writes.items()]
        stream = torch.stack(got).sum(0) + sum(weights[f"a{layer}.w.o_bias"] for layer in range(attentions))
        centred = stream - stream.mean(-1, keepdim=True)
        normal = centred / (centred.pow(2).mean(-1, keepdim=True) + LAYER_NORM_EPSILON).sqrt()
        return normal * weights[f"{norm}.ln.w.scale"] + weights[f"{norm}.ln.w.bias"]

    for layer in range(sizes.n_layers):
        name, written = f"a{layer}", {}
        for head in range(sizes.n_heads):
            q, k, v = (
                read(f"{name}.h{head}<{letter}>", name, layer) @ weights[f"{name}.w.{letter}"][head].T
                + weights[f"{name}.w.{letter}_bias"][head]
                for letter in "qkv"
            )
            later = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).triu(1)
            scores = (q @ k.mT / sizes.d_head**0.5).masked_fill(later, -torch.inf)
            written[f"{name}.h{head}"] = scores.softmax(-1) @ v @ weights[f"{name}.w.o"][head].T
        writes |= written  # after all have read
        name = f"m{layer}"
        neurons = read(name, name, layer + 1) @ weights[f"{name}.w.proj_in"].T + weights[f"{name}.w.in_bias"]
        approximate = "tanh" if sizes.activation == "gelu_new" else "none"
        out = gelu(neurons, approximate=approximate) @ weights[f"{name}.w.proj_out"].T
        writes[name] = out + weights[f"{name}.w.out_bias"]
    return writes | {"logits": read("logits", "final", sizes.n_layers) @ weights["t.w.unembed"].T}
