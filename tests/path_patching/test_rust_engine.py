"""The circuits of rust_circuit's engine are built once for all that is alike, so that large path sets stay cheap."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from path_patching.engine import Request
from path_patching.errors import UserError
from path_patching.paths import Node, PathSet
from tests.helpers.setups import SETUPS

pytest.importorskip("rust_circuit", reason="rust_circuit is not installed")

from path_patching.rust_engine.engine import PathCircuitBuilder, RustCircuitEngine
from path_patching.rust_engine.gpt2_circuits import Gpt2Circuit, stream_name


def test_what_nodes_read_alike_is_built_once() -> None:
    """Heads of a layer share a stream and its LayerNorm; all later readers of a position share its keys and values."""
    setup = SETUPS["with eos"]()
    sizes = setup.model.architecture
    earliest = setup.end - 2
    changed = Node.mlp(0, earliest)
    paths = PathSet.all_downstream([changed], setup.end, sizes.n_layers, sizes.n_heads)
    builder = PathCircuitBuilder(Gpt2Circuit(setup.model, "cpu"))
    builder.build(paths)
    inner, waiting = {}, [paths]
    while waiting:
        part = waiting.pop()
        if part.branches and part.node not in inner:
            inner[part.node] = part.branches
            waiting += [branch.paths for branch in part.branches]
    inputs = {
        (node.name, branch.via, branch.paths.node.position)
        for node, branches in inner.items()
        if node.kind == "head"
        for branch in branches
    }
    read = {(stream_name(node), node.position) for node in inner}
    assert builder._recomputed.cache_info().misses == len(inner)
    assert builder._read.cache_info().misses == len(read)
    assert builder._input.cache_info().misses == len(inputs)


def test_a_circuit_names_the_leaves_that_it_has_and_no_others() -> None:
    setup = SETUPS["with eos"]()
    builder = PathCircuitBuilder(Gpt2Circuit(setup.model, "cpu"))
    builder.build(PathSet.parse("a1.h0 → m2 → logits", end=setup.end))
    alone = builder.build(PathSet.parse("m1 → logits", end=setup.end))
    assert {leaf.name for leaf in alone.leaves} == {f"change:m1@{setup.end}", f"final.in@{setup.end}"}


def test_a_sweep_on_mean_data_is_each_patch_on_mean_data() -> None:
    setup = SETUPS["with eos"]()
    engine = RustCircuitEngine(setup.model, setup.sentences)
    receivers, senders = (
        PathSet.parse("m2 → logits", end=setup.end),
        [Node.mlp(0, setup.end), Node.head(1, 0, setup.end)],
    )
    each = engine.evaluate([Request.patch(receivers.extend([sender]), "mean") for sender in senders])
    torch.testing.assert_close(engine.sweep(receivers, senders, inside="mean"), each, rtol=0, atol=1e-6)
    assert (each - engine.sweep(receivers, senders)).abs().max() > 1e-4


@pytest.mark.parametrize(
    "ask",
    [
        lambda engine, end: engine.clean(),
        lambda engine, end: engine.sweep(PathSet.at(Node.logits(end)), [Node.mlp(0, end)]),
        lambda engine, end: engine.writes([Node.mlp(0, end)], "mean"),
        lambda engine, end: engine.like(engine.sentences).attention([(0, 0)]),
    ],
)
def test_in_another_thread_than_its_makers_it_is_one_line(ask: Callable[[RustCircuitEngine, int], object]) -> None:
    """rust_circuit panics there, with what `except Exception` does not catch."""
    setup = SETUPS["with eos"]()
    engine = RustCircuitEngine(setup.model, setup.sentences)
    engine.clean()
    with ThreadPoolExecutor(1) as other, pytest.raises(UserError, match="only in the thread that made it"):
        other.submit(ask, engine, setup.end).result()
    engine.clean()
