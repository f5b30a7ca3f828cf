"""A Hugging Face GPT-2 checkpoint, read as the named tensors of the published circuit (their shapes: `model.py`).

Any size of the GPT-2 architecture can be read. A checkpoint that needs more than GPT-2's own forward pass is an error
that names what is not supported.

    >>> architecture, tensors = read_checkpoint(checkpoint)  # a folder with config.json and model.safetensors
    >>> architecture.n_layers, architecture.n_heads, len(tensors)
    (12, 12, 197)
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from reprlib import repr as shown  # shortened: a config may say anything

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from path_patching.errors import UserError, first_line
from path_patching.files import parse_json, reading
from path_patching.gpt2.model import LAYER_NORM_EPSILON, Activation, Architecture
from path_patching.gpt2.names import A_MODEL

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"  # names the files of a checkpoint that is cut into several

# Names that Hugging Face gives to the same two functions.
ACTIVATIONS: Mapping[str, Activation] = {"gelu_new": "gelu_new", "gelu_pytorch_tanh": "gelu_new", "gelu": "gelu"}

# GPT-2's own values, for fields that a config leaves out. (`reorder_and_upcast_attn` may have either value: it only
# asks for attention scores in float32, as here.)
SIZES = {"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024, "vocab_size": 50257}
ALIASES = {  # names that `transformers` takes for the same fields
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
}
# Far more than any GPT-2 has, but few enough layers to list the names of all tensors.
MOST = {**dict.fromkeys((*SIZES, "n_inner"), 10**7), "n_layer": 1000}
FIXED = {
    "layer_norm_epsilon": LAYER_NORM_EPSILON,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}

FLOATS = (torch.float32, torch.float16, torch.bfloat16)  # float32 holds each of these exactly
BUFFERS = (".attn.bias", ".attn.masked_bias")  # causal masks, which old checkpoints carry along
NAMES_IN_A_MESSAGE = 10
PART = re.compile(r"[\w.-]{1,200}\.safetensors", re.ASCII)  # a file beside the index that names it
A_CHECKPOINT = f"a checkpoint is a folder with {CONFIG} and {WEIGHTS}"
GET_AGAIN = "mend that, or get it again"


def read_checkpoint(folder: Path) -> tuple[Architecture, dict[str, torch.Tensor]]:
    """The architecture and the named tensors, float32 and contiguous, of a checkpoint.

    `folder` holds `config.json` and `model.safetensors`, or the parts that `model.safetensors.index.json` names.
    Raises `UserError` if a file is missing or damaged, or if this is not a GPT-2; it names what is unsupported.
    """
    _, *weight_files = source_files(folder)
    architecture, config = read_architecture(folder), read_config(folder)
    state = _state_dict(weight_files)
    if config.get("tie_word_embeddings", True) and "wte.weight" in state:
        state.setdefault("lm_head.weight", state["wte.weight"])
    _check_tensors(state, architecture, folder)
    return architecture, named_tensors(state, architecture)


def source_files(folder: Path) -> list[Path]:
    """The files that a checkpoint consists of, `config.json` first. Raises `UserError` if one is missing."""
    if not os.path.isdir(folder):  # pathlib's own raises for names that are too long
        raise UserError(f"{folder} is not a folder; give {A_MODEL}")
    files = [folder / CONFIG, *_weight_files(folder)]
    for path in files:
        with reading(path, A_CHECKPOINT):
            pass
    return files


def read_architecture(folder: Path) -> Architecture:
    """The sizes that a checkpoint's config gives. Raises `UserError` if it is damaged, or that of no GPT-2."""
    return _architecture(read_config(folder), folder / CONFIG)


def read_config(folder: Path) -> dict[str, object]:
    """What a checkpoint's `config.json` says. Raises `UserError` if it cannot be read or is damaged."""
    return _read_json(folder / CONFIG)


def named_tensors(state: Mapping[str, torch.Tensor], architecture: Architecture) -> dict[str, torch.Tensor]:
    """All tensors of a state dict (names without `transformer.`) under their names in the circuit."""
    tensors = {"t.w.tok_embeds": state["wte.weight"], "t.w.pos_embeds": state["wpe.weight"]}
    for layer in range(architecture.n_layers):
        tensors |= layer_tensors(state, layer, architecture)
    tensors |= {
        "final.ln.w.bias_arr": state["ln_f.bias"],
        "final.ln.w.scale_arr": state["ln_f.weight"],
        "t.w.unembed_arr": state["lm_head.weight"],
    }
    return {name: _stored_alone(tensor) for name, tensor in tensors.items()}


