"""Ctrl-C waits until what must not be interrupted is done, and is not lost."""

from __future__ import annotations

import signal
import threading

import pytest
import torch

from path_patching.interrupts import interrupts_held


@pytest.fixture(autouse=True)
def _interruptible():
    """Also where the tests run in the background, and Ctrl-C is ignored."""
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, earlier)


def test_an_interrupt_waits_until_all_is_done():
    done = []

    def work() -> None:
        with interrupts_held():
            signal.raise_signal(signal.SIGINT)
            done.append("all")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["all"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_without_an_interrupt_nothing_changes_even_after_an_error():
    with pytest.raises(ValueError, match="wrong"), interrupts_held():
        raise ValueError("wrong")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_get_no_interrupts_and_hold_none():
    done = []

    def work() -> None:
        with interrupts_held():
            done.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [signal.default_int_handler]


def test_rust_circuit_is_not_interrupted(monkeypatch):
    """It calls Python for each operation, and makes a panic of what is raised there."""
    rc = pytest.importorskip("rust_circuit", reason="rust_circuit is not installed")
    from path_patching.rust_engine.activations import evaluate

    symbol = rc.Symbol.new_with_random_uuid((3,), "x")
    multiplied = rc.Einsum.from_einsum_string("a,a->a", symbol, rc.Scalar(2.0, shape=(3,)))
    original = torch.einsum
    called = []

    def interrupted(*arguments: object) -> torch.Tensor:
        signal.raise_signal(signal.SIGINT)
        called.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(torch, "einsum", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate([multiplied], {"x": torch.ones(3)})
    assert called
