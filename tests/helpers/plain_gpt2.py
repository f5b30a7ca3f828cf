"""GPT-2's forward pass written out in float64 from the named tensors: slow, obvious, and independent of any engine."""

from __future__ import annotations

import torch

from path_patching.gpt2.model import LAYER_NORM_EPSILON, Model


def logits(model: Model, tokens: torch.Tensor) -> torch.Tensor:
    """Logits (N, T, V), float64, of `tokens` (N, T), int64; every position sees itself and those before it."""
    w = {name: tensor.double() for name, tensor in model.tensors.items()}
    positions = tokens.shape[1]
    residual = w["t.w.tok_embeds"][tokens] + w["t.w.pos_embeds"][:positions]  # (N, T, D)
    for layer in range(model.architecture.n_layers):
        residual = residual + attention(w, f"a{layer}", layer_norm(w, f"a{layer}", residual))
        residual = residual + mlp(w, f"m{layer}", layer_norm(w, f"m{layer}", residual), model.architecture.activation)
    return layer_norm(w, "final", residual) @ w["t.w.unembed_arr"].T


def layer_norm(w: dict[str, torch.Tensor], reader: str, residual: torch.Tensor) -> torch.Tensor:
    """The reader's own LayerNorm of the residual stream: (N, T, D) -> (N, T, D)."""
    centred = residual - residual.mean(-1, keepdim=True)
    deviation = (centred.square().mean(-1, keepdim=True) + LAYER_NORM_EPSILON).sqrt()
    return centred / deviation * w[f"{reader}.ln.w.scale_arr"] + w[f"{reader}.ln.w.bias_arr"]


def attention(w: dict[str, torch.Tensor], name: str, normed: torch.Tensor) -> torch.Tensor:
    """What the heads of a layer write together, with the output bias: (N, T, D) -> (N, T, D)."""
    query, key, value = (
        torch.einsum("ntd,hcd->nhtc", normed, w[f"{name}.w.{part}_arr"]) + w[f"{name}.w.{part}_bias_arr"][:, None, :]
        for part in "qkv"
    )  # each (N, heads, T, d_head)
    scores = query @ key.mT / query.shape[-1] ** 0.5  # (N, heads, T queries, T keys)
    positions = normed.shape[1]
    ahead = torch.ones(positions, positions, dtype=torch.bool).triu(1)
    pattern = scores.masked_fill(ahead, -torch.inf).softmax(-1)
    return torch.einsum("nhtc,hdc->ntd", pattern @ value, w[f"{name}.w.o_arr"]) + w[f"{name}.w.o_bias_arr"]


def mlp(w: dict[str, torch.Tensor], name: str, normed: torch.Tensor, activation: str) -> torch.Tensor:
    """What an MLP writes: (N, T, D) -> (N, T, D)."""
    before = normed @ w[f"{name}.w.proj_in_arr"].T + w[f"{name}.w.in_bias_arr"]
    return ACTIVATIONS[activation](before) @ w[f"{name}.w.proj_out_arr"].T + w[f"{name}.w.out_bias_arr"]


def gelu_new(x: torch.Tensor) -> torch.Tensor:
    """The tanh approximation that GPT-2 was trained with."""
    return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


def gelu(x: torch.Tensor) -> torch.Tensor:
    """The exact GELU, x times the normal distribution function at x."""
    return 0.5 * x * (1 + torch.erf(x / 2**0.5))


ACTIVATIONS = {"gelu_new": gelu_new, "gelu": gelu}
