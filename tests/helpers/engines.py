"""The engines under test: each test that takes `engine_name` runs once for every engine of this machine."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import pytest

from path_patching.engine import Data, Engine, Request, Sentences
from path_patching.gpt2.model import Model
from path_patching.paths import PathSet

CLASSES = {
    "rust_circuit": ("path_patching.rust_engine.engine", "RustCircuitEngine"),
    "torch": ("path_patching.torch_engine.engine", "TorchEngine"),
}

each_engine = pytest.mark.parametrize("engine_name", CLASSES)


def make_engine(engine_name: str, model: Model, sentences: Sentences, memory_gb: float = 4.0) -> Engine:
    """An engine on the CPU; the test is skipped where the engine cannot be had."""
    skip_without(engine_name)
    module, name = CLASSES[engine_name]
    return getattr(import_module(module), name)(model, sentences, device="cpu", memory_gb=memory_gb)


def request(paths: PathSet | None, inside: Data) -> Request:
    """`paths` on `inside` data and all else on clean, or on corrupted if the clean data are inside."""
    return Request(paths, inside, "corrupted" if inside == "clean" else "clean")


def skip_without(engine_name: str) -> None:
    """Skip the test where the engine cannot be had."""
    if engine_name == "rust_circuit" and find_spec("rust_circuit") is None:
        pytest.skip("rust_circuit is not installed (it has no wheel for this Python or platform)")
