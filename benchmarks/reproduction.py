"""How long does every step of the reproduction take, how much memory, and how far is that from its floor?

python benchmarks/reproduction.py [--n N] [--steps STEP ...] [--engines rust_circuit torch] [--threads 2] [--help]

Each step is the script itself, run in a process of its own as `reproduce.py` runs it, with the paper's circuit, on a
random model of GPT-2 small's shape (year tokens made likely), written to a temporary folder as a checkpoint. Its time
is all of it, from the start of Python to the record. A random model has no circuit, so the validation leaves out the
tests that search for one; with `--model-shape wide-standin` it leaves out none.

The floor counts matrix products alone, of what was asked for while the step ran, each thing once (`needs.py`):

- a row of the unembedding for each request and distinct pair of sentences, of a head's direct effect its cheaper part;
- a forward pass over every distinct prefix of a sentence, and of edits what lies above what is edited;
- the MLPs that path sets recompute, one for each distinct sub-tree of the paths and pair of sentences;
- of the effects of neurons, the exponentials.

All at the rates measured in the step's own process, on blocks that are fastest. In the floor is no attention, no
softmax, no LayerNorm, no activation function, no recomputed head, no bootstrap, no import and no file. It is compared
in core time, the processor time of all threads, which other work on the machine stretches less than time by the clock.
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

# This file's folder, where Python looks first, would hide the package `reproduction` behind this file.
sys.path.insert(0, str(Path(__file__).parents[1]))

from reproduction.command_line import prepare

from benchmarks.floor import layer_cost, mlp_cost, unembedding_cost
from benchmarks.measuring import in_own_process, machine, peak_gb
from benchmarks.needs import Count, counting
from benchmarks.neurons import core_time_of_exponential
from benchmarks.subjects import SHAPES, WIDE_STANDIN, subject, wide_standin
from benchmarks.tables import gigabytes, ratio, seconds, table
from path_patching.errors import UserError
from path_patching.gpt2.model import Architecture, to_transformers
from reproduction.experiments import EXPERIMENTS, PLOTS
from reproduction.steps import Step, steps_of

ENGINES = ("rust_circuit", "torch")
VALIDATION = "circuit_validation"
ROWS = 512  # in a block whose rate is measured


@dataclass(frozen=True)
class Measured:
    """A step's seconds by the clock and of processor time, its memory, and processor time of the parts of its floor.

    `rate` is that of one core at the unembedding, in multiplications and additions a second.
    """

    clock: float
    core: float
    memory: float
    rate: float
    floor: Count

    @property
    def least(self) -> float:
        """The whole floor."""
        return self.floor.unembedded + self.floor.layers + self.floor.mlps + self.floor.exponentials


def run_step(step: Step, sizes: Architecture, started: float) -> Measured:
    """Run a step in this process, which began at `started` seconds since the epoch, and measure its floor."""
    with counting() as needs, patch.object(sys, "argv", [*step.program, *step.arguments]):
        runpy.run_path(step.program[0], run_name="__main__")
    clock, core, memory = time.time() - started, time.process_time(), peak_gb("cpu")
    row = unembedding_cost(ROWS, sizes.d_model, sizes.vocab_size, "cpu").core / ROWS
    rate = 2 * sizes.d_model * sizes.vocab_size / row
    return Measured(clock, core, memory, rate, _core_time(needs.total(sizes), sizes, row))


def _core_time(count: Count, sizes: Architecture, row: float) -> Count:
    """What is counted, in seconds of processor time at this process's rates; `row` is that of an unembedded row."""
    return Count(
        unembedded=count.unembedded * row,
        layers=count.layers * layer_cost(sizes, ROWS, "cpu").core / ROWS,
        mlps=count.mlps * mlp_cost(sizes, ROWS, "cpu").core / ROWS,
        exponentials=count.exponentials and count.exponentials * core_time_of_exponential("cpu"),
    )


def measure(engine: str, options: argparse.Namespace, folder: Path, sizes: Architecture) -> dict[str, Measured]:
    """Every step asked for on one engine, in order; the model of these sizes lies in `folder`, where results go too."""
    flags = ["--engine", engine, "--device", "cpu", *(["--n", str(options.n)] if options.n else [])]
    out = folder / engine
    steps = steps_of(str(folder / "model"), flags, out / "paper-cache", out / "paper-plots", out, "paper")
    return {
        step.script: in_own_process(run_step, step, sizes, time.time(), threads=options.threads)
        for step in steps
        if step.script in options.steps
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure and print one table for each engine."""
    prepare()
    options = _options(arguments)
    print(f"{machine('cpu', options.threads)}\n")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        shape = options.model_shape
        model = wide_standin() if shape == WIDE_STANDIN else subject(shape, 1).model
        to_transformers(model).save_pretrained(folder / "model")
        with patch.dict(os.environ, {"TENSORS_CACHE_DIR": str(folder / "tensors")}):
            for engine in options.engines:
                found = measure(engine, options, folder, model.architecture)
                number = f"--n {options.n}" if options.n else "each with its own number of sentences"
                print(f"Steps of the reproduction, {shape} shape, {engine}, {number}.\n")
                rows = [[step, *_cells(each)] for step, each in found.items()]
                print(table([*HEADERS], [*rows, *_sums(found)]))
                print()


HEADERS = (
    "step", "time", "core time", "peak memory", "rate of a core", "floor: unembedding", "forward passes",
    "recomputed MLPs", "exponentials", "core time ÷ floor",
)  # fmt: skip


def _cells(of: Measured) -> list[str]:
    parts = (of.floor.unembedded, of.floor.layers, of.floor.mlps, of.floor.exponentials)
    counted = [seconds(part) if part else "" for part in parts]
    of_floor = ratio(of.core, of.least) if of.least else ""
    rate = f"{of.rate / 1e9:.0f} GFLOP/s"
    return [seconds(of.clock), seconds(of.core), gigabytes(of.memory), rate, *counted, of_floor]


def _sums(found: dict[str, Measured]) -> list[list[str]]:
    """The row of all steps that ran but the validation, if these are several."""
    summed = [each for step, each in found.items() if step != VALIDATION]
    if len(summed) < 2:
        return []
    clock, core = sum(each.clock for each in summed), sum(each.core for each in summed)
    memory, rate = max(each.memory for each in summed), sum(each.rate for each in summed) / len(summed)
    whole = Measured(clock, core, memory, rate, sum((each.floor for each in summed), start=Count()))
    return [[f"together, but {VALIDATION}" if VALIDATION in found else "together", *_cells(whole)]]


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    every = (*EXPERIMENTS, *PLOTS)
    parser.add_argument("--n", type=int, help="sentences of every step (each step's own default)")
    parser.add_argument("--steps", nargs="+", choices=every, default=every, metavar="STEP", help="(all of them)")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES, help="(both)")
    parser.add_argument(
        "--model-shape", choices=[*SHAPES, WIDE_STANDIN], default="small", help="random weights (small)"
    )
    parser.add_argument("--threads", type=int, default=0, help="threads of PyTorch (its own choice)")
    options = parser.parse_args(arguments)
    if options.n is not None and options.n < 1:
        raise UserError("--n counts sentences: give 1 or more")
    return options


if __name__ == "__main__":
    main()
