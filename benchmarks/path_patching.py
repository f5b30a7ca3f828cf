"""How fast is path patching here? The logits sweep on both engines, beside the paper's release and hooks.

python benchmarks/path_patching.py [--n 98] [--all-sweeps | --big-ds | --growth] [--help]

Prints Markdown tables; what each number is, `benchmarks/README.md` says.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

# This file's folder, where Python looks first, would hide the package `path_patching` behind this file.
sys.path.insert(0, str(Path(__file__).parents[1]))

from reproduction.command_line import prepare

import torch

from benchmarks.growth import Growth, print_growth
from benchmarks.measuring import NotMeasuredError, in_own_process, machine
from benchmarks.phases import (
    BASELINES,
    HOOKS,
    RELEASE,
    TRANSFORMER_LENS,
    Sweep,
    Work,
    all_sweeps,
    baseline_sweep,
    big_data_set,
    engine_sweep,
)
from benchmarks.subjects import SHAPES
from benchmarks.tables import gigabytes, ratio, seconds, table
from path_patching.devices import resolve_device
from path_patching.errors import UserError

ENGINES = ("rust_circuit", "torch")
TOLERANCE = 1e-5  # in probability difference
TOLERANCE_OF_EFFECT = 1e-2  # of the largest effect of a node, so that agreement says something


def main(arguments: list[str] | None = None) -> None:
    """Measure what the flags ask for, and print it."""
    prepare()
    options = _options(arguments)
    work = Work(
        shape=options.model_shape,
        n=options.n,
        device=resolve_device(options.device),
        nodes=options.nodes,
        batch=options.batch,
        memory_gb=options.memory_gb,
    )
    print(f"{machine(work.device, options.threads)}\n")
    if options.growth:
        shapes, lengths = options.growth_shapes, options.growth_lengths
        limits = (options.threads, options.time_limit)
        print_growth(Growth(options.engines, options.growth_n, lengths, shapes, *limits), work)
    elif options.all_sweeps:
        print_all_sweeps(options, work)
    elif options.big_ds:
        print_big_data_set(options, work)
    else:
        print_comparison(options, work)


def print_comparison(options: argparse.Namespace, work: Work) -> None:
    """The logits sweep in every way, checked against each other before any time is printed."""
    sweeps: dict[str, Sweep] = {}
    missing = []
    for how in options.baselines:
        try:
            sweeps[how] = in_own_process(baseline_sweep, how, work, threads=options.threads)
        except NotMeasuredError as reason:
            missing.append(f"\nNot measured: {BASELINES[how]}: {reason}.")
    for name in options.engines:
        sweeps[name] = in_own_process(engine_sweep, name, work, threads=options.threads)
    reference = sweeps[options.engines[-1]]
    apart = {how: differences_from(reference, sweep) for how, sweep in sweeps.items()}
    check_agreement(apart, reference)
    release, hooks = sweeps.get(RELEASE), sweeps.get(TRANSFORMER_LENS) or sweeps.get(HOOKS)
    print(f"Logits sweep, {work.shape} shape with random weights, {work.n} sentences, {work.device}.")
    print(f"Largest effect of a node on a sentence's probability difference: {reference.effect:.1e}.\n")
    against = f"differs from {reference.how}"
    ratios = ("release ÷ time", "hooks ÷ time", "release ÷ core time", "hooks ÷ core time")
    headers = ("how", "preparing", "time", "core time", "nodes run", *ratios, "peak memory", against)
    rows = ([*_comparison_row(sweep, release, hooks), f"{apart[how]:.0e}"] for how, sweep in sweeps.items())
    print(table(headers, rows))
    print("\nThe floor: matrix products alone, at the rate measured in the engine's own process.\n")
    ratios = ("time ÷ plain", "time ÷ factored", "core time ÷ plain", "core time ÷ factored")
    headers = ("engine", "rate", "two forward passes", "plain rows", "factored rows", *ratios)
    print(table(headers, (_floor_row(sweep) for sweep in sweeps.values() if sweep.floors)))
    print("".join(missing), end="\n" if missing else "")


def differences_from(reference: Sweep, sweep: Sweep) -> float:
    """The largest difference between two ways' probability differences, of any shared node on any sentence."""
    ours, theirs = (torch.tensor(each.differences, dtype=torch.float64) for each in (reference, sweep))
    return (ours - theirs).abs().max().item()


def check_agreement(apart: Mapping[str, float], reference: Sweep) -> None:
    """Raise `UserError` unless every way is within rounding of the reference, and far within a node's effect."""
    tolerance = min(TOLERANCE, TOLERANCE_OF_EFFECT * reference.effect)
    if wrong := [f"{how} ({difference:.1e})" for how, difference in apart.items() if not difference < tolerance]:
        raise UserError(f"no times: {', '.join(wrong)} and the {reference.how} give different results; report this")


