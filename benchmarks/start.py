"""How long until a first answer, and how far is that from what PyTorch alone takes?

python benchmarks/start.py [--runs 3] [--only "circuit_discovery.py --help" …] [--help]

Each row is a process of its own, run several times; the least is shown, of the processor's time (user and system, of
one thread) and of the clock's. The question is the README's. It is asked once before: then our modules are compiled,
the stand-in is in the tensor cache, and what `transformers` answers is kept there.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

# This file's folder, where Python looks first, would hide the module `path_patching` behind a file of its own.
sys.path.insert(0, str(Path(__file__).parents[1]))

from reproduction.command_line import prepare

from benchmarks.measuring import Cost, machine
from benchmarks.tables import ratio, seconds, table
from path_patching.errors import UserError
from path_patching.files import ROOT

QUESTION = """
from path_patching import PathSet
from utils import start_experiment

experiment = start_experiment(model="standin", n=97, engine="{engine}")
path = PathSet.parse("a9.h1 → m9 → logits", end=experiment.END, yy=experiment.YY)
print(experiment.effect(path))
"""
FIRST_LINE = """
import os, runpy, sys
sys.argv = ["circuit_discovery.py", "--model", "standin"]
sys.stdout.write = lambda text: os._exit(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""
READ = "from path_patching import load_model; load_model('standin')"
FLOOR = "import torch"
ROWS = {
    FLOOR: ("-c", FLOOR),
    "reading and hashing the stand-in": ("-c", READ),
    "circuit_discovery.py --help": ("circuit_discovery.py", "--help"),
    "reproduce.py --help": ("reproduce.py", "--help"),
    "reproduce.py models --help": ("reproduce.py", "models", "--help"),
    "the first line of circuit_discovery.py": ("-c", FIRST_LINE),
    "the question, torch": ("-c", QUESTION.format(engine="torch")),
    "the question, rust_circuit": ("-c", QUESTION.format(engine="rust_circuit")),
}


def run(arguments: tuple[str, ...]) -> Cost:
    """What a process costs that runs Python with these arguments. Raises `UserError` if it fails."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # our modules would be compiled each time
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    clock, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise UserError(f"{arguments[0]} failed: {done.stderr.strip().splitlines()[-1]}")
    return Cost(clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def least(arguments: tuple[str, ...], runs: int) -> Cost:
    """The least of several runs, of each kind of time, after one that fills caches."""
    run(arguments)
    costs = [run(arguments) for _ in range(runs)]
    return Cost(min(each.clock for each in costs), min(each.core for each in costs))


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    prepare()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="runs of each, after one that is not counted")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=[*ROWS], metavar="ROW", help=", ".join(ROWS))
    options = parser.parse_args(arguments)
    if options.runs < 1:
        raise UserError("give --runs 1 or more")
    print(f"{machine('cpu', 1)}\n")
    costs = {name: least(ROWS[name], options.runs) for name in dict.fromkeys((FLOOR, *options.only))}
    floor = costs[FLOOR].core
    rows = [[name, seconds(cost.core), seconds(cost.clock), ratio(cost.core, floor)] for name, cost in costs.items()]
    print(table(["what", "core time", "clock", f"÷ {FLOOR}"], rows))


if __name__ == "__main__":
    main()
