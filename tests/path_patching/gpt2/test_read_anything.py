"""Whatever stands in a config or in a weight index: it is read right, or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from path_patching.gpt2.checkpoint import read_checkpoint, read_config
from path_patching.gpt2.model import Model, end_logits, to_transformers
from tests.helpers.checkpoints import SMALL, save_checkpoint
from tests.helpers.plain_gpt2 import logits
from tests.helpers.refusals import unless_refused

anything = settings(
    max_examples=120,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)

# Chosen from a list, which costs little: what matters is where they stand.
NUMBERS = (-1, 0, 1, 3, 10**8, 10**30, 10**400, 0.5, 12.0, 1e-5, float("nan"), float("inf"))
WORDS = ("", "12", "gelu", "\n", "\ud800", "wörd " * 100, "null")
HOLDERS = ([], [2], ["gelu", ["gpt2"]], {}, {"a": [None]}, [[[[[[[[[[1]]]]]]]]]])
ODD = st.sampled_from((None, True, False, *NUMBERS, *WORDS, *HOLDERS))
NESTED = st.sampled_from((None, None, "[" * 90 + "]" * 90, "[" * 2000 + "]" * 2000, '{"a":' * 5000 + "1" + "}" * 5000))

SIZES = {
    "n_layer": (1, 2, 3),
    "n_head": (2, 3, 4, 6),
    "n_embd": (12, 13, 24),
    "n_positions": (8, 9),
    "vocab_size": (20, 21),
    "n_inner": (None, 48, 20),
    "num_hidden_layers": (2, 3),
    "num_attention_heads": (2, 3, 4),
    "hidden_size": (12, 24),
    "max_position_embeddings": (9, 10),
}
CHOICES = {
    "activation_function": ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu"),
    "layer_norm_epsilon": (1e-5, 1e-6),
    "tie_word_embeddings": (True, False),
    "scale_attn_weights": (True, False),
    "scale_attn_by_inverse_layer_idx": (False, True),
    "reorder_and_upcast_attn": (False, True),
    "add_cross_attention": (False, True),
    "model_type": ("gpt2", "llama"),
    "return_dict": (False, True),
    "use_cache": (False, True),
    "attn_implementation": ("eager", "flash_attention_2"),
    "resid_pdrop": (0.1, 0.9),
    "": ("of no meaning",),
}
BASE = {"model_type": "gpt2", **SMALL}
FIELDS = {**SIZES, **CHOICES}
CHANGES = st.dictionaries(st.sampled_from(sorted(FIELDS)), st.tuples(st.integers(0, 3), ODD), max_size=3)


def changed(field: str, choice: int, odd: object) -> object:
    """One of the values that a field may have, or an odd one."""
    return odd if choice == 0 else FIELDS[field][choice % len(FIELDS[field])]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("config") / "model")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in two files, with an index."""
    folder = save_checkpoint(tmp_path_factory.mktemp("index") / "model")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for file in PART_FILES:
        save_file({name: tensor for name, tensor in state.items() if part_of(name) == file}, folder / file)
    (folder / "whole.json").write_text(json.dumps({name: part_of(name) for name in state}))
    return folder


PART_FILES = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def part_of(name: str) -> str:
    return PART_FILES["h.1." in name]


def nested_in(document: object, text: str) -> str:
    """A document with more JSON in the place of its last value."""
    return json.dumps(document)[:-1] + f', "nested": {text}}}'


@anything
@given(changes=CHANGES, left_out=st.sampled_from((None, *SMALL)), nested=NESTED)
def test_a_config_is_read_as_transformers_reads_it_or_refused_in_one_line(checkpoint, changes, left_out, nested):
    changes = {field: changed(field, *to) for field, to in changes.items()}
    config = {field: value for field, value in (BASE | changes).items() if field != left_out}
    (checkpoint / "config.json").write_text(nested_in(config, nested) if nested else json.dumps(config))
    model = unless_refused(lambda: model_of(checkpoint))
    if model is None:
        return
    twin = unless_refused(lambda: to_transformers(model))
    if twin is not None:
        tokens = torch.arange(8)[None]
        assert (end_logits(twin, tokens).double() - logits(model, tokens)[:, -1]).abs().max() < 1e-4


def model_of(folder: Path) -> Model:
    return Model("anything", *read_checkpoint(folder), "not cached", read_config(folder))


NAMES = st.sampled_from(
    (
        *PART_FILES,
        *("config.json", "../model/" + PART_FILES[0], "/etc/passwd", "", ".", "..", "a" * 300 + ".safetensors"),
        *("model\0.safetensors", "model\n.safetensors", "\ud800.safetensors", "nowhere.safetensors"),
    )
)


@anything
@given(
    changes=st.dictionaries(st.integers(0, 27), NAMES | ODD, max_size=3),
    weight_map=st.tuples(st.booleans(), ODD),
    nested=NESTED,
    cut=st.integers(-40, 40),
)
def test_an_index_gives_the_whole_checkpoint_or_is_refused_in_one_line(parts, changes, weight_map, nested, cut):
    whole = json.loads((parts / "whole.json").read_text())
    whole |= {list(whole)[at]: name for at, name in changes.items()}
    index = {"weight_map": weight_map[1] if weight_map[0] else whole}
    text = nested_in(index, nested) if nested else json.dumps(index)
    (parts / "model.safetensors.index.json").write_text(text[:-cut] if cut > 0 else text)
    read = unless_refused(lambda: read_checkpoint(parts))
    if read is not None:
        state = {name: tensor for file in PART_FILES for name, tensor in load_file(parts / file).items()}
        assert torch.equal(read[1]["t.w.tok_embeds"], state["transformer.wte.weight"])
        assert torch.equal(read[1]["m1.w.out_bias_arr"], state["transformer.h.1.mlp.c_proj.bias"])
