"""Engines and devices are chosen by name, and an engine that is wrong is refused."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from path_patching import engine_choice
from path_patching.engine import Sentences
from path_patching.errors import UserError
from path_patching.gpt2.model import Architecture, end_logits, random_model, to_transformers
from path_patching.paths import INPUTS, PathSet
from path_patching.torch_engine.forward import Transformer
from path_patching.torch_engine.patching import Patching
from tests.helpers.engines import each_engine, make_engine
from tests.helpers.plain_gpt2 import logits

ARCHITECTURE = Architecture(n_layers=2, n_heads=3, d_model=12, d_head=4, d_mlp=20, n_positions=9, vocab_size=120)
MODEL = random_model(ARCHITECTURE)


def sentences() -> Sentences:
    clean = torch.randint(0, 120, (6, 8), generator=torch.Generator().manual_seed(0))
    corrupted = clean.clone()
    corrupted[:, 4] = 1
    return Sentences(clean, corrupted, torch.arange(100))


@each_engine
def test_a_right_engine_passes_its_self_check(engine_name):
    make_engine(engine_name, MODEL, sentences())  # skips where the engine cannot be had
    engine = engine_choice.make_engine(engine_name, "cpu", MODEL, sentences())
    assert engine.name == engine_name
    assert len(engine.clean()) == 6


@each_engine
@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e38])
def test_a_model_that_gives_no_probabilities_itself_is_not_called_a_fault_of_the_engine(engine_name, number):
    tensors = {name: tensor.clone() for name, tensor in MODEL.tensors.items()}
    tensors["m1.w.proj_out_arr"].fill_(number)
    engine = make_engine(engine_name, replace(MODEL, tensors=tensors), sentences())
    with pytest.raises(UserError, match=r"itself gives no probabilities on clean sentences, .* in its weights$"):
        engine_choice.check_engine(engine)


@each_engine
def test_an_engine_with_another_activation_is_refused(engine_name, monkeypatch):
    """The trap of the published circuit description: the erf GELU where the model has the tanh one."""
    erf = replace(MODEL, architecture=replace(ARCHITECTURE, activation="gelu"))
    engine = make_engine(engine_name, erf, sentences())
    twin = to_transformers(MODEL)
    monkeypatch.setattr(engine_choice, "to_transformers", lambda model: twin)
    with pytest.raises(UserError, match="self-check"):
        engine_choice.check_engine(engine)


@each_engine
@pytest.mark.parametrize(("heads", "recomputed"), [(1, [0]), (2, [0, 4]), (6, [0, 2, 4]), (7, [*range(6)])])
def test_all_paths_recompute_nodes_at_end_and_give_the_corrupted_run(engine_name, heads, recomputed, monkeypatch):
    engine = make_engine(engine_name, MODEL, sentences())
    monkeypatch.setattr(engine_choice, "HEADS_CHECKED", heads)
    paths = engine_choice.all_paths(engine)
    inner = sorted(paths.nodes() - paths.ends())
    assert [3 * node.layer + node.index for node in inner if node.kind == "head"] == recomputed
    assert [node.layer for node in inner if node.kind == "mlp"] == [0, 1]
    assert (engine.patch(paths) - engine.corrupted()).abs().max() < 2e-6
    assert (engine.isolate(paths) - engine.clean()).abs().max() < 2e-6
    assert (engine.clean() - engine.corrupted()).abs().max() > 1e-3


def test_the_heads_recomputed_are_of_many_layers_and_numbers():
    """A fault of some layers, or of some heads of each, is then seen too."""
    sizes = replace(ARCHITECTURE, n_layers=12, n_heads=12, d_model=48)
    paths = engine_choice.all_paths(make_engine("torch", random_model(sizes), sentences()))
    heads = [node for node in paths.nodes() - paths.ends() if node.kind == "head"]
    assert len({node.layer for node in heads}) == len({node.index for node in heads}) == len(heads) == 6


def wrong_in_torch(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    if what == "another head":
        input_of = Transformer.head_input
        monkeypatch.setattr(Transformer, "head_input", lambda self, layer, head, *of: input_of(self, layer, 0, *of))
    elif what in INPUTS["head"]:
        patched = Patching._patched_input
        left = lambda self, paths, via: {} if via == what else patched(self, paths, via)  # noqa: E731
        monkeypatch.setattr(Patching, "_patched_input", left)
    else:
        name = {"scores": "_scores", "an MLP's write": "_written_by_mlp", "a head's write": "_written_by_head"}[what]
        right = getattr(Patching, name)
        monkeypatch.setattr(Patching, name, lambda self, *of: right(self, *of) / 2)


def wrong_in_rust_circuit(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    import rust_circuit as rc

    from path_patching.rust_engine.engine import PathCircuitBuilder
    from path_patching.rust_engine.gpt2_circuits import Gpt2Circuit

    right, head, projection = PathCircuitBuilder._recompute, Gpt2Circuit.head, Gpt2Circuit.projection

    def halved(self: PathCircuitBuilder, paths: PathSet) -> rc.Circuit:
        node, circuit = paths.node, right(self, paths)
        if what == "scores":
            return circuit.update(f"{node.name}.scores@{node.position}", lambda scores: scores.mul_scalar(0.5))
        halved = node.kind == {"an MLP's write": "mlp", "a head's write": "head"}[what]
        return circuit.mul_scalar(0.5) if halved else circuit

    if what == "another head":
        of_first = lambda self, node, *of: projection(self, replace(node, index=0), *of)  # noqa: E731
        monkeypatch.setattr(Gpt2Circuit, "projection", of_first)
    elif what in INPUTS["head"]:
        left = lambda self, node, patched: head(self, node, {at: patched[at] for at in patched if at[0] != what})  # noqa: E731
        monkeypatch.setattr(Gpt2Circuit, "head", left)
    else:
        monkeypatch.setattr(PathCircuitBuilder, "_recompute", halved)


@each_engine
@pytest.mark.parametrize("what", ["scores", "an MLP's write", "a head's write", "another head", *INPUTS["head"]])
def test_an_engine_that_recomputes_wrongly_what_it_patches_is_refused(engine_name, what, monkeypatch):
    """While its forward pass, from which all that is not recomputed comes, is right."""
    attentive = random_model(ARCHITECTURE, std=0.3)
    engine_choice.check_engine(make_engine(engine_name, attentive, sentences()))
    {"torch": wrong_in_torch, "rust_circuit": wrong_in_rust_circuit}[engine_name](monkeypatch, what)
    with pytest.raises(UserError, match="everything recomputed is not the corrupted run") as raised:
        engine_choice.check_engine(make_engine(engine_name, attentive, sentences()))
    difference = float(re.search(r"probability (\S+)\)", str(raised.value))[1])
    assert difference > 10 * engine_choice.TOLERANCE


@each_engine
def test_a_config_that_is_read_otherwise_than_by_transformers_is_refused(engine_name):
    """The model that an engine is compared with is built as the checkpoint's own config says."""
    config = {"n_layer": 2, "n_head": 3, "n_embd": 12, "n_inner": 20, "n_positions": 9, "vocab_size": 120}
    engine_choice.check_engine(make_engine(engine_name, replace(MODEL, config=config), sentences()))
    with pytest.raises(UserError, match="self-check"):
        engine_choice.check_engine(
            make_engine(engine_name, replace(MODEL, config={**config, "n_head": 2}), sentences())
        )


