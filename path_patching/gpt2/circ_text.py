"""The text that names a model's tensors in rust_circuit's tensor cache, in the form published with the paper.

`rust_circuit.module_library.load_transformer_model_string` (0.4.5 to 0.4.8) reads it. It is the text that
`TransformerInfo.dump_model_string` of 0.4.5 writes, but rust_circuit is not needed here. The first line says how the
model is built, as JSON. Each tensor then has a line with its name, shape and the first 24 hex digits of its hash.

    >>> sizes = Architecture(n_layers=1, n_heads=2, d_model=8, d_head=4, d_mlp=16, n_positions=9, vocab_size=20)
    >>> description = Description(sizes, dict.fromkeys(sizes.tensor_shapes(), HASH_DIGITS * "0"))
    >>> from_text(to_text(description)) == description
    True
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args
from uuid import UUID

from path_patching.files import parse_json
from path_patching.gpt2.model import Activation, Architecture

HASH_DIGITS = 24
INFO = "# info:"
EMBEDDINGS = ("t.w.tok_embeds", "t.w.pos_embeds")
ARRAY = re.compile(r"^ *'(?P<name>[\w.]+)' \[(?P<shape>[0-9,]+)\] Array (?P<hash>[0-9a-f]{24})\b", re.MULTILINE)

# A block's weights in rust_circuit's order, and the shapes of their symbols in a block of any size: 0s is the width, 4s
# the number of heads, 5s the MLP's width, 7s the width of queries and keys, 8s that of values.
BLOCK_WEIGHTS = {
    "m{}.w.proj_in": "5s,0s",
    "m{}.w.in_bias": "5s",
    "m{}.w.proj_out": "0s,5s",
    "m{}.w.out_bias": "0s",
    "m{}.ln.w.bias": "0s",
    "m{}.ln.w.scale": "0s",
    "a{}.w.q": "4s,7s,0s",
    "a{}.w.q_bias": "4s,7s",
    "a{}.w.k": "4s,7s,0s",
    "a{}.w.k_bias": "4s,7s",
    "a{}.w.v": "4s,8s,0s",
    "a{}.w.v_bias": "4s,8s",
    "a{}.w.o": "4s,0s,8s",
    "a{}.w.o_bias": "0s",
    "a{}.ln.w.bias": "0s",
    "a{}.ln.w.scale": "0s",
}


@dataclass(frozen=True)
class Description:
    """A model in the tensor cache: its architecture and the hash (24 hex digits) of each named tensor.

    `source` says which files the tensors were converted from; None if only their hashes are known.
    """

    architecture: Architecture
    hashes: Mapping[str, str]
    source: Mapping[str, object] | None = None

    @property
    def config(self) -> Mapping[str, object] | None:
        """What the checkpoint's `config.json` said; None if there was no checkpoint."""
        config = self.source.get("config") if isinstance(self.source, dict) else None
        return config if isinstance(config, dict) else None


def to_text(description: Description) -> str:
    """The description as `.circ` text."""
    architecture = description.architecture
    symbols = {name: symbol for layer in range(architecture.n_layers) for name, symbol in _symbols(layer).items()}
    lines = [INFO + json.dumps(_info(description))]
    lines += [_array(name, description) for name in EMBEDDINGS]
    lines += ["'t.bind_w' Module", "  't.logits'"]
    for name in architecture.tensor_shapes():
        if name not in EMBEDDINGS:
            argument = name.removesuffix("_arr")
            # rust_circuit knows tensors outside the blocks by name alone.
            lines.append(f"  {_array(name, description)} ! '{argument}'{symbols.get(argument, '')}")
    return "\n".join(lines) + "\n"


def from_text(text: str) -> Description:
    """Read `.circ` text back. Raises `ValueError` if it does not describe a GPT-2."""
    first, _, arrays = text.partition("\n")
    matches = [*ARRAY.finditer(arrays)]
    found = {match["name"]: match for match in matches}
    shapes = {name: tuple(int(size) for size in match["shape"].split(",")) for name, match in found.items()}
    try:
        info = parse_json(first.removeprefix(INFO))
        n_heads, d_head, d_model = shapes["a0.w.q_arr"]
        architecture = Architecture(
            n_layers=sum(name.endswith(".w.in_bias_arr") for name in found),
            n_heads=n_heads,
            d_model=d_model,
            d_head=d_head,
            d_mlp=shapes["m0.w.in_bias_arr"][0],
            n_positions=shapes["t.w.pos_embeds"][0],
            vocab_size=shapes["t.w.tok_embeds"][0],
            activation=info["params"]["block_params"]["mlp_act_type"],
        )
        n_layers, source = info["params"]["num_layers"], info["extra"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{error} is not where a GPT-2's description has it") from error
    if len(matches) != len(found):
        raise ValueError("a tensor is there twice")
    if n_layers != architecture.n_layers:
        raise ValueError(f"its tensors are not those of {n_layers} layers")
    if shapes != architecture.tensor_shapes() or architecture.activation not in get_args(Activation):
        raise ValueError("its tensors are not those of a GPT-2")
    return Description(architecture, {name: match["hash"] for name, match in found.items()}, source)


def _info(description: Description) -> dict[str, object]:
    """How rust_circuit builds a GPT-2: LayerNorm before each part and at the end, biases everywhere."""
    block = {
        "norm_type": "ln",
        "attn_bias": True,
        "attn_pos": False,
        "use_mlp": True,
        "mlp_act_type": description.architecture.activation,
        "mlp_output_bias": True,
        "use_parallel_residual": False,
        "use_rope": False,
    }
    params = {
        "block_params": block,
        "num_layers": description.architecture.n_layers,
        "use_norm_output": True,
        "output_bias": False,
    }
    return {
        "params": params,
        "model_class": "GPT",
        "pos_enc_type": "gpt",
        "causal_mask": True,
        "extra": description.source,
    }


def _array(name: str, description: Description) -> str:
    shape = ",".join(map(str, description.architecture.tensor_shapes()[name]))
    return f"'{name}' [{shape}] Array {description.hashes[name]}"


def _symbols(layer: int) -> dict[str, str]:
    """The symbols of a block's weights; rust_circuit draws their UUIDs with the layer's number as seed."""
    draws = random.Random(layer)
    return {
        name.format(layer): f" [{shape}] Symbol {UUID(int=draws.getrandbits(128))}"
        for name, shape in BLOCK_WEIGHTS.items()
    }