def layer_tensors(state: Mapping[str, torch.Tensor], layer: int, architecture: Architecture) -> dict[str, torch.Tensor]:
    """The sixteen tensors of a layer, as views. Hugging Face multiplies from the right: its weights are (in, out)."""
    block = f"h.{layer}"
    heads, d_head, d_model = architecture.n_heads, architecture.d_head, architecture.d_model
    qkv = state[f"{block}.attn.c_attn.weight"].reshape(d_model, 3, heads, d_head)  # (D, 3D), columns q | k | v
    q, k, v = qkv.permute(1, 2, 3, 0)  # each (heads, d_head, D)
    q_bias, k_bias, v_bias = state[f"{block}.attn.c_attn.bias"].reshape(3, heads, d_head)
    out = state[f"{block}.attn.c_proj.weight"].reshape(heads, d_head, d_model)
    attention = {
        "ln.w.bias": state[f"{block}.ln_1.bias"],
        "ln.w.scale": state[f"{block}.ln_1.weight"],
        "w.q": q,
        "w.k": k,
        "w.v": v,
        "w.o": out.permute(0, 2, 1),  # (heads, D, d_head)
        "w.q_bias": q_bias,
        "w.k_bias": k_bias,
        "w.v_bias": v_bias,
        "w.o_bias": state[f"{block}.attn.c_proj.bias"],
    }
    mlp = {
        "ln.w.bias": state[f"{block}.ln_2.bias"],
        "ln.w.scale": state[f"{block}.ln_2.weight"],
        "w.proj_in": state[f"{block}.mlp.c_fc.weight"].T,  # (d_mlp, D)
        "w.in_bias": state[f"{block}.mlp.c_fc.bias"],
        "w.proj_out": state[f"{block}.mlp.c_proj.weight"].T,  # (D, d_mlp)
        "w.out_bias": state[f"{block}.mlp.c_proj.bias"],
    }
    named = {f"a{layer}.{name}_arr": tensor for name, tensor in attention.items()}
    return named | {f"m{layer}.{name}_arr": tensor for name, tensor in mlp.items()}


def _stored_alone(tensor: torch.Tensor) -> torch.Tensor:
    """A float32 copy with its own storage: `torch.save` of a view would write all of the storage behind it."""
    return tensor.to(torch.float32).clone(memory_format=torch.contiguous_format)


def _architecture(config: Mapping[str, object], path: Path) -> Architecture:
    if config.get("model_type") != "gpt2":
        raise UserError(f"{path}: model_type {shown(config.get('model_type'))} is not supported, only 'gpt2' is")
    for field, value in FIXED.items():
        if config.get(field, value) != value:
            raise UserError(f"{path}: {field} {shown(config[field])} is not supported, only {value!r} is")
    activation = config.get("activation_function", "gelu_new")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise UserError(
            f"{path}: activation_function {shown(activation)} is not supported, only {', '.join(ACTIVATIONS)} are"
        )
    if not isinstance(tied := config.get("tie_word_embeddings", True), bool):
        raise UserError(f"{path}: tie_word_embeddings {shown(tied)} is not true or false")
    config = _in_own_names(config, path)
    sizes = {field: _size(field, config.get(field, default), path) for field, default in SIZES.items()}
    if config.get("n_inner") is not None:
        sizes["n_inner"] = _size("n_inner", config["n_inner"], path)
    if sizes["n_embd"] % sizes["n_head"]:
        raise UserError(f"{path}: n_embd {sizes['n_embd']} is not divisible by n_head {sizes['n_head']}")
    return Architecture(
        n_layers=sizes["n_layer"],
        n_heads=sizes["n_head"],
        d_model=sizes["n_embd"],
        d_head=sizes["n_embd"] // sizes["n_head"],
        d_mlp=sizes.get("n_inner", 4 * sizes["n_embd"]),
        n_positions=sizes["n_positions"],
        vocab_size=sizes["vocab_size"],
        activation=ACTIVATIONS[activation],
    )


def _in_own_names(config: Mapping[str, object], path: Path) -> Mapping[str, object]:
    """The config with its sizes under GPT-2's own names. Raises `UserError` where two names of one size disagree."""
    given = {field: config[alias] for alias, field in ALIASES.items() if alias in config}
    for alias, field in ALIASES.items():
        if alias in config and config.get(field, config[alias]) != config[alias]:
            said = f"{field} {shown(config[field])} and {alias} {shown(config[alias])}"
            raise UserError(f"{path}: {said} are two names of one size; leave one of them out")
    return {**config, **given}


def _size(field: str, size: object, path: Path) -> int:
    if type(size) is not int or size < 1:
        raise UserError(f"{path}: {field} {shown(size)} is not a positive whole number")
    if size > MOST[field]:
        raise UserError(f"{path}: {field} {shown(size)} is not supported, only up to {MOST[field]}")
    return size


