"""A model as `transformers` knows it: the other implementation that ours is checked against."""

from __future__ import annotations

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2 import LAYER_NORM_EPSILON, Model


def to_transformers(model: Model) -> GPT2LMHeadModel:
    """A `GPT2LMHeadModel` in evaluation mode with the model's tensors, activation and sizes, float32 on the CPU."""
    architecture = model.architecture
    config = GPT2Config(
        n_layer=architecture.n_layers,
        n_head=architecture.n_heads,
        n_embd=architecture.d_model,
        n_inner=architecture.d_mlp,
        n_positions=architecture.n_positions,
        vocab_size=architecture.vocab_size,
        activation_function=architecture.activation,
        layer_norm_epsilon=LAYER_NORM_EPSILON,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.device("meta"):
        hf_model = GPT2LMHeadModel(config)
    hf_model.load_state_dict(_state_dict(model), strict=True, assign=True)
    return hf_model.eval()


def end_logits(hf_model: GPT2LMHeadModel, tokens: torch.Tensor) -> torch.Tensor:
    """Logits (N, V) float32 at the last position of tokens (N, T)."""
    with torch.inference_mode():
        return hf_model(tokens, logits_to_keep=1).logits[:, -1]


def _state_dict(model: Model) -> dict[str, torch.Tensor]:
    """The model's tensors under Hugging Face's names and in its layouts; the inverse of `checkpoint.named_tensors`."""
    tensors, d_model = model.tensors, model.architecture.d_model
    state = {
        "transformer.wte.weight": tensors["t.w.tok_embeds"],
        "transformer.wpe.weight": tensors["t.w.pos_embeds"],
        "transformer.ln_f.weight": tensors["final.ln.w.scale_arr"],
        "transformer.ln_f.bias": tensors["final.ln.w.bias_arr"],
        "lm_head.weight": tensors["t.w.unembed_arr"],
    }
    for layer in range(model.architecture.n_layers):
        qkv = [tensors[f"a{layer}.w.{via}_arr"].reshape(-1, d_model).T for via in "qkv"]  # each (D, H·d_head)
        qkv_bias = [tensors[f"a{layer}.w.{via}_bias_arr"].flatten() for via in "qkv"]
        out = tensors[f"a{layer}.w.o_arr"].permute(0, 2, 1).reshape(-1, d_model)  # (H·d_head, D)
        block = {
            "ln_1.weight": tensors[f"a{layer}.ln.w.scale_arr"],
            "ln_1.bias": tensors[f"a{layer}.ln.w.bias_arr"],
            "attn.c_attn.weight": torch.cat(qkv, dim=1),
            "attn.c_attn.bias": torch.cat(qkv_bias),
            "attn.c_proj.weight": out,
            "attn.c_proj.bias": tensors[f"a{layer}.w.o_bias_arr"],
            "ln_2.weight": tensors[f"m{layer}.ln.w.scale_arr"],
            "ln_2.bias": tensors[f"m{layer}.ln.w.bias_arr"],
            "mlp.c_fc.weight": tensors[f"m{layer}.w.proj_in_arr"].T,
            "mlp.c_fc.bias": tensors[f"m{layer}.w.in_bias_arr"],
            "mlp.c_proj.weight": tensors[f"m{layer}.w.proj_out_arr"].T,
            "mlp.c_proj.bias": tensors[f"m{layer}.w.out_bias_arr"],
        }
        state |= {f"transformer.h.{layer}.{name}": tensor.contiguous() for name, tensor in block.items()}
    return state
