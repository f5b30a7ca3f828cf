"""Whatever PyTorch is told around a call, evaluations are float32 in full."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import cache, partial
from threading import Event

import pytest
import torch

from path_patching.edits import EditedRuns
from path_patching.engine import Request
from path_patching.gpt2.model import end_logits, to_transformers
from path_patching.neurons import neuron_effects, read_neurons
from path_patching.paths import Node, PathSet
from path_patching.precision import PRODUCTS, full_precision
from tests.helpers.engines import each_engine, make_engine
from tests.helpers.setups import SETUPS, late_half
from utils import greater_than


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def rounded(product: object, precision: str) -> Iterator[None]:
    before = product.fp32_precision
    product.fp32_precision = precision
    try:
        yield
    finally:
        product.fp32_precision = before


@contextmanager
def float32_matmul_precision(precision: str) -> Iterator[None]:
    """The older way of saying it."""
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")
        for product in PRODUCTS:
            product.fp32_precision = "none"


CHANGES: dict[str, Callable[[], AbstractContextManager]] = {
    "autocast to bfloat16": partial(torch.autocast, "cpu", torch.bfloat16),
    "autocast to float16": partial(torch.autocast, "cpu", torch.float16),
    "default dtype float64": partial(default_dtype, torch.float64),
    "default dtype bfloat16": partial(default_dtype, torch.bfloat16),
    "tf32 on a GPU": partial(rounded, torch.backends.cuda.matmul, "tf32"),
    "bf16 on a CPU": partial(rounded, torch.backends.mkldnn.matmul, "bf16"),
    "medium products": partial(float32_matmul_precision, "medium"),
    "inference mode": torch.inference_mode,
}


def everything(engine_name: str) -> dict[str, torch.Tensor]:
    """What can be asked of a new engine, and what is computed beside it."""
    setup = SETUPS["with eos"]()
    engine = make_engine(engine_name, setup.model, setup.sentences)
    logits = PathSet.at(Node.logits(setup.end))
    mlp, head = Node.mlp(1, setup.end), Node.head(1, 2, setup.end)
    edited = EditedRuns(setup.model, setup.sentences.clean, setup.sentences.answers)
    return {
        "patch": engine.patch(late_half(setup)),
        "isolate": engine.isolate(late_half(setup)),
        "sweep": engine.sweep(late_half(setup), [Node.mlp(0, setup.yy_position)], "v"),
        "direct effects": engine.sweep(logits, [mlp, head, Node.neuron(2, 4, setup.end)]),
        "writes": engine.writes([mlp, head]),
        "residual": engine.residual(Node.logits(setup.end)),
        "attention": engine.attention([(1, 2)]),
        "neurons": neuron_effects(read_neurons(engine, 1), lambda rows: greater_than(setup.years[rows])),
        "edits": edited.probabilities(mlp, torch.ones(1, len(setup.sentences), 24)),
        "transformers": end_logits(to_transformers(setup.model), setup.sentences.clean),
    }


undisturbed = cache(everything)


def check_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """But for the order of float32 sums, which rust_circuit chooses anew each time; bfloat16 is off by 1e-3."""
    for what, numbers in expected.items():
        assert found[what].dtype == numbers.dtype, what
        torch.testing.assert_close(found[what], numbers, rtol=1e-5, atol=2e-6, msg=what)


@each_engine
@pytest.mark.parametrize("change", CHANGES)
def test_numbers_are_the_same_whatever_pytorch_is_told(engine_name, change):
    expected = undisturbed(engine_name)
    with CHANGES[change]():
        found = everything(engine_name)
    check_same(found, expected)


@each_engine
def test_an_engine_made_before_pytorch_is_told_gives_the_same_numbers(engine_name):
    setup = SETUPS["with eos"]()
    engine, expected = make_engine(engine_name, setup.model, setup.sentences), undisturbed(engine_name)
    for change in CHANGES.values():
        with change():
            found = engine.patch(late_half(setup))
        check_same({"patch": found}, {"patch": expected["patch"]})


def told() -> tuple[object, ...]:
    """The settings of this thread, and those that all share."""
    return torch.get_default_dtype(), torch.is_autocast_enabled("cpu"), *(each.fp32_precision for each in PRODUCTS)


@pytest.mark.parametrize("change", CHANGES)
def test_full_precision_is_in_force_within_and_the_callers_settings_after(change):
    with CHANGES[change]():
        before = told()
        with full_precision():
            dtype, autocast, *products = told()
            assert (dtype, autocast) == (torch.float32, False)
            assert {*products} <= {"ieee", "none"}
        assert told() == before


def test_precision_is_full_until_the_last_thread_is_done():
    """The first to be done would set the caller's settings back while another still computes."""
    entered, first_is_done = Event(), Event()

    def other() -> tuple[object, ...]:
        with full_precision():
            entered.set()
            assert first_is_done.wait(60)
            return told()

    with float32_matmul_precision("medium"), default_dtype(torch.float64), ThreadPoolExecutor(1) as thread:
        before = told()
        with full_precision():
            found = thread.submit(other)
            assert entered.wait(60)
        first_is_done.set()
        dtype, autocast, *products = found.result()
        assert (dtype, autocast) == (torch.float32, False)
        assert {*products} <= {"ieee", "none"}
        assert told() == before


@pytest.mark.parametrize("memory_gb", [4.0, 2e-4])
def test_threads_on_one_engine_get_the_results_of_one(memory_gb):
    """But for the order of float32 sums, which depends on how many cores a thread may use."""
    setup = SETUPS["with eos"]()
    paths = late_half(setup)
    requests = [[Request.patch(paths)], [Request.isolate(paths, "mean")], [Request.patch(paths, "mean", 0.5)]]
    one = make_engine("torch", setup.model, setup.sentences, memory_gb)
    expected = [one.evaluate(each) for each in requests] * 4
    engine = make_engine("torch", setup.model, setup.sentences, memory_gb)
    with float32_matmul_precision("medium"), default_dtype(torch.float64), ThreadPoolExecutor(4) as threads:
        before = told()
        found = [*threads.map(engine.evaluate, requests * 4)]
        assert told() == before
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-7)
