"""How time and memory grow with sentences, their length, and the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from benchmarks.measuring import NotMeasuredError, available_gb, in_own_process
from benchmarks.phases import Point, Work, late_half_point, sweep_point
from benchmarks.subjects import SHAPES
from benchmarks.tables import gigabytes, seconds, table

Measured = Point | str  # or why there is none


@dataclass(frozen=True)
class Growth:
    """What to measure at: numbers of sentences, their lengths, shapes; and how long a point may take."""

    engines: Sequence[str]
    n: Sequence[int]
    lengths: Sequence[int]
    shapes: Sequence[str]
    threads: int
    limit_s: float


def print_growth(growth: Growth, work: Work) -> None:
    """Print a table for each thing that grows; what does not is as in `work`, with a quarter of its sentences."""
    few = replace(work, n=max(1, work.n // 4))
    at_n = [replace(work, n=n) for n in growth.n]
    at_lengths = [replace(few, length=length) for length in growth.lengths]
    at_shapes = [replace(few, shape=shape) for shape in growth.shapes]
    series = {
        f"Late half, {work.shape} shape": (late_half_point, "sentences", at_n),
        f"Logits sweep, {work.shape} shape": (sweep_point, "sentences", at_n),
        f"Logits sweep of {few.n} sentences, {work.shape} shape": (sweep_point, "tokens", at_lengths),
        f"Logits sweep of {few.n} sentences": (sweep_point, "parameters", at_shapes),
    }
    print(f"{work.device}; each point within {growth.limit_s:.0f} s, loading included.")
    for title, (measure, size, works) in series.items():
        print(f"\n{title}\n\n{_series(growth, partial(measure, size=size), size, works)}", flush=True)


def _series(growth: Growth, measure: Callable[..., Point], size: str, works: Sequence[Work]) -> str:
    """A row a point, two columns an engine, and the fitted exponents."""
    found = [[_point(growth, measure, engine, work) for work in works] for engine in growth.engines]
    rows = [[_label(work, size), *_cells(points)] for work, *points in zip(works, *found, strict=True)]
    exponents = [cell for points in found for cell in (exponent(points), "")]
    headers = (size, *(f"{engine}, {unit}" for engine in growth.engines for unit in ("time", "peak memory")))
    return table(headers, [*rows, ["exponent of time", *exponents]])


def _point(growth: Growth, measure: Callable[..., Point], engine: str, work: Work) -> Measured:
    needed = 2 * 4e-9 * parameters(work.shape) + 2  # the model, what an engine makes of it, and what it works in
    if needed > available_gb():
        return f"needs some {needed:.0f} GB of memory"
    try:
        return in_own_process(measure, engine, work, threads=growth.threads, limit_s=growth.limit_s)
    except NotMeasuredError as reason:
        return str(reason)


def exponent(points: Iterable[Measured]) -> str:
    """The slope of log time against log size by least squares; blank for fewer than two points."""
    measured = [(point.size, point.seconds) for point in points if isinstance(point, Point)]
    if len(measured) < 2:
        return ""
    sizes, times = torch.tensor(measured, dtype=torch.float64).log().T
    centred = sizes - sizes.mean()
    return f"{(centred @ times / (centred @ centred)).item():.2f}"


def parameters(shape: str) -> int:
    """Numbers in a model of a shape, with an unembedding of its own."""
    return sum(math.prod(sizes) for sizes in SHAPES[shape].tensor_shapes().values())


def _label(work: Work, size: str) -> str:
    sizes = {"sentences": f"{work.n:,}", "tokens": f"{work.length}"}
    return sizes[size] if size in sizes else f"{parameters(work.shape) / 1e6:,.0f} million ({work.shape})"


def _cells(points: Iterable[Measured]) -> list[str]:
    cells = []
    for point in points:
        cells += [seconds(point.seconds), gigabytes(point.memory)] if isinstance(point, Point) else ["", f"({point})"]
    return cells
