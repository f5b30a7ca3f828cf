from __future__ import annotations

import json
import os
import resource
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from path_patching.errors import UserError
from path_patching.files import ROOT
from path_patching.gpt2 import names, tensor_cache
from path_patching.gpt2.checkpoint import read_config
from path_patching.gpt2.circ_text import Description, from_text, to_text
from path_patching.gpt2.hub import ModelUnavailable
from path_patching.gpt2.model import GPT2_SMALL, Model, random_model, to_transformers
from path_patching.gpt2.tensor_cache import (
    CacheError,
    description_path,
    hash_tensor,
    load_model,
    read_model,
    tensor_path,
)
from reproduce import show_weights
from reproduction.subcommands import weights
from tests.helpers.checkpoints import edit_config, edit_tensors, save_checkpoint, transformers_logits
from tests.helpers.plain_gpt2 import logits
from tests.helpers.refusals import put_there
from tests.helpers.scripts import error_line, output, run_python, run_script

NEEDS_RUST_CIRCUIT = pytest.mark.skipif(find_spec("rust_circuit") is None, reason="rust_circuit is not installed")

TENSORS = (
    torch.arange(6.0),
    torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)),
    torch.arange(12.0).reshape(3, 4).T,
    torch.tensor(1.5),
    torch.zeros(0, 3),
    torch.arange(5, dtype=torch.float64),
    torch.arange(5, dtype=torch.float16),
    torch.tensor([True, False]),
    *(torch.arange(4, dtype=dtype) for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)),
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty tensor cache; the user's own is never touched."""
    monkeypatch.setenv("TENSORS_CACHE_DIR", str(tmp_path / "tensors"))
    monkeypatch.setenv("RR_RRFS_DIR", str(tmp_path / "rrfs"))
    return tmp_path / "tensors"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "little-gpt2")


def tensor_file(cache: Path, tensor: torch.Tensor) -> Path:
    return tensor_path(cache, hash_tensor(tensor))


def description_of(model: Model) -> Description:
    return Description(model.architecture, {name: hash_tensor(t)[:24] for name, t in model.tensors.items()})


def refuse(*_: object) -> None:
    raise AssertionError("must not be called")


# The hash and the files


def test_hash_is_rust_circuits():
    """rust_circuit 0.4.8 gave these."""
    assert hash_tensor(torch.arange(6.0)) == "069b025d0ad94be53fc07575ff6bc417056e8d357f79f507f165a97da3bdaf8b"
    assert hash_tensor(torch.tensor([True])) == "20202f472091ab9493d1f373f2ea1df1c4fee9c83842ad1a9f2287f0286bf176"


@NEEDS_RUST_CIRCUIT
@pytest.mark.parametrize("tensor", TENSORS, ids=lambda t: f"{t.dtype}-{tuple(t.shape)}")
def test_hash_agrees_with_rust_circuit(tensor: torch.Tensor):
    import rust_circuit as rc

    assert hash_tensor(tensor) == rc.hash_tensor(tensor).hex()


# The circuit description


def test_description_is_read_back(checkpoint: Path):
    model = load_model(str(checkpoint))
    text = description_path(str(checkpoint)).read_text()
    description = from_text(text)
    assert description.architecture == model.architecture
    assert description.hashes == description_of(model).hashes
    assert to_text(description) == text


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.partition("\n")[2],
        lambda text: text.replace("gelu_new", "relu"),
        lambda text: text.replace("'a1.w.k_arr'", "'a1.w.z_arr'"),
        lambda text: text.replace("num_layers", "layers"),
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("[3,4,12]", "[3,4,11]"),
        lambda text: "",
    ],
)
def test_damaged_description_is_refused_and_written_anew(checkpoint: Path, edit):
    load_model(str(checkpoint))
    path = description_path(str(checkpoint))
    text = path.read_text()
    path.write_text(edit(text))
    assert path.read_text() != text
    with pytest.raises(ValueError, match=r"."):
        from_text(path.read_text())
    load_model(str(checkpoint))
    assert path.read_text() == text