def _comparison_row(sweep: Sweep, release: Sweep | None, hooks: Sweep | None) -> list[str]:
    share = "all" if sweep.nodes_run == sweep.n_nodes else f"{sweep.nodes_run} of {sweep.n_nodes}"
    return [
        sweep.how,
        seconds(sweep.preparing),
        *(seconds(cost) for cost in sweep.cost),
        f"{share} in {seconds(sweep.seconds_run)}",
        *(ratio(other and other.cost.clock, sweep.cost.clock) for other in (release, hooks)),
        *(ratio(other and other.cost.core, sweep.cost.core) for other in (release, hooks)),
        gigabytes(sweep.memory),
    ]


def _floor_row(sweep: Sweep) -> list[str]:
    floor = sweep.floors[0]
    times = (seconds(time) for time in (floor.forward, floor.plain_rows, floor.factored_rows))
    bounds = zip(sweep.cost, sweep.floors, strict=True)
    ratios = (ratio(cost, bound) for cost, of in bounds for bound in (of.plain, of.factored))
    return [sweep.how, f"{floor.gflops:.0f} GFLOP/s", *times, *ratios]


def print_all_sweeps(options: argparse.Namespace, work: Work) -> None:
    """Every sweep of `circuit_discovery.py` on each engine."""
    times = {name: in_own_process(all_sweeps, name, work, threads=options.threads) for name in options.engines}
    print(f"All sweeps of `circuit_discovery.py`, {work.shape} shape, {work.n} sentences, {work.device}.\n")
    names = next(iter(times.values())).seconds
    rows = [[name, *(seconds(each.seconds[name]) for each in times.values())] for name in names]
    rows.append([f"all {len(names)}", *(seconds(sum(each.seconds.values())) for each in times.values())])
    rows.append(["peak memory", *(gigabytes(each.memory) for each in times.values())])
    print(table(("sweep", *times), rows))


def print_big_data_set(options: argparse.Namespace, work: Work) -> None:
    """The evaluations of `big_ds_experiments.py` on each engine, beside as many plain forward passes."""
    costs = {name: in_own_process(big_data_set, name, work, threads=options.threads) for name in options.engines}
    print(f"The evaluations of `big_ds_experiments.py`, {work.shape} shape, {work.n} sentences, {work.device}.\n")
    headers = ("engine", "four evaluations", "a sentence", "four passes ÷ time", "at END alone ÷ time", "peak memory")
    rows = (
        [
            name,
            seconds(cost.evaluations),
            f"{1000 * cost.evaluations / work.n:.3g} ms",
            ratio(cost.passes, cost.evaluations),
            ratio(cost.passes_at_end, cost.evaluations),
            gigabytes(cost.memory),
        ]
        for name, cost in costs.items()
    )
    print(table(headers, rows))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--all-sweeps", action="store_true", help="every sweep of circuit_discovery.py")
    mode.add_argument("--big-ds", action="store_true", help="what big_ds_experiments.py evaluates")
    mode.add_argument("--growth", action="store_true", help="against sentences, tokens and parameters")
    have_rust = find_spec("rust_circuit") is not None
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES if have_rust else ENGINES[1:])
    parser.add_argument("--baselines", nargs="*", choices=BASELINES, default=list(BASELINES))
    parser.add_argument("--n", type=int, default=98, help="sentences (98)")
    parser.add_argument(
        "--nodes", type=int, help="nodes that each baseline runs, scaled up to all (release: all; hooks: 13)"
    )
    parser.add_argument("--batch", type=int, default=98, help="sentences at once in the baselines (98)")
    parser.add_argument("--model-shape", choices=SHAPES, default="small", help="with random weights (small)")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:i (cpu)")
    parser.add_argument("--threads", type=int, default=0, help="threads of PyTorch (its own choice)")
    parser.add_argument("--memory-gb", type=float, default=4.0, help="memory for the engines' batches (4)")
    parser.add_argument("--time-limit", type=float, default=300.0, help="seconds for a point of --growth (300)")
    parser.add_argument("--growth-n", type=int, nargs="+", default=[98, 490, 2000, 10_000])
    parser.add_argument("--growth-lengths", type=int, nargs="+", default=[13, 26, 52, 104])
    parser.add_argument(
        "--growth-shapes", nargs="+", choices=SHAPES, default=["2-layers", "6-layers", "small", "medium", "large", "xl"]
    )
    options = parser.parse_args(arguments)
    if min(options.n, options.batch, *options.growth_n) < 1:
        raise UserError("--n, --batch and --growth-n count sentences; give 1 or more")
    if options.nodes is not None and options.nodes < 2:
        raise UserError(f"--nodes {options.nodes}: give 2 or more, so that what nodes share can be told from their own")
    return options


if __name__ == "__main__":
    main()
