"""The logit lens: what a component's output says of the next token by itself (section 3.3)."""

from __future__ import annotations

import torch

from gpt2 import LAYER_NORM_EPSILON, Model


def logit_lens(writes: torch.Tensor, model: Model, tokens: torch.Tensor) -> torch.Tensor:
    """Writes (..., D) through the final LayerNorm and the unembedding, at `tokens` (A,): logits (..., A) float64."""
    weights = {name: model.tensors[name].double() for name in ("final.ln.w.scale_arr", "final.ln.w.bias_arr")}
    unembedding = model.tensors["t.w.unembed_arr"][tokens].double()
    normed = torch.nn.functional.layer_norm(
        writes.double(),
        (model.architecture.d_model,),
        weights["final.ln.w.scale_arr"],
        weights["final.ln.w.bias_arr"],
        LAYER_NORM_EPSILON,
    )
    return normed @ unembedding.T


def later_above_others(year_logits: torch.Tensor, years_yy: torch.Tensor) -> torch.Tensor:
    """Mean logit of the years above YY minus that of the others, (N, 100) and (N,) with YY < 99 to (N,), in nats."""
    later = torch.arange(100) > years_yy[:, None]  # (N, 100)
    return (year_logits * later).sum(1) / later.sum(1) - (year_logits * ~later).sum(1) / (~later).sum(1)