@NEEDS_RUST_CIRCUIT
def test_rust_circuit_and_we_read_each_others_files_and_descriptions(tmp_path: Path, cache: Path, checkpoint: Path):
    """In a process of its own, since rust_circuit looks at TENSORS_CACHE_DIR once.

    The tokenizer, which rust_circuit would fetch from the hub, is the only thing put in its place.
    """
    model = load_model(str(checkpoint))
    theirs = random_model(model.architecture, seed=5)
    torch.save((dict(model.tensors), dict(theirs.tensors)), tmp_path / "tensors.pt")
    code = """
import re, sys, torch, transformers, rust_circuit as rc
from path_patching.gpt2.tensor_cache import hash_tensor
from rust_circuit.module_library import load_transformer_model_string
transformers.GPT2TokenizerFast.from_pretrained = lambda name: transformers.GPT2TokenizerFast()
text = open(sys.argv[1]).read()
circuits, _, info = load_transformer_model_string(text)
tensors, theirs = torch.load(sys.argv[2])
for name, tensor in tensors.items():
    short = hash_tensor(tensor)[:24]
    assert torch.equal(rc.get_tensor_prefix(short), tensor), name
    assert torch.equal(rc.Array.from_hash_prefix(name, short).value, tensor), name
for tensor in theirs.values():
    rc.save_tensor(tensor)
bound = circuits["t.bind_w"]
arrays = {circuit.name: circuit.value for circuit in bound.children if hasattr(circuit, "value")}
arrays |= {name: circuits[name].value for name in ("t.w.tok_embeds", "t.w.pos_embeds")}
assert arrays.keys() == tensors.keys(), arrays.keys() ^ tensors.keys()
assert all(torch.equal(arrays[name], tensor) for name, tensor in tensors.items())
dumped = info.dump_model_string(circuits["t.w.tok_embeds"], circuits["t.w.pos_embeds"], bound)
assert dumped in (text, re.sub(r"\\b\\ds\\b", "?", text)), dumped  # since 0.4.7 a symbol's sizes have no names
tokens = torch.tensor([[0, 3, 7, 1], [5, 5, 2, 9]])
embedded = circuits["t.w.tok_embeds"].value[tokens]
logits = info.bind_to_input(bound, rc.Array(embedded), circuits["t.w.pos_embeds"])
torch.save(rc.substitute_all_modules(logits).evaluate(), sys.argv[3])
"""
    out = tmp_path / "logits.pt"
    output(run_python("-c", code, str(description_path(str(checkpoint))), str(tmp_path / "tensors.pt"), str(out)))
    found = read_model("theirs", description_of(theirs))
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in theirs.tensors.items())
    expected = transformers_logits(checkpoint, torch.tensor([[0, 3, 7, 1], [5, 5, 2, 9]]))
    torch.testing.assert_close(torch.load(out).double(), expected, rtol=0, atol=1e-4)


def test_table_of_published_hashes_is_of_gpt2_small():
    table = json.loads(tensor_cache.PUBLISHED_HASHES.read_text())["tensors"]
    assert {name: tuple(entry["shape"]) for name, entry in table.items()} == GPT2_SMALL.tensor_shapes()
    assert len(table) == 197
    published = tensor_cache.published_description()
    assert all(len(hash_) == 24 for hash_ in published.hashes.values())
    assert published.hashes["t.w.unembed_arr"] == published.hashes["t.w.tok_embeds"]
    assert from_text(to_text(published)) == published


# Converting and loading


