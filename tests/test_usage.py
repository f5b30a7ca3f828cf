"""Every module that a user may open begins with a usage block, and the block does what it says."""

from __future__ import annotations

import doctest
from dataclasses import replace
from functools import cache
from importlib import import_module

import pytest
import torch

import path_patching
from dataset import NOUNS_FILE, YearDataset, get_valid_years, year_indices
from path_patching import Sentences, load_tokenizer
from path_patching.circuits.papers_shape import in_papers_shape
from path_patching.files import ROOT
from path_patching.gpt2.model import Architecture, Model, random_model
from path_patching.gpt2.names import STANDIN_FOLDER
from path_patching.torch_engine.engine import TorchEngine
from reproduction.evaluations import clusters_of
from utils import greater_than

WITHOUT = (
    "tasks",
    "path_patching.circuits",
    "path_patching.circuits.validation",
    "path_patching.defaults",
    "path_patching.errors",
    "path_patching.files",
    "path_patching.gpt2",
    "path_patching.gpt2.hub",  # asks the network; `load_model` says when
    "path_patching.interrupts",
    "path_patching.progress",
    "path_patching.public",
)
PACKAGES = ("path_patching", "tasks")
INSIDES = ("path_patching.rust_engine", "path_patching.torch_engine")  # of the engines
SIZES = Architecture(n_layers=3, n_heads=2, d_model=8, d_head=4, d_mlp=16, n_positions=16, vocab_size=50257)


def modules() -> list[str]:
    """The modules that a user may open, by their dotted names."""
    paths = [path for package in PACKAGES for path in ROOT.glob(f"{package}/**/*.py")]
    parts = [path.relative_to(ROOT).with_suffix("").parts for path in paths]
    names = {".".join(part for part in each if part != "__init__") for each in parts}
    return sorted({*names, "dataset", "utils"} - {*WITHOUT} - {name for name in names if name.startswith(INSIDES)})


@cache
def tiny_model() -> Model:
    """A random model to which the years stand out among all tokens."""
    model = random_model(SIZES)
    tokens = model.tensors["t.w.tok_embeds"].clone()
    tokens[year_indices()] *= 10
    return replace(model, tensors={**model.tensors, "t.w.tok_embeds": tokens, "t.w.unembed_arr": tokens})


@cache
def shared() -> dict[str, object]:
    """The names that the blocks go on from, as the docstring of `path_patching` introduces them."""
    tokenizer = load_tokenizer()
    dataset = YearDataset(get_valid_years(tokenizer), 97, NOUNS_FILE, tokenizer)
    sentences = Sentences(dataset.good_toks, dataset.bad_toks, year_indices())
    return {name: getattr(path_patching, name) for name in path_patching.__all__} | {
        "torch": torch,
        "checkpoint": STANDIN_FOLDER,
        "tokenizer": tokenizer,
        "model": tiny_model(),
        "sentences": sentences,
        "engine": TorchEngine(tiny_model(), sentences),
        "metric": greater_than(dataset.years_YY),
        "nouns": clusters_of(dataset.as_table())[0],
        "start_yy": dataset.years_YY,
        "END": dataset.end,
        "YY": dataset.yy_position,
        "circuit": in_papers_shape(
            "mine", ("m1", "m2"), ("a1.h0",), ("m1", "m2"), first_below=("m0",), further_below=()
        ),
    }


@pytest.mark.parametrize("name", modules())
def test_a_module_begins_with_a_usage_block_that_works(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORS_CACHE_DIR", str(tmp_path / "tensors"))
    module = import_module(name)
    assert ">>>" in (module.__doc__ or ""), f"{name} has no usage block"
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in doctest.DocTestFinder().find(module, extraglobs=shared()):
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)


def test_the_list_of_modules_without_a_block_is_up_to_date():
    assert all(import_module(name) for name in WITHOUT)
    assert len(modules()) > 15
