"""How long does ranking all neurons of an MLP by their direct effects take, and how far is that from the floor?

python benchmarks/neurons.py [--neurons 384] [--n 490] [--help]

Measured on some of the neurons, scaled up to all: what all neurons share (the clean logits) is in a run with a third
of them too, so that the difference is what neurons cost by themselves. `--neurons 3072` runs all of GPT-2 small's.

The floor is that of whoever writes every patched softmax out, the exponentials alone: one in float32 for each neuron,
sentence and row of the unembedding, on a block that a core's cache holds, at the rate measured in the same process
between the runs. In the floor no logits are formed, nothing is summed, no matrix is multiplied. What sums short moves
as a series of matrix products can be below it. It is compared in core time, the processor time of all threads, which
other work on the machine stretches less than time by the clock; on a GPU in time by the clock.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path

# This file's folder, where Python looks first, would hide the module `neurons` behind this file.
sys.path.insert(0, str(Path(__file__).parents[1]))

from reproduction.command_line import prepare

import torch

from benchmarks.measuring import Cost, in_own_process, machine, peak_gb, scaled_up, timed
from benchmarks.subjects import SHAPES, subject
from benchmarks.tables import gigabytes, ratio, seconds, table
from path_patching.devices import resolve_device
from path_patching.engine_choice import make_engine
from path_patching.errors import UserError
from path_patching.neurons import Neurons, neuron_effects, read_neurons
from path_patching.sweeps import Metric
from path_patching.unembedding import vocabulary_pieces
from reproduction.settings import chosen_layer
from utils import greater_than

EXPONENTIALS_TIMED = 30_000_000
ROWS = {"cpu": 128, "cuda": 4096}  # of a block of them that a core's cache holds
ROUNDS = 2  # the fastest counts: what else the machine does can only slow a run down


@dataclass(frozen=True)
class Ranking:
    """What `n_run` and all `n_neurons` neurons cost, core time of the floor, and seconds of reading the activations."""

    reading: float
    run: Cost
    n_run: int
    all: Cost
    n_neurons: int
    floor: float
    memory: float


def rank(shape: str, n: int, n_run: int, device: str) -> Ranking:
    """Direct effects of `n_run` neurons of the default layer in a random model."""
    on = subject(shape, n)
    engine = make_engine("torch", device, on.model, on.sentences, check=False)
    read = timed(lambda: read_neurons(engine, chosen_layer(on.model)), device)
    neurons = read.result
    n_neurons = len(neurons)
    n_run = min(n_run, n_neurons)
    n_few = max(1, n_run // 3)

    def metric_of(rows: torch.Tensor) -> Metric:
        return greater_than(on.start_yy[rows])

    neuron_effects(_first(neurons, 1), metric_of)  # warms up
    floors, few, some = [], [], []
    for _ in range(ROUNDS):
        floors.append(core_time_of_exponential(device))
        few.append(timed(lambda: neuron_effects(_first(neurons, n_few), metric_of), device).cost)
        some.append(timed(lambda: neuron_effects(_first(neurons, n_run), metric_of), device).cost)
    run = _fastest(some)
    return Ranking(
        reading=read.seconds,
        run=run,
        n_run=n_run,
        all=scaled_up(run, _fastest(few), n_run, n_few, n_neurons),
        n_neurons=n_neurons,
        floor=n_neurons * n * len(neurons.unembedding.rows) * min(floors),
        memory=peak_gb(device),
    )


def _first(neurons: Neurons, count: int) -> Neurons:
    return replace(
        neurons,
        clean=neurons.clean[:, :count],
        corrupted=neurons.corrupted[:, :count],
        directions=neurons.directions[:count],
    )


def _fastest(costs: list[Cost]) -> Cost:
    return Cost(*map(min, zip(*costs, strict=True)))


def core_time_of_exponential(device: str) -> float:
    """Seconds of one float32 exponential within such a block, on one core."""
    rows = ROWS[torch.device(device).type]
    columns = vocabulary_pieces(SHAPES["small"].vocab_size, rows, device)[0].stop
    block = 0.1 * torch.randn(rows, columns, device=device)
    out = torch.empty_like(block)
    repeats = -(-EXPONENTIALS_TIMED // block.numel())

    def exponentiate() -> None:
        for _ in range(repeats):
            torch.exp(block, out=out)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    costs = [timed(exponentiate, device).cost for _ in range(3)]
    torch.set_num_threads(threads)
    return _fastest(costs).core / (repeats * block.numel())


def main(arguments: list[str] | None = None) -> None:
    """Measure and print one table."""
    prepare()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--neurons", type=int, default=384, help="neurons that are run, scaled up to all (384)")
    parser.add_argument("--n", type=int, default=490, help="sentences (490)")
    parser.add_argument("--model-shape", choices=SHAPES, default="small", help="with random weights (small)")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:i (cpu)")
    parser.add_argument("--threads", type=int, default=0, help="threads of PyTorch (its own choice)")
    options = parser.parse_args(arguments)
    if options.neurons < 2 or options.n < 1:
        raise UserError("give --neurons 2 or more and --n 1 or more")
    device = resolve_device(options.device)
    found = in_own_process(rank, options.model_shape, options.n, options.neurons, device, threads=options.threads)
    print(f"{machine(device, options.threads)}\n")
    print(f"All neurons of an MLP, {options.model_shape} shape with random weights, {options.n} sentences, {device}.\n")
    measured = {
        "neurons": str(found.n_neurons),
        "run": f"{found.n_run} in {seconds(found.run.clock)}",
        "all of them": seconds(found.all.clock),
        "core time": seconds(found.all.core),
        "floor: exponentials alone": seconds(found.floor),
        "core time ÷ floor": ratio(found.all.core, found.floor),
        "reading": seconds(found.reading),
        "peak memory": gigabytes(found.memory),
    }
    print(table(list(measured), [list(measured.values())]))


if __name__ == "__main__":
    main()
