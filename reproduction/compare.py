"""Are two runs the same? The largest difference of each artifact: python reproduce.py compare FOLDER OTHER_FOLDER

Run the experiments twice into two folders, say with --engine rust_circuit --out A and with --engine torch --out B. Both
need the same model and settings. Where nearly equal effects have swapped ranks, the effects are compared.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from path_patching.errors import UserError
from reproduction.publication import record_path
from reproduction.run import Artifacts, check_same_model, read_artifacts
from reproduction.steps import EXPERIMENTS

ORDER, EFFECTS, NUMBERS = "order.pt", "neuron_effects.pt", "numbers"
RANKED = ("t10-logitlens.pt", "t10-direct_effects.pt")  # a row for each of the first neurons of `order.pt`
FREE_SETTINGS = {"engine", "device", "out", "memory_gb", "model"}


def largest_difference(one: object, other: object) -> float:
    """The largest difference of two values of the same form: tensors, numbers, dicts and lists of them.

    That of a tensor or a number that exceeds one is a share of the largest value. Infinite for values of another form,
    and for words that differ.
    """
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return _apart(one.double(), other.double())
    if isinstance(one, Mapping) and isinstance(other, Mapping) and set(one) == set(other):
        return max((largest_difference(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max(map(largest_difference, one, other), default=0.0)
    if isinstance(one, float) and isinstance(other, float):
        return _apart(torch.tensor(one, dtype=torch.float64), torch.tensor(other, dtype=torch.float64))
    return 0.0 if type(one) is type(other) and one == other else math.inf


def _apart(one: torch.Tensor, other: torch.Tensor) -> float:
    if one.shape != other.shape or not torch.equal(one.isnan(), other.isnan()):
        return math.inf
    if one.numel() == 0:
        return 0.0
    apart, size = (one - other).abs().nan_to_num(0).max(), one.abs().nan_to_num(0).max()
    return (apart / size.clamp(min=1)).item()


def compare(one: Artifacts, other: Artifacts) -> dict[str, float]:
    """The largest difference of each artifact of a script, and of the numbers in its record.

    Raises `UserError` if the runs are not comparable.
    """
    check_same_model(one, other)
    settings = [made.record["settings"] for made in (one, other)]
    for name in sorted((set(settings[0]) | set(settings[1])) - FREE_SETTINGS):
        values = [of.get(name) for of in settings]
        if values[0] != values[1]:
            raise UserError(f"{one.script}: {name} is {values[0]} in {one.folder} and {values[1]} in {other.folder}")
    names = set(one.record["artifacts"]), set(other.record["artifacts"])
    if odd := sorted(names[0] ^ names[1]):
        raise UserError(f"{one.script}: {odd[0]} is in one of the two folders alone")
    found = {name: largest_difference(one.load(name), other.load(name)) for name in sorted(names[0])}
    if ORDER in found:
        effects, orders = one.load(EFFECTS).abs(), (one.load(ORDER), other.load(ORDER))
        found[ORDER] = largest_difference(effects[orders[0]], effects[orders[1]])
        for name in names[0].intersection(RANKED):
            found[name] = largest_difference(*_same_neurons(one.load(name), other.load(name), *orders))
    return found | {NUMBERS: largest_difference(*(_by_rank(made.record["numbers"]) for made in (one, other)))}


def _same_neurons(
    one: torch.Tensor, other: torch.Tensor, order: torch.Tensor, order_of_other: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows (K, ...) of two artifacts that are of neurons which both have among their first K, neuron by neuron."""
    rows, rows_of_other = (
        {neuron: row for row, neuron in enumerate(each[: len(one)].tolist())} for each in (order, order_of_other)
    )
    both = [neuron for neuron in rows if neuron in rows_of_other]
    return one[[rows[neuron] for neuron in both]], other[[rows_of_other[neuron] for neuron in both]]


def _by_rank(numbers: Mapping[str, object]) -> dict[str, object]:
    """A record's numbers, those of the strongest nodes or neurons without names, which nearly equal ones may swap."""
    return {
        name: list(value.values()) if name.startswith("strongest") and isinstance(value, Mapping) else value
        for name, value in numbers.items()
    }


def main(arguments: list[str]) -> None:
    """Print the largest difference of each artifact, and of all."""
    parser = argparse.ArgumentParser(
        prog="reproduce.py compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs=2, type=Path, metavar="FOLDER")
    parser.add_argument("--within", type=float, help="exit with status 1 if something differs by more")
    options = parser.parse_args(arguments)
    scripts = [name for name in EXPERIMENTS if all(record_path(each, name).is_file() for each in options.folders)]
    if not scripts:
        raise UserError("no experiment was run into both folders; give two folders of artifacts")
    worst = 0.0
    for script in scripts:
        runs = [read_artifacts(folder, script) for folder in options.folders]
        print(f"{script}: {' and '.join(str(run.record['engine']) for run in runs)}")
        for name, difference in compare(*runs).items():
            worst = max(worst, difference)
            print(f"  {difference:.1e}  {name}")
    print(f"largest difference: {worst:.1e}")
    if options.within is not None and worst > options.within:
        sys.exit(1)