@each_engine
@pytest.mark.parametrize("scale", [700.0, 1e6])
def test_attention_to_what_comes_later_is_nothing_however_large_the_scores(engine_name, scale):
    tensors = {name: t * (scale if ".w.q" in name else 1.0) for name, t in MODEL.tensors.items()}
    engine = make_engine(engine_name, replace(MODEL, tensors=tensors), sentences())
    patterns = engine.attention([(layer, head) for layer in range(2) for head in range(3)])
    assert patterns.triu(1).count_nonzero() == 0
    torch.testing.assert_close(patterns.sum(-1), torch.ones_like(patterns.sum(-1)), rtol=0, atol=1e-5)


def test_auto_is_an_engine_that_is_installed():
    assert engine_choice.make_engine("auto", "auto", MODEL, sentences()).name in ("rust_circuit", "torch")


def test_an_unknown_engine_is_one_line():
    with pytest.raises(UserError, match="there is no engine 'Torch'; choose auto, rust_circuit, torch or reference"):
        engine_choice.make_engine("Torch", "cpu", MODEL, sentences())


def test_auto_is_torch_where_rust_circuit_is_missing(monkeypatch):
    monkeypatch.setattr(engine_choice.importlib.util, "find_spec", lambda name: None)
    assert engine_choice.make_engine("auto", "cpu", MODEL, sentences()).name == "torch"


def test_rust_circuit_asked_for_where_it_is_missing_is_one_line(monkeypatch):
    import builtins

    real_import = builtins.__import__

    def without_rust_circuit(name, *rest):
        if "rust" in name:
            raise ImportError(f"No module named {name!r}")
        return real_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_rust_circuit)
    with pytest.raises(UserError, match="or the engine torch"):
        engine_choice.make_engine("rust_circuit", "cpu", MODEL, sentences())


@pytest.mark.parametrize("activation", ["gelu_new", "gelu"])
def test_the_transformers_twin_computes_the_same_logits(activation):
    model = MODEL.with_activation(activation)
    tokens = sentences().clean
    found = end_logits(to_transformers(model), tokens)
    torch.testing.assert_close(found.double(), logits(model, tokens)[:, -1], rtol=1e-4, atol=1e-4)
