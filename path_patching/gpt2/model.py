"""A GPT-2 model: its sizes, and the names, shapes and values of its tensors.

Tensor names and layouts are those of the circuit published with the paper (`data/gpt2_tensors.json` has their hashes).
So one table serves the tensor cache, the circuit and the engines.

    >>> sizes = Architecture(n_layers=2, n_heads=3, d_model=12, d_head=4, d_mlp=48, n_positions=16, vocab_size=200)
    >>> tiny = random_model(sizes)  # `load_model` gives real ones
    >>> tiny.tensors["a1.w.q_arr"].shape  # heads, d_head, d_model
    torch.Size([3, 4, 12])
    >>> end_logits(to_transformers(tiny), torch.tensor([[5, 6, 7]])).shape  # as `transformers` computes them, (N, V)
    torch.Size([1, 200])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from path_patching.errors import UserError, in_one_line
from path_patching.precision import full_precision

if TYPE_CHECKING:
    from transformers import GPT2Config, GPT2LMHeadModel

Activation = Literal["gelu_new", "gelu"]

LAYER_NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class Architecture:
    """Sizes of a GPT-2. `gelu_new` is the tanh approximation GPT-2 was trained with, `gelu` the exact (erf) one."""

    n_layers: int
    n_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    n_positions: int
    vocab_size: int
    activation: Activation = "gelu_new"

    @property
    def n_nodes(self) -> int:
        """How many heads and MLPs it has."""
        return self.n_layers * (self.n_heads + 1)

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor, in the order of the published table (197 for GPT-2 small)."""
        vector = (self.d_model,)
        heads = (self.n_heads, self.d_head, self.d_model)
        head_bias = (self.n_heads, self.d_head)
        shapes: dict[str, tuple[int, ...]] = {
            "t.w.tok_embeds": (self.vocab_size, self.d_model),
            "t.w.pos_embeds": (self.n_positions, self.d_model),
        }
        for layer in range(self.n_layers):
            attention = {"ln.w.bias": vector, "ln.w.scale": vector, "w.q": heads, "w.k": heads, "w.v": heads}
            attention |= {"w.o": (self.n_heads, self.d_model, self.d_head)}
            attention |= {"w.q_bias": head_bias, "w.k_bias": head_bias, "w.v_bias": head_bias, "w.o_bias": vector}
            mlp = {"ln.w.bias": vector, "ln.w.scale": vector, "w.proj_in": (self.d_mlp, self.d_model)}
            mlp |= {"w.in_bias": (self.d_mlp,), "w.proj_out": (self.d_model, self.d_mlp), "w.out_bias": vector}
            shapes |= {f"a{layer}.{name}_arr": shape for name, shape in attention.items()}
            shapes |= {f"m{layer}.{name}_arr": shape for name, shape in mlp.items()}
        return shapes | {
            "final.ln.w.bias_arr": vector,
            "final.ln.w.scale_arr": vector,
            "t.w.unembed_arr": (self.vocab_size, self.d_model),
        }


GPT2_SMALL = Architecture(
    n_layers=12, n_heads=12, d_model=768, d_head=64, d_mlp=3072, n_positions=1024, vocab_size=50257
)


@dataclass(frozen=True, eq=False)
class Model:
    """A model ready for an engine.

    `name` is used in titles and artifacts ("GPT-2 small", "stand-in", a folder's name). `tensors` are float32 on the
    CPU, under the names of `Architecture.tensor_shapes`. `fingerprint` is a hash over all of them and the activation.
    `config` is the content of a checkpoint's `config.json`, which `transformers` reads for itself; None without one.
    """

    name: str
    architecture: Architecture
    tensors: Mapping[str, torch.Tensor]
    fingerprint: str
    config: Mapping[str, object] | None = None

    def with_activation(self, activation: Activation) -> Model:
        """The same weights read with another activation (the published circuit description names the erf GELU)."""
        return replace(
            self,
            architecture=replace(self.architecture, activation=activation),
            fingerprint=f"{self.fingerprint.split('+')[0]}+{activation}",
            config=self.config and {**self.config, "activation_function": activation},
        )


def random_model(architecture: Architecture, std: float = 0.2, seed: int = 0) -> Model:
    """A model with random weights: normal with standard deviation `std`, LayerNorm scales around one.

    For tests and benchmarks: at 0.2 the effects of single nodes lie far above rounding.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.randn(shape, generator=generator) * std + (1.0 if "ln.w.scale" in name else 0.0)
        for name, shape in architecture.tensor_shapes().items()
    }
    tensors["t.w.unembed_arr"] = tensors["t.w.tok_embeds"]
    return Model(f"random (seed {seed})", architecture, tensors, f"random-{std}-{seed}-{architecture}")


def to_transformers(model: Model) -> GPT2LMHeadModel:
    """A `GPT2LMHeadModel` in evaluation mode with the model's tensors, float32 on the CPU.

    It is built from the checkpoint's own config if there is one. So if we read a config differently from
    `transformers`, comparing an engine with this model shows it. Raises `UserError` if `transformers` refuses it.
    """
    from transformers import GPT2LMHeadModel  # imported here: it takes longer than all of PyTorch

    try:
        with torch.device("meta"):
            hf_model = GPT2LMHeadModel(_transformers_config(model))
        hf_model.load_state_dict(_state_dict(model), strict=True, assign=True)
    except Exception as error:  # it has many ways to refuse a config
        if model.config is None:
            raise
        raise UserError(f"transformers cannot build {model.name} ({in_one_line(error)}); mend its config") from error
    hf_model.eval()
    return hf_model


def _transformers_config(model: Model) -> GPT2Config:
    """Sizes and activation from the checkpoint's config if there is one, else from the architecture."""
    from transformers import GPT2Config

    architecture = model.architecture
    given: Mapping[str, Any] = {
        "n_layer": architecture.n_layers,
        "n_head": architecture.n_heads,
        "n_embd": architecture.d_model,
        "n_inner": architecture.d_mlp,
        "n_positions": architecture.n_positions,
        "vocab_size": architecture.vocab_size,
        "activation_function": architecture.activation,
        "layer_norm_epsilon": LAYER_NORM_EPSILON,
    }
    if model.config is not None:  # only GPT-2's own fields say how to compute
        own = {*GPT2Config.__annotations__, *GPT2Config.attribute_map}
        given = {field: value for field, value in model.config.items() if field in own}
    alone: Mapping[str, Any] = {
        # Else a saved model would lack its unembedding: a tensor with two names is written once.
        "tie_word_embeddings": model.tensors["t.w.unembed_arr"] is model.tensors["t.w.tok_embeds"],
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    return GPT2Config(**{**given, **alone})


@full_precision()
def end_logits(hf_model: GPT2LMHeadModel, tokens: torch.Tensor) -> torch.Tensor:
    """Logits (N, V) float32 at the last position of tokens (N, T)."""
    with torch.inference_mode():
        logits: torch.Tensor = hf_model(tokens, logits_to_keep=1).logits
        return logits[:, -1]


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
