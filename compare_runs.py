"""Are two runs the same? The largest difference of each artifact: python compare_runs.py FOLDER OTHER_FOLDER

Run the experiments twice into two folders, say with --engine rust_circuit --out A and with --engine torch --out B. Both
need the same model and settings. Ranks that two nearly equal effects have swapped are compared by those effects.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from artifacts import Artifacts, read_artifacts
from plots import check_same_model
from publication import record_path
from steps import EXPERIMENTS
from utils import UserError, exit_on_user_error

ORDER, EFFECTS, NUMBERS = "order.pt", "neuron_effects.pt", "numbers"
COMPARED_IN_RECORDS = ("n", "seed", "as_published", "circuit")


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
    for name in COMPARED_IN_RECORDS:
        settings = [made.record["settings"].get(name) for made in (one, other)]
        if settings[0] != settings[1]:
            raise UserError(
                f"{one.script}: {name} is {settings[0]} in {one.folder} and {settings[1]} in {other.folder}"
            )
    names = set(one.record["artifacts"]), set(other.record["artifacts"])
    if odd := sorted(names[0] ^ names[1]):
        raise UserError(f"{one.script}: {odd[0]} is in one of the two folders alone")
    found = {name: largest_difference(one.load(name), other.load(name)) for name in sorted(names[0])}
    if ORDER in found:
        effects = one.load(EFFECTS).abs()
        found[ORDER] = largest_difference(effects[one.load(ORDER)], effects[other.load(ORDER)])
    return found | {NUMBERS: largest_difference(one.record["numbers"], other.record["numbers"])}


def main(arguments: list[str] | None = None) -> None:
    """Print the largest difference of each artifact, and of all."""
    sys.excepthook = exit_on_user_error
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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


if __name__ == "__main__":
    main()
