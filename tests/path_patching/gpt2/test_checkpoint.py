from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from path_patching.errors import UserError
from path_patching.files import ROOT
from path_patching.gpt2.checkpoint import ALIASES, layer_tensors, read_checkpoint, source_files
from path_patching.gpt2.model import GPT2_SMALL, Model
from path_patching.gpt2.tensor_cache import hash_tensor, published_description
from tests.helpers.checkpoints import SMALL, edit_config, edit_tensors, save_checkpoint, transformers_logits
from tests.helpers.plain_gpt2 import logits
from tests.helpers.refusals import put_there

PARTIAL = ROOT.parent / "shared" / "gpt2-small-partial" / "model.safetensors"


def read_model(folder: Path) -> Model:
    architecture, tensors = read_checkpoint(folder)
    return Model(folder.name, architecture, tensors, "not cached")


def check_logits(folder: Path) -> Model:
    """The tensors read from `folder`, put through the plain forward pass, give the logits of `transformers`."""
    model = read_model(folder)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.tensors.items()}
    assert shapes == model.architecture.tensor_shapes()
    assert list(shapes) == list(model.architecture.tensor_shapes())
    tokens = torch.randint(model.architecture.vocab_size, (3, model.architecture.n_positions))
    expected = transformers_logits(folder, tokens)
    assert expected.std() > 0.1
    torch.testing.assert_close(logits(model, tokens), expected, rtol=0, atol=1e-9)
    return model


# Layouts


@pytest.mark.skipif(not PARTIAL.is_file(), reason=f"the true tensors are not on this machine: no {PARTIAL}")
def test_true_tensors_of_gpt2_small_have_the_published_hashes():
    state = {name.removeprefix("transformer."): tensor for name, tensor in load_file(PARTIAL).items()}
    tensors = {
        "t.w.pos_embeds": state["wpe.weight"],
        "final.ln.w.bias_arr": state["ln_f.bias"],
        "final.ln.w.scale_arr": state["ln_f.weight"],
    }
    for layer in (0, 9):
        absent = {f"h.{layer}.mlp.{name}.weight": torch.zeros(0, 0) for name in ("c_fc", "c_proj")}
        found = layer_tensors(absent | state, layer, GPT2_SMALL)
        tensors |= {name: tensor for name, tensor in found.items() if tensor.numel()}
    assert len(tensors) == 3 + 2 * 14
    published = published_description().hashes
    assert {name: hash_tensor(tensor)[:24] for name, tensor in tensors.items()} == {n: published[n] for n in tensors}


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"tie_word_embeddings": False},
        {"activation_function": "gelu"},
        {"activation_function": "gelu_pytorch_tanh"},
        {"n_inner": 20},
        {"n_layer": 3, "n_head": 2, "n_embd": 10, "n_positions": 5, "vocab_size": 31},
        {"n_layer": 1, "n_head": 1, "n_embd": 4},
    ],
)
def test_logits_are_those_of_transformers(tmp_path: Path, config: dict[str, object]):
    model = check_logits(save_checkpoint(tmp_path / "model", **config))
    tied = torch.equal(model.tensors["t.w.unembed_arr"], model.tensors["t.w.tok_embeds"])
    assert tied == config.get("tie_word_embeddings", True)


def test_attention_scores_reordered_for_half_precision_are_the_same_function(tmp_path: Path):
    folder = save_checkpoint(tmp_path / "model", reorder_and_upcast_attn=True)
    tokens = torch.arange(9)[None]
    expected = transformers_logits(folder, tokens, torch.float32)
    torch.testing.assert_close(logits(read_model(folder), tokens).float(), expected, rtol=0, atol=1e-5)


def test_activations_can_be_told_apart(tmp_path: Path):
    model = read_model(save_checkpoint(tmp_path / "model"))
    tokens = torch.arange(9)[None]
    assert (logits(model, tokens) - logits(model.with_activation("gelu"), tokens)).abs().max() > 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_exactly(tmp_path: Path, dtype: torch.dtype):
    model = check_logits(save_checkpoint(tmp_path / "model", dtype=dtype))
    assert {tensor.dtype for tensor in model.tensors.values()} == {torch.float32}


def test_head_that_differs_from_the_embedding_is_the_unembedding(tmp_path: Path):
    folder = save_checkpoint(tmp_path / "model")
    edit_tensors(folder, lambda state: state | {"lm_head.weight": 2 * state["transformer.wte.weight"]})
    model = read_model(folder)
    assert torch.equal(model.tensors["t.w.unembed_arr"], 2 * model.tensors["t.w.tok_embeds"])


def test_names_without_prefix_and_with_mask_buffers(tmp_path: Path):
    folder = save_checkpoint(tmp_path / "model")
    expected = read_model(folder)
    masks = {"h.0.attn.bias": torch.ones(1, 1, 9, 9), "h.1.attn.masked_bias": torch.tensor(-1e4)}
    edit_tensors(folder, lambda state: masks | {n.removeprefix("transformer."): t for n, t in state.items()})
    found = read_model(folder)
    assert found.architecture == expected.architecture
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in expected.tensors.items())


