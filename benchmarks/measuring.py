"""Time and memory, measured honestly: each thing measured runs in a process of its own, on a warm GPU if on one."""

from __future__ import annotations

import contextlib
import datetime
import math
import multiprocessing
import os
import platform
import re
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from path_patching.errors import UserError
from reproduction.provenance import library_versions

try:
    import resource
except ImportError:  # Windows has none: memory stays blank
    resource = None

T = TypeVar("T")

KILLED = -9  # the exit code of a process that the system ended


class NotMeasuredError(UserError):
    """There is no measurement, and why: a limit of time or memory, or a library that is not there."""


class Cost(NamedTuple):
    """Seconds: by the clock, and of processor time, that of all threads together.

    Other work on the machine stretches the second less. On a GPU both are by the clock.
    """

    clock: float
    core: float


class Timed(NamedTuple):
    """A result and what it cost."""

    result: Any
    cost: Cost

    @property
    def seconds(self) -> float:
        """By the clock."""
        return self.cost.clock


def timed(compute: Callable[[], T], device: str) -> Timed:
    """Run `compute` and wait for all it started on `device`."""
    _synchronize(device)
    start, start_core = time.perf_counter(), time.process_time()
    result = compute()
    _synchronize(device)
    clock, core = time.perf_counter() - start, time.process_time() - start_core
    return Timed(result, Cost(clock, clock if torch.device(device).type == "cuda" else core))


def median_cost(compute: Callable[[], object], device: str, repeats: int = 3) -> Cost:
    """Median cost of several runs, after one that warms up."""
    compute()
    costs = [timed(compute, device).cost for _ in range(repeats)]
    return Cost(*(sorted(each)[repeats // 2] for each in zip(*costs, strict=True)))


def scaled_up(run: Cost, few: Cost, n_run: int, n_few: int, n_all: int) -> Cost:
    """The cost of `n_all` alike things, from `run` of `n_run` and `few` of `n_few`; what all share is in both."""
    share = (n_all - n_run) / max(1, n_run - n_few)
    return Cost(*(some + share * max(0.0, some - less) for some, less in zip(run, few, strict=True)))


def machine(device: str, threads: int) -> str:
    """What numbers are measured on, and when."""
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items() if version)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    gpu = f", {torch.cuda.get_device_name(device)}" if torch.device(device).type == "cuda" else ""
    return (
        f"{datetime.date.today()}, {platform.system()} {platform.machine()}, {cores} cores{gpu}, "
        f"{threads or torch.get_num_threads()} threads, load {load} at the start; {versions}"
    )


def peak_gb(device: str) -> float:
    """The most memory this process has held, weights and libraries included, in gigabytes (10⁹ bytes).

    On a GPU what PyTorch allocated there; nan where the system does not say.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if resource is None:
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def in_own_process(measure: Callable[..., T], *arguments: object, threads: int = 0, limit_s: float | None = None) -> T:
    """`measure(*arguments)` in a fresh Python with `threads` threads (0: PyTorch's choice).

    Raises `NotMeasuredError` if it takes longer than `limit_s` or the system ends it, and the `UserError` that it
    raises itself. What `measure` prints goes to stderr, so that tables alone are on stdout.
    """
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_measure_and_send, args=(sending, measure, arguments, threads))
    process.start()
    sending.close()
    try:
        if not receiving.poll(limit_s):
            raise NotMeasuredError(f"over {limit_s:.0f} s")
        error, result = receiving.recv()
        process.join()
    except EOFError:
        process.join()
        raise NotMeasuredError(_ended(process.exitcode)) from None
    finally:
        process.kill()
        process.join()
    if error is not None:
        raise error
    return result


def _measure_and_send(
    sending: Connection, measure: Callable[..., object], arguments: tuple[object, ...], threads: int
) -> None:
    if threads:
        torch.set_num_threads(threads)
    outcome: tuple[Exception | None, object]
    try:
        with contextlib.redirect_stdout(sys.stderr):
            outcome = None, measure(*arguments)
    except UserError as error:
        outcome = error, None
    except (torch.OutOfMemoryError, MemoryError):
        outcome = NotMeasuredError("out of memory"), None
    except Exception:
        outcome = RuntimeError(traceback.format_exc()), None
    sending.send(outcome)


def available_gb() -> float:
    """Memory that a new process may take, in gigabytes; infinite where the system does not say."""
    try:
        found = re.search(r"^MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1]) * 1024 / 1e9 if found else math.inf


def _ended(exit_code: int | None) -> str:
    """Why a process ended without an answer."""
    return "ended by the system, likely for its memory" if exit_code == KILLED else f"ended with exit code {exit_code}"


def _synchronize(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
