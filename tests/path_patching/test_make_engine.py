"""Engines and devices are chosen by name, and an engine that is wrong is refused."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import pytest
import torch

from path_patching.engine import Sentences
from path_patching.errors import UserError
from path_patching.gpt2.model import Architecture, end_logits, random_model, to_transformers
from tests.helpers.engines import each_engine, make_engine
from tests.helpers.plain_gpt2 import logits

module = import_module("path_patching.make_engine")  # the package's own name for it is the function
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
    engine = module.make_engine(engine_name, "cpu", MODEL, sentences())
    assert engine.name == engine_name
    assert len(engine.clean()) == 6


@each_engine
def test_an_engine_with_another_activation_is_refused(engine_name, monkeypatch):
    """The trap of the published circuit description: the erf GELU where the model has the tanh one."""
    erf = replace(MODEL, architecture=replace(ARCHITECTURE, activation="gelu"))
    engine = make_engine(engine_name, erf, sentences())
    twin = to_transformers(MODEL)
    monkeypatch.setattr(module, "to_transformers", lambda model: twin)
    with pytest.raises(UserError, match="self-check"):
        module.check_engine(engine)


def test_auto_is_an_engine_that_is_installed():
    assert module.make_engine("auto", "auto", MODEL, sentences()).name in ("rust_circuit", "torch")


def test_an_unknown_engine_is_one_line():
    with pytest.raises(UserError, match="there is no engine 'Torch'; choose auto, rust_circuit or torch"):
        module.make_engine("Torch", "cpu", MODEL, sentences())


def test_auto_is_torch_where_rust_circuit_is_missing(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    assert module.make_engine("auto", "cpu", MODEL, sentences()).name == "torch"


def test_rust_circuit_asked_for_where_it_is_missing_is_one_line(monkeypatch):
    import builtins

    real_import = builtins.__import__

    def without_rust_circuit(name, *rest):
        if "rust" in name:
            raise ImportError(f"No module named {name!r}")
        return real_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_rust_circuit)
    with pytest.raises(UserError, match="or the engine torch"):
        module.make_engine("rust_circuit", "cpu", MODEL, sentences())


@pytest.mark.parametrize("device", ["tpu", "cpu:1", "cuda:x", "cuda:99"])
def test_a_device_that_is_not_there_is_one_line(device):
    with pytest.raises(UserError, match=f"device {device}"):
        module.resolve_device(device)


@pytest.mark.parametrize("activation", ["gelu_new", "gelu"])
def test_the_transformers_twin_computes_the_same_logits(activation):
    model = MODEL.with_activation(activation)
    tokens = sentences().clean
    found = end_logits(to_transformers(model), tokens)
    torch.testing.assert_close(found.double(), logits(model, tokens)[:, -1], rtol=1e-4, atol=1e-4)