def test_checkpoint_in_several_files(tmp_path: Path):
    folder = save_checkpoint(tmp_path / "model")
    expected = read_model(folder)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(state)}
    for file in set(weight_map.values()):
        save_file({name: tensor for name, tensor in state.items() if weight_map[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    found = read_model(folder)
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in expected.tensors.items())
    assert len(source_files(folder)) == 3
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-00002-of-00002.safetensors is missing"):
        read_checkpoint(folder)


def test_tensors_do_not_share_a_storage(tmp_path: Path):
    model = read_model(save_checkpoint(tmp_path / "model"))
    assert all(t.untyped_storage().nbytes() == 4 * t.numel() and t.is_contiguous() for t in model.tensors.values())


@pytest.mark.parametrize("alias", ALIASES)
def test_a_size_may_have_the_name_that_transformers_also_takes(tmp_path: Path, alias: str):
    folder = save_checkpoint(tmp_path / "model", n_head=2)
    config = json.loads((folder / "config.json").read_text())
    edit_config(folder, **{alias: config[ALIASES[alias]]})
    check_logits(folder)  # with both names
    (folder / "config.json").write_text(json.dumps(renamed(config, ALIASES[alias], alias)))
    check_logits(folder)


def renamed(fields: dict[str, object], old: str, new: str) -> dict[str, object]:
    return {new if name == old else name: value for name, value in fields.items()}


# What is refused


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "llama"}, "model_type 'llama' is not supported"),
        ({"model_type": None}, "model_type None is not supported"),
        ({"activation_function": "relu"}, "activation_function 'relu' is not supported"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon 1e-06 is not supported"),
        ({"scale_attn_weights": False}, "scale_attn_weights False is not supported"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx True is not supported"),
        ({"add_cross_attention": True}, "add_cross_attention True is not supported"),
        ({"n_head": 5}, "n_embd 12 is not divisible by n_head 5"),
        ({"n_head": 0}, "n_head 0 is not a positive whole number"),
        ({"n_embd": None}, "n_embd None is not a positive whole number"),
        ({"n_inner": 0}, "n_inner 0 is not a positive whole number"),
        ({"n_inner": 7}, r"h\.0\.mlp\.c_fc\.bias.* not of the shape that the config says"),
        ({"n_positions": 8}, r"wpe\.weight not of the shape"),
        ({"vocab_size": 21}, r"lm_head\.weight, wte\.weight not of the shape"),
        ({"n_layer": 3}, r"h\.2\.attn\.c_attn\.bias.* and 2 more missing"),
        ({"n_layer": 1}, r"h\.1\.attn\.c_attn\.bias.* and 2 more not part of a GPT-2"),
        ({"tie_word_embeddings": False}, r"lm_head\.weight missing"),
        ({"tie_word_embeddings": "no"}, r"tie_word_embeddings 'no' is not true or false"),
        ({"n_layer": 100_000_000}, "n_layer 100000000 is not supported, only up to 1000"),
        ({"n_embd": 10**30}, r"n_embd 1000.*000 is not supported, only up to 10000000"),
        ({"n_inner": 10**400}, r"n_inner 1000.*000 is not supported"),
        ({"model_type": ["gpt2"]}, r"model_type \['gpt2'\] is not supported"),
        ({"activation_function": ["gelu"]}, r"activation_function \['gelu'\] is not supported"),
        ({"n_head": [3]}, r"n_head \[3\] is not a positive whole number"),
        ({"num_attention_heads": "3"}, "n_head 3 and num_attention_heads '3' are two names of one size"),
        ({"num_attention_heads": 2}, "n_head 3 and num_attention_heads 2 are two names of one size"),
        ({"num_hidden_layers": 3}, "n_layer 2 and num_hidden_layers 3 are two names of one size"),
        ({"hidden_size": 24}, "n_embd 12 and hidden_size 24 are two names of one size"),
        ({"max_position_embeddings": 8}, "n_positions 9 and max_position_embeddings 8 are two names of one size"),
    ],
)
def test_unsupported_config_is_named(tmp_path: Path, fields: dict[str, object], message: str):
    folder = save_checkpoint(tmp_path / "model")
    edit_config(folder, **fields)
    with pytest.raises(UserError, match=message) as raised:
        read_checkpoint(folder)
    assert "\n" not in str(raised.value)
    assert str(folder) in str(raised.value)


ODD = (float("nan"), float("inf"), float("-inf"))


