"""How much cheaper are many requests in one call than one request a call, and how far is that from the floor?

python benchmarks/many_requests.py [--model standin] [--n 97] [--engines torch rust_circuit] [--help]

Two sets of requests, as the validation of a circuit asks for: the late halves of random circuits of the paper's shape,
alone; and the paper's full circuit alone, with each of its nodes avoided. Together they share a forward pass, what
equal parts of their paths change, and the unembedding's blocks. Half of them are run first, to warm up.

The floor is what no identity avoids: of each request that equals no other, a row of the unembedding for each sentence.
It is the product alone, on a block of the size that the engine works on, at the rate measured in the same process; no
softmax, no patching. It is compared in core time, the processor time of all threads, which other work on the machine
stretches less than time by the clock; on a GPU in time by the clock. Results must be those of single requests to 1e-5.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

# This file's folder, where Python looks first, would hide the module `path_patching` behind a file of its own.
sys.path.insert(0, str(Path(__file__).parents[1]))

from reproduction.command_line import prepare

import torch

from benchmarks.measuring import Cost, in_own_process, machine, median_cost, timed
from benchmarks.subjects import SHAPES, STANDIN, Subject, spread, subject
from benchmarks.tables import ratio, seconds, table
from path_patching.circuits.circuit import full_circuit, late_half
from path_patching.circuits.random_circuits import random_circuit
from path_patching.devices import resolve_device
from path_patching.engine import Engine, Request
from path_patching.engine_choice import make_engine
from path_patching.errors import UserError
from path_patching.gpt2.tensor_cache import load_model
from path_patching.unembedding import ROWS_AT_ONCE, Unembedding
from reproduction.paper import PAPER

AGREEMENT = 1e-5  # of probabilities, the repository's promise; rust_circuit's sums have no order of their own
RANDOM, AVOIDING = "random late halves", "full circuit, a node avoided"


@dataclass(frozen=True)
class Compared:
    """What some requests cost one by one and together, core time of the floor, and how far their results are apart."""

    n_requests: int
    n_distinct: int
    apart: Cost
    together: Cost
    floor: float
    difference: float


def compare(engine_name: str, model: str, n: int, at_most: int, device: str) -> dict[str, Compared]:
    """Both sets of requests on one engine, `at_most` requests of each."""
    on = subject_of(model, n)
    engine = make_engine(engine_name, device, on.model, on.sentences, check=False)
    row = _core_time_of_row(engine)
    return {name: _compared(engine, spread(all_, at_most), row) for name, all_ in requests_of(on).items()}


def subject_of(model: str, n: int) -> Subject:
    """The stand-in, or a random model of a shape of `SHAPES`, and sentences."""
    return replace(subject("tiny", n), model=load_model(STANDIN)) if model == STANDIN else subject(model, n)


def requests_of(on: Subject) -> dict[str, list[Request]]:
    """What is measured: 60 random circuits' late halves, and the full circuit without each of its nodes, all alone."""
    rng, end = random.Random(0), on.sentences.end
    circuits = [random_circuit(PAPER, on.model.architecture, rng) for _ in range(60)]
    full = full_circuit(PAPER, on.yy_position, end)
    left = [full.avoiding([node]) for node in sorted(full.nodes())]
    return {
        RANDOM: [Request.isolate(late_half(each, end)) for each in circuits],
        AVOIDING: [Request.isolate(paths) for paths in left if paths is not None],
    }


def _compared(engine: Engine, requests: Sequence[Request], row: float) -> Compared:
    few = requests[: max(1, len(requests) // 2)]
    engine.evaluate(few)
    apart = timed(lambda: torch.cat([engine.evaluate([each]) for each in requests]), engine.device)
    together = timed(lambda: engine.evaluate(requests), engine.device)
    difference = (apart.result - together.result).abs().max().item()
    if not difference < AGREEMENT:
        raise UserError(f"{engine.name}: requests together differ from single ones by {difference:.1e}; no times")
    distinct = len(set(requests))
    floor = distinct * len(engine.sentences) * row
    return Compared(len(requests), distinct, apart.cost, together.cost, floor, difference)


def _core_time_of_row(engine: Engine) -> float:
    """Seconds of one row's product with the unembedding, within a block."""
    unembedding = Unembedding(engine.model, engine.sentences.answers, engine.device)
    n_rows = ROWS_AT_ONCE[torch.device(engine.device).type]
    block = torch.randn(n_rows, engine.model.architecture.d_model, device=engine.device)
    return median_cost(lambda: block @ unembedding.rows.T, engine.device).core / n_rows


def main(arguments: list[str] | None = None) -> None:
    """Measure and print one table."""
    prepare()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--model", choices=[STANDIN, *SHAPES], default=STANDIN, help="or a shape with random weights (standin)"
    )
    parser.add_argument("--n", type=int, default=97, help="sentences (97)")
    parser.add_argument("--requests", type=int, default=60, help="of each set, at most (60)")
    parser.add_argument("--engines", nargs="+", default=["torch", "rust_circuit"], help="torch, rust_circuit (both)")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:i (cpu)")
    parser.add_argument("--threads", type=int, default=0, help="threads of PyTorch (its own choice)")
    options = parser.parse_args(arguments)
    if options.requests < 1 or options.n < 1:
        raise UserError("give --requests 1 or more and --n 1 or more")
    device = resolve_device(options.device)
    print(f"{machine(device, options.threads)}\n")
    rows = []
    for engine in options.engines:
        found = in_own_process(
            compare, engine, options.model, options.n, options.requests, device, threads=options.threads
        )
        rows += [[engine, name, *_cells(each)] for name, each in found.items()]
    print(f"Many requests, {options.model}, {options.n} sentences, {device}.\n")
    print(table([*HEADERS], rows))


HEADERS = (
    "engine", "requests", "number", "distinct", "one by one", "together", "together ÷ one by one",
    "core time", "floor: unembedding alone", "largest difference",
)  # fmt: skip


def _cells(found: Compared) -> list[str]:
    return [
        str(found.n_requests),
        str(found.n_distinct),
        seconds(found.apart.clock),
        seconds(found.together.clock),
        ratio(found.together.core, found.apart.core),
        seconds(found.together.core),
        seconds(found.floor),
        f"{found.difference:.1e}",
    ]


if __name__ == "__main__":
    main()