def _state_dict(files: list[Path]) -> dict[str, torch.Tensor]:
    """All tensors of the checkpoint's weight files, `transformer.` taken off their names, without the causal masks.

    Raises `UserError` if a file cannot be read, or a tensor is there twice.
    """
    state: dict[str, torch.Tensor] = {}
    for path in files:
        for name, tensor in _tensors_in(path).items():
            own = name.removeprefix("transformer.")
            if own in state:
                raise UserError(f"{path}: {own} is there twice, under two names or in two files; leave one of them out")
            state[own] = tensor
    return {name: tensor for name, tensor in state.items() if not name.endswith(BUFFERS)}


def _tensors_in(path: Path) -> dict[str, torch.Tensor]:
    with reading(path, GET_AGAIN):
        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path} is damaged ({first_line(error)}); get it again") from error


def _weight_files(folder: Path) -> list[Path]:
    if os.path.lexists(folder / INDEX) and not os.path.lexists(folder / WEIGHTS):
        weight_map = _read_json(folder / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise UserError(f"{folder / INDEX} has no weight_map; get it again")
        for name in weight_map.values():
            if not isinstance(name, str) or not PART.fullmatch(name):
                raise UserError(f"{folder / INDEX}: {shown(name)} is not a part's name; only files beside it are read")
        return [folder / name for name in sorted(set(weight_map.values()))]
    if any(folder.glob("pytorch_model*.bin")) and not os.path.lexists(folder / WEIGHTS):
        raise UserError(
            f"{folder} has its weights in pytorch_model.bin, which is not supported, since it can run code when read; "
            f"load it with transformers and save_pretrained() it as {WEIGHTS}"
        )
    return [folder / WEIGHTS]


def _check_tensors(state: Mapping[str, torch.Tensor], architecture: Architecture, folder: Path) -> None:
    """Raise `UserError` unless `state` has exactly the tensors of this architecture."""
    expected = _state_dict_shapes(architecture)
    common = expected.keys() & state.keys()
    complaints = {
        "missing": expected.keys() - state.keys(),
        "not part of a GPT-2": state.keys() - expected.keys(),
        "not of the shape that the config says": {n for n in common if tuple(state[n].shape) != expected[n]},
        "not float32, float16 or bfloat16": {n for n in common if state[n].dtype not in FLOATS},
        "not finite": {n for n in common if state[n].dtype in FLOATS and not _is_finite(state[n])},
    }
    found = [f"{some_of(names)} {complaint}" for complaint, names in complaints.items() if names]
    if found:
        raise UserError(f"{folder} cannot be read as a GPT-2: {'; '.join(found)}")


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether no number is NaN or infinite. If their sum is finite, all are; the sum is faster, but may overflow."""
    return bool(tensor.sum(dtype=torch.float32).isfinite() or tensor.isfinite().all())


def _state_dict_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Shapes of a GPT-2's Hugging Face tensors, (in, out) for weights."""
    d_model, d_mlp = architecture.d_model, architecture.d_mlp
    shapes: dict[str, tuple[int, ...]] = {
        "wte.weight": (architecture.vocab_size, d_model),
        "wpe.weight": (architecture.n_positions, d_model),
        "lm_head.weight": (architecture.vocab_size, d_model),
    }
    linear = {
        "attn.c_attn": (d_model, 3 * d_model),
        "attn.c_proj": (d_model, d_model),
        "mlp.c_fc": (d_model, d_mlp),
        "mlp.c_proj": (d_mlp, d_model),
    }
    norms = ["ln_f"]
    for layer in range(architecture.n_layers):
        for name, (rows, columns) in linear.items():
            shapes |= {f"h.{layer}.{name}.weight": (rows, columns), f"h.{layer}.{name}.bias": (columns,)}
        norms += [f"h.{layer}.ln_1", f"h.{layer}.ln_2"]
    return shapes | {f"{norm}.{part}": (d_model,) for norm in norms for part in ("weight", "bias")}


def some_of(names: set[str]) -> str:
    """Names for a message, at most ten of them."""
    shown = ", ".join(sorted(names)[:NAMES_IN_A_MESSAGE])
    left = len(names) - NAMES_IN_A_MESSAGE
    return f"{shown} and {left} more" if left > 0 else shown


def _read_json(path: Path) -> dict[str, object]:
    with reading(path, A_CHECKPOINT):
        text = path.read_bytes()
    try:
        content = parse_json(text)
    except ValueError as error:
        raise UserError(f"{path} is damaged ({first_line(error)}); get it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged (not a JSON object); get it again")
    return content