def one(number: float) -> torch.Tensor:
    """Embeddings in which one number is this."""
    return torch.zeros(20, 12).index_put((torch.tensor(0), torch.tensor(5)), torch.tensor(number))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: {n: t for n, t in s.items() if "wpe" not in n}, r"wpe\.weight missing"),
        (lambda s: {n: t for n, t in s.items() if "wte" not in n}, r"lm_head\.weight, wte\.weight missing"),
        (lambda s: s | {"score.weight": torch.zeros(2, 12)}, r"score\.weight not part of a GPT-2"),
        (lambda s: s | {"transformer.ln_f.bias": torch.zeros(12).double()}, r"ln_f\.bias not float32"),
        (lambda s: s | {"transformer.ln_f.bias": torch.zeros(12).to(torch.int8)}, r"ln_f\.bias not float32"),
        (lambda s: s | {"ln_f.weight": torch.ones(12)}, r"ln_f\.weight is there twice"),
        (lambda s: {f"transformer.{n}": t for n, t in s.items()}, r"transformer\.h\.0.* not part of a GPT-2"),
        *((lambda s, odd=odd: s | {"transformer.wte.weight": one(odd)}, r"wte\.weight not finite") for odd in ODD),
        *((lambda s, odd=odd: s | {"transformer.ln_f.bias": one(odd)[0].half()}, r"ln_f\.bias not") for odd in ODD),
    ],
)
def test_wrong_tensors_are_named(tmp_path: Path, edit: Callable[[dict], dict], message: str):
    folder = save_checkpoint(tmp_path / "model")
    edit_tensors(folder, edit)
    with pytest.raises(UserError, match=message):
        read_checkpoint(folder)


def test_large_weights_are_finite_though_their_sum_is_not(tmp_path: Path):
    folder = save_checkpoint(tmp_path / "model")
    edit_tensors(folder, lambda state: state | {"transformer.ln_f.bias": torch.full((12,), 3e38)})
    assert read_model(folder).tensors["final.ln.w.bias_arr"].isfinite().all()


def test_a_tensor_in_two_files_is_refused(tmp_path: Path):
    folder = save_checkpoint(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    save_file({"transformer.ln_f.weight": torch.ones(12)}, folder / "two.safetensors")
    write_index(folder, {"transformer.wte.weight": "one.safetensors", "transformer.ln_f.weight": "two.safetensors"})
    with pytest.raises(
        UserError, match=r"two\.safetensors: ln_f\.weight is there twice, under two names or in two files"
    ):
        read_checkpoint(folder)


def write_index(folder: Path, weight_map: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("name", [["a"], {"a": 1}, None, "", "../x.safetensors", "/x.safetensors", "a\0.safetensors"])
def test_an_index_names_files_beside_it(tmp_path: Path, name: object):
    folder = save_checkpoint(tmp_path / "model")
    (folder / "model.safetensors").rename(tmp_path / "x.safetensors")
    write_index(folder, {"transformer.wte.weight": name})
    with pytest.raises(
        UserError, match=r"index\.json: .* is not a part's name; only files beside it are read"
    ) as raised:
        read_checkpoint(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 1500 + "0" + "}" * 1500, "[" * 200 + "]" * 200], ids=len)
@pytest.mark.parametrize("file", ["config.json", "model.safetensors.index.json"])
def test_json_that_is_nested_too_deeply_is_refused(tmp_path: Path, file: str, text: str):
    folder = save_checkpoint(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    write_index(folder, {"transformer.wte.weight": "part.safetensors"})
    (folder / file).write_text(text)
    with pytest.raises(UserError, match=rf"{file} is damaged \(.*\); get it again"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    "file", ["config.json", "model.safetensors", "model.safetensors.index.json", "part.safetensors"]
)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "not readable"])
def test_what_is_no_file_or_may_not_be_read_is_said_to_be_so_at_once(tmp_path: Path, file: str, kind: str, monkeypatch):
    folder = save_checkpoint(tmp_path / "model")
    if file.startswith(("model.safetensors.index", "part")):
        (folder / "model.safetensors").rename(folder / "part.safetensors")
        write_index(folder, {"transformer.wte.weight": "part.safetensors"})
    put_there(folder / file, kind, monkeypatch)
    with pytest.raises(UserError, match=rf"{file} cannot be read \((it is not a file|Permission denied)\)"):
        read_checkpoint(folder)


def test_missing_and_damaged_files_are_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"nowhere is not a folder; give gpt2, standin, .* folder$"):
        read_checkpoint(tmp_path / "nowhere")
    folder = save_checkpoint(tmp_path / "model")
    weights, config = folder / "model.safetensors", folder / "config.json"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        read_checkpoint(folder)
    weights.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing"):
        read_checkpoint(folder)
    (folder / "pytorch_model.bin").touch()
    with pytest.raises(UserError, match=r"pytorch_model\.bin, which is not supported"):
        read_checkpoint(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UserError, match=r"index\.json has no weight_map"):
        read_checkpoint(folder)
    save_checkpoint(folder)
    for text in ("[]", "{"):
        config.write_text(text)
        with pytest.raises(UserError, match=r"config\.json is damaged"):
            read_checkpoint(folder)
    config.unlink()
    with pytest.raises(UserError, match=r"config\.json is missing"):
        read_checkpoint(folder)


def test_fields_that_a_config_leaves_out_are_gpt2s(tmp_path: Path):
    folder = save_checkpoint(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    kept = {name: config[name] for name in (*SMALL, "model_type")}
    (folder / "config.json").write_text(json.dumps(kept))
    expected = replace(GPT2_SMALL, n_layers=2, n_heads=3, d_model=12, d_head=4, d_mlp=48, n_positions=9, vocab_size=20)
    assert read_checkpoint(folder)[0] == expected