def test_converted_model_has_the_logits_of_transformers(checkpoint: Path):
    tokens = torch.randint(20, (4, 9), generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        model = load_model(str(checkpoint))
        assert model.name == "little-gpt2"
        torch.testing.assert_close(logits(model, tokens), transformers_logits(checkpoint, tokens), rtol=0, atol=1e-9)
    assert model.tensors["t.w.unembed_arr"] is model.tensors["t.w.tok_embeds"]
    assert {(t.dtype, t.requires_grad) for t in model.tensors.values()} == {(torch.float32, False)}


def test_second_load_reads_the_cache_alone(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    first = load_model(str(checkpoint))
    monkeypatch.setattr(tensor_cache, "read_checkpoint", refuse)
    monkeypatch.setattr(tensor_cache, "_write_tensors", refuse)
    monkeypatch.chdir(checkpoint.parent)
    second = load_model("./little-gpt2")  # however the folder is written
    assert second.fingerprint == first.fingerprint
    assert all(torch.equal(second.tensors[name], tensor) for name, tensor in first.tensors.items())


def test_converted_checkpoint_may_go(checkpoint: Path, cache: Path):
    first = load_model(str(checkpoint))
    checkpoint.rename(checkpoint.parent / "elsewhere")
    assert load_model(str(checkpoint)).fingerprint == first.fingerprint
    file = tensor_file(cache, first.tensors["a1.w.q_arr"])
    file.unlink()
    with pytest.raises(UserError, match=rf"tensor a1\.w\.q_arr: there is no .*{file.name[:16]}.*little-gpt2.* is gone"):
        load_model(str(checkpoint))


def test_edited_checkpoint_is_converted_anew(checkpoint: Path):
    first = load_model(str(checkpoint))
    edit_tensors(checkpoint, lambda state: state | {"transformer.ln_f.bias": torch.ones(12)})
    second = load_model(str(checkpoint))
    assert torch.equal(second.tensors["final.ln.w.bias_arr"], torch.ones(12))
    assert second.fingerprint != first.fingerprint
    edit_config(checkpoint, activation_function="gelu")
    assert load_model(str(checkpoint)).architecture.activation == "gelu"
    edit_config(checkpoint, activation_function="relu")
    with pytest.raises(UserError, match="activation_function 'relu' is not supported"):
        load_model(str(checkpoint))


@pytest.mark.parametrize("edit", ["tensors", "config"])
def test_a_checkpoint_is_known_by_its_content_not_by_size_and_time(checkpoint: Path, edit: str):
    """Archives and `cp -p` bring other files of the same size and time."""
    first = load_model(str(checkpoint))
    path = checkpoint / {"tensors": "model.safetensors", "config": "config.json"}[edit]
    before = path.stat()
    if edit == "tensors":
        edit_tensors(checkpoint, lambda state: state | {"transformer.ln_f.bias": torch.ones(12)})
    else:
        path.write_text(path.read_text().replace('"n_head": 3', '"n_head": 2'))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    second = load_model(str(checkpoint))
    assert second.fingerprint != first.fingerprint
    assert second.architecture.n_heads == (3 if edit == "tensors" else 2)


def test_the_checkpoints_own_config_goes_with_the_model(checkpoint: Path):
    """So that `transformers` reads it for itself, also from the cache: what is misread here then shows."""
    for _ in range(2):
        assert load_model(str(checkpoint)).config == read_config(checkpoint)
    checkpoint.rename(checkpoint.parent / "elsewhere")
    model = load_model(str(checkpoint))
    assert to_transformers(model).config.n_head == 3
    misread = replace(model, architecture=replace(model.architecture, n_heads=2))
    assert to_transformers(misread).config.n_head == 3
    assert to_transformers(model.with_activation("gelu")).config.activation_function == "gelu"


def test_a_config_that_transformers_refuses_is_one_line(checkpoint: Path):
    edit_config(checkpoint, resid_pdrop="a lot")
    with pytest.raises(
        UserError, match=r"transformers cannot build little-gpt2 \(.*resid_pdrop.*\); mend its config"
    ) as raised:
        to_transformers(load_model(str(checkpoint)))
    assert "\n" not in str(raised.value)


def test_a_description_of_very_many_layers_is_none(checkpoint: Path):
    load_model(str(checkpoint))
    text = description_path(str(checkpoint)).read_text()
    for wrong in ("100000000", "[2]", "1e400", '"2"', "null"):
        with pytest.raises(ValueError, match=r"."):
            from_text(text.replace('"num_layers": 2', f'"num_layers": {wrong}'))


def test_a_folder_with_a_long_name_is_loaded(tmp_path: Path):
    folder = save_checkpoint(tmp_path / ("g" * 240))
    assert load_model(str(folder)).name == folder.name


@pytest.mark.parametrize("kind", ["pipe", "not readable", "folder"])
def test_what_is_no_file_or_may_not_be_read_in_the_cache_is_passed_by(checkpoint: Path, cache: Path, kind, monkeypatch):
    model = load_model(str(checkpoint))
    description = description_of(model)
    put_there(tensor_file(cache, model.tensors["m1.w.proj_in_arr"]), kind, monkeypatch)
    with pytest.raises(CacheError, match=r"tensor m1\.w\.proj_in_arr: .* cannot be read \((it is not|Permission)"):
        read_model("little-gpt2", description)
    if kind == "pipe":
        put_there(description_path(str(checkpoint)), kind, monkeypatch)
        assert load_model(str(checkpoint)).fingerprint == model.fingerprint


def test_folders_of_one_name_are_told_apart(tmp_path: Path):
    folders = [save_checkpoint(tmp_path / parent / "model", seed=seed) for seed, parent in enumerate("ab")]
    first, second = (load_model(str(folder)).fingerprint for folder in folders)
    assert first != second
    assert load_model(str(folders[0])).fingerprint == first


def test_fingerprint_is_of_names_tensors_and_activation(checkpoint: Path, tmp_path: Path):
    model = load_model(str(checkpoint))
    copy = save_checkpoint(tmp_path / "copy")
    assert load_model(str(copy)).fingerprint == model.fingerprint
    published = load_model(str(checkpoint), as_published=True)
    assert published.architecture.activation == "gelu"
    assert published.fingerprint == model.fingerprint.replace("+gelu_new", "+gelu") != model.fingerprint
    edit_config(copy, activation_function="gelu")
    assert load_model(str(copy)).fingerprint == published.fingerprint


def test_standin_is_a_checkpoint_of_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = save_checkpoint(tmp_path / "standin", dtype=torch.float16)
    monkeypatch.setattr(names, "STANDIN_FOLDER", folder)
    model = load_model("standin")
    assert model.name == "stand-in"
    assert description_path("standin").name == "standin.circ"
    tokens = torch.arange(9)[None]
    torch.testing.assert_close(logits(model, tokens), transformers_logits(folder, tokens), rtol=0, atol=1e-9)
    monkeypatch.setattr(tensor_cache, "read_checkpoint", refuse)
    assert load_model("standin").fingerprint == model.fingerprint


def test_the_repositorys_stand_in():
    model = load_model("standin")
    sizes = model.architecture
    assert (sizes.n_layers, sizes.n_heads, sizes.d_model, sizes.vocab_size) == (12, 12, 120, 50257)
    tokens = torch.tensor([[50256, 464, 1175, 14346]])
    expected = transformers_logits(names.STANDIN_FOLDER, tokens)
    torch.testing.assert_close(logits(model, tokens), expected, rtol=0, atol=1e-9)


# Damage


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    at = content.find(torch.load(file).numpy().tobytes())
    content[at] ^= 1
    file.write_bytes(content)


def other_content(file: Path) -> None:
    torch.save(torch.load(file) + 1, file)


def other_type(file: Path) -> None:
    torch.save(torch.load(file).double(), file)


def unhashable_type(file: Path) -> None:
    torch.save(torch.load(file).bfloat16(), file)


def no_tensor(file: Path) -> None:
    torch.save([1, 2], file)


DAMAGES = (Path.unlink, truncate, empty, flip_a_bit, other_content, other_type, unhashable_type, no_tensor)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_file_is_named_and_converted_again(checkpoint: Path, cache: Path, damage, capsys):
    model = load_model(str(checkpoint))
    file = tensor_file(cache, model.tensors["m1.w.proj_in_arr"])
    damage(file)
    with pytest.raises(CacheError, match=r"tensor m1\.w\.proj_in_arr: ") as raised:
        read_model("little-gpt2", from_text(description_path(str(checkpoint)).read_text()))
    assert str(tensor_path(cache, hash_tensor(model.tensors["m1.w.proj_in_arr"])[:24])) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert load_model(str(checkpoint)).fingerprint == model.fingerprint
    assert "converting" in capsys.readouterr().err
    assert torch.equal(torch.load(file), model.tensors["m1.w.proj_in_arr"])


def test_a_damaged_file_hides_no_whole_one(checkpoint: Path, cache: Path, tmp_path: Path, monkeypatch):
    model = load_model(str(checkpoint))
    file = tensor_file(cache, model.tensors["m1.w.proj_in_arr"])
    downloaded = tmp_path / "rrfs" / "tensor_db" / file.relative_to(cache)
    downloaded.parent.mkdir(parents=True)
    downloaded.write_bytes(file.read_bytes())
    truncate(file)
    monkeypatch.setenv("RR_RRFS_DIR", str(tmp_path / "rrfs"))
    description = from_text(description_path(str(checkpoint)).read_text())
    assert read_model("little-gpt2", description).fingerprint == model.fingerprint


def test_tensor_of_another_shape_than_described_is_refused(checkpoint: Path):
    model = load_model(str(checkpoint))
    description = description_of(model)
    wrong = description.hashes | {"a0.w.q_arr": description.hashes["a0.w.o_arr"]}
    with pytest.raises(CacheError, match=r"a0\.w\.q_arr: .* is not of the shape \(3, 4, 12\)"):
        read_model("wrong", replace(description, hashes=wrong))


def test_interrupted_conversion_leaves_nothing_that_counts(checkpoint: Path, cache: Path, monkeypatch):
    with monkeypatch.context() as interrupted:
        saved = []

        def save_some(tensor: torch.Tensor, file: object) -> None:
            saved.append(tensor)
            if len(saved) > 10:
                raise KeyboardInterrupt
            torch_save(tensor, file)

        torch_save = torch.save
        interrupted.setattr(torch, "save", save_some)
        with pytest.raises(KeyboardInterrupt):
            load_model(str(checkpoint))
    assert not description_path(str(checkpoint)).exists()
    written = [path for path in cache.rglob("*") if path.is_file()]
    assert len(written) == 10
    tokens = torch.arange(9)[None]
    found = logits(load_model(str(checkpoint)), tokens)
    torch.testing.assert_close(found, transformers_logits(checkpoint, tokens), rtol=0, atol=1e-9)
    assert not list(cache.rglob(".*"))


def test_two_conversions_at_once(checkpoint: Path):
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(load_model, [str(checkpoint)] * 8))
    assert len({model.fingerprint for model in models}) == 1


# GPT-2 small; here a small random model stands in its place


@pytest.fixture
def gpt2(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """The model that the published table is made to describe; its checkpoint is what the hub has."""
    monkeypatch.setenv("TENSORS_CACHE_DIR", str(tmp_path / "other tensors"))
    model = load_model(str(checkpoint))
    monkeypatch.setenv("TENSORS_CACHE_DIR", str(tmp_path / "tensors"))
    description = description_of(model)
    monkeypatch.setattr(tensor_cache, "published_description", lambda: description)
    monkeypatch.setattr(tensor_cache, "hub_checkpoint", lambda *_: checkpoint)
    return model


def no_hub(*_: object) -> Path:
    raise ModelUnavailable("the hub is far away")


def test_gpt2_is_converted_once(gpt2: Model, cache: Path, monkeypatch: pytest.MonkeyPatch):
    model = load_model("gpt2")
    assert model.name == "GPT-2 small"
    assert model.fingerprint == gpt2.fingerprint
    assert from_text((cache / "circuits" / "gpt2.circ").read_text()) == description_of(gpt2)
    monkeypatch.setattr(tensor_cache, "hub_checkpoint", refuse)
    (cache / "circuits" / "gpt2.circ").write_text("damaged")
    assert load_model("gpt2").fingerprint == gpt2.fingerprint
    assert from_text((cache / "circuits" / "gpt2.circ").read_text()) == description_of(gpt2)


def test_gpt2_in_a_cache_that_cannot_be_written_to_is_loaded(gpt2: Model, monkeypatch: pytest.MonkeyPatch):
    load_model("gpt2")
    description_path("gpt2").unlink()

    def read_only(path: Path, text: str) -> None:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(tensor_cache, "write_text", read_only)
    assert load_model("gpt2").fingerprint == gpt2.fingerprint


def test_damaged_gpt2_is_converted_again(gpt2: Model, cache: Path, capsys: pytest.CaptureFixture):
    load_model("gpt2")
    truncate(tensor_file(cache, gpt2.tensors["a0.w.q_arr"]))
    assert load_model("gpt2").fingerprint == gpt2.fingerprint
    assert "tensor a0.w.q_arr: " in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["tensors", "rrfs/tensor_db"])
def test_the_papers_own_download_is_used_as_it_is(gpt2: Model, tmp_path: Path, monkeypatch, folder: str):
    for tensor in gpt2.tensors.values():
        path = tensor_file(tmp_path / folder, tensor)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(tensor, path)
    monkeypatch.setattr(tensor_cache, "hub_checkpoint", refuse)
    model = load_model("gpt2")
    assert model.fingerprint == gpt2.fingerprint
    assert description_path("gpt2").is_file()
    other_content(tensor_file(tmp_path / folder, gpt2.tensors["a0.w.q_arr"]))
    monkeypatch.setattr(tensor_cache, "hub_checkpoint", no_hub)
    with pytest.raises(ModelUnavailable, match=r"tensor a0\.w\.q_arr: .* holds another tensor"):
        load_model("gpt2")


def test_a_local_copy_of_gpt2_makes_gpt2_available(gpt2: Model, checkpoint: Path, monkeypatch, capsys):
    monkeypatch.setattr(tensor_cache, "hub_checkpoint", no_hub)
    show_weights(weights(["--model", str(checkpoint)]))
    assert "all 37 match the published hashes" in capsys.readouterr().out
    assert load_model("gpt2").fingerprint == gpt2.fingerprint


def test_gpt2_with_other_hashes_is_not_used(gpt2: Model, checkpoint: Path, cache: Path):
    changed = {"transformer.ln_f.bias": torch.ones(12), "transformer.h.1.mlp.c_proj.bias": torch.ones(12)}
    edit_tensors(checkpoint, lambda state: state | changed)
    with pytest.raises(UserError, match=r"final\.ln\.w\.bias_arr, m1\.w\.out_bias_arr differ from the published"):
        load_model("gpt2")
    assert not cache.exists()


@pytest.mark.parametrize("damage", [truncate, empty, Path.unlink], ids=["truncated", "empty", "missing"])
@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_damaged_gpt2_in_the_hubs_cache_is_named_with_what_to_delete(
    gpt2, checkpoint: Path, monkeypatch, file, damage
):
    """As a state of affairs from which `reproduce.py` goes on with the stand-in."""
    snapshot = checkpoint.parent / "models--gpt2" / "snapshots" / "1234"
    snapshot.parent.mkdir(parents=True)
    checkpoint.rename(snapshot)
    monkeypatch.setattr(tensor_cache, "hub_checkpoint", lambda *_: snapshot)
    damage(snapshot / file)
    with pytest.raises(ModelUnavailable, match=rf"{file} is .*: delete {snapshot.parents[1]} and try again$") as raised:
        load_model("gpt2")
    assert "\n" not in str(raised.value)


def test_gpt2_of_another_architecture_is_not_used(gpt2: Model, checkpoint: Path, cache: Path):
    edit_config(checkpoint, activation_function="gelu")
    with pytest.raises(UserError, match=r"is not GPT-2 small: its config\.json says .*'gelu'"):
        load_model("gpt2")
    assert not cache.exists()


def test_gpt2_that_cannot_be_had_says_how(gpt2: Model, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tensor_cache, "hub_checkpoint", no_hub)
    with pytest.raises(ModelUnavailable) as raised:
        load_model("gpt2")
    for words in ("the hub is far away", "model PATH", "model standin", "HF_HOME", "hf download", "t.w.tok_embeds"):
        assert words in str(raised.value)
    assert "\n" not in str(raised.value)


# As a script


SCRIPT = ROOT / "reproduce.py", "weights"


def test_script_converts_and_reports(checkpoint: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    printed = output(run_script(*SCRIPT, "--model", "little-gpt2")).splitlines()
    assert description_path(str(checkpoint)).is_file()
    assert printed == [
        f"little-gpt2: 37 tensors in {cache}, named by {description_path(str(checkpoint))}",
        f"fingerprint: {load_model(str(checkpoint)).fingerprint}",
    ]


def test_script_ends_in_one_line_on_an_error(tmp_path: Path):
    assert "nowhere is not a folder" in error_line(run_script(*SCRIPT, "--model", str(tmp_path / "nowhere")))


def test_no_space_left_is_one_line(checkpoint: Path, cache: Path):
    earlier = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, earlier[1]))  # no tensor fits
    try:
        line = error_line(run_script(*SCRIPT, "--model", str(checkpoint)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, earlier)
    assert f"cannot write to the tensor cache {cache}" in line
    assert "TENSORS_CACHE_DIR" in line
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_without_a_home_one_line_names_the_setting_that_a_cache_needs(monkeypatch):
    monkeypatch.delenv("TENSORS_CACHE_DIR")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", dict[int, object]().__getitem__)
    with pytest.raises(UserError, match="no home directory for the tensor cache; name a folder with TENSORS_CACHE_DIR"):
        load_model("standin")


def test_with_a_cache_no_home_is_needed(checkpoint, monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", dict[int, object]().__getitem__)
    assert load_model(str(checkpoint)).tensors


def test_cache_that_cannot_be_a_folder_is_one_line(checkpoint: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TENSORS_CACHE_DIR", str(checkpoint / "config.json" / "tensors"))
    with pytest.raises(UserError, match="cannot write to the tensor cache"):
        load_model(str(checkpoint))
    monkeypatch.setenv("TENSORS_CACHE_DIR", "/proc/tensors")
    with pytest.raises(UserError, match="cannot write to the tensor cache /proc/tensors"):
        load_model(str(checkpoint))


def test_a_folder_whose_name_has_a_line_break_gives_the_model_a_name_of_one_line(tmp_path):
    assert load_model(str(save_checkpoint(tmp_path / "two\nlines"))).name == r"two\nlines"
