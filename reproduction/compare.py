"""Are two runs the same? The largest difference of each artifact (`subcommands.COMPARE`)."""

from __future__ import annotations

import math
import re
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch

from path_patching.bootstrap import Estimate
from path_patching.errors import UserError
from reproduction.experiments import EXPERIMENTS
from reproduction.publication import record_path
from reproduction.run import Artifacts, check_alike, read_artifacts

ARTIFACT, NUMBER = "artifact", "number"
FREE_SETTINGS = {"engine", "device", "out", "memory_gb", "model", "circuit"}  # models and circuits are compared whole
LAYER = re.compile(r"m\d+")


def largest_difference(one: object, other: object) -> float:
    """The largest difference of two values of the same form: tensors, tables, numbers, dicts and lists of them.

    For a tensor or a number with values above one, it is a share of the largest value. It is infinite for values of
    different forms, and for different words.
    """
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return _apart(one.double(), other.double())
    if isinstance(one, pd.DataFrame) and isinstance(other, pd.DataFrame):
        return largest_difference(_columns(one), _columns(other))
    if isinstance(one, Mapping) and isinstance(other, Mapping) and set(one) == set(other):
        return max((largest_difference(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max(map(largest_difference, one, other), default=0.0)
    if isinstance(one, float) and isinstance(other, float):
        return _apart(torch.tensor(one, dtype=torch.float64), torch.tensor(other, dtype=torch.float64))
    return 0.0 if type(one) is type(other) and one == other else math.inf


def _columns(table: pd.DataFrame) -> dict[str, object]:
    """A table's columns: floats as tensors, others as lists."""
    columns = {}
    for name, column in table.items():
        is_float = pd.api.types.is_float_dtype(column)
        columns[name] = torch.tensor(column.to_numpy()) if is_float else column.tolist()
    return columns


def _apart(one: torch.Tensor, other: torch.Tensor) -> float:
    if one.shape != other.shape:
        return math.inf
    finite = one.isfinite() & other.isfinite()
    if not (finite | (one == other) | (one.isnan() & other.isnan())).all():
        return math.inf
    if not finite.any():
        return 0.0
    apart, size = (one - other)[finite].abs().max(), one[finite].abs().max()
    return (apart / size.clamp(min=1)).item()


def compare(one: Artifacts, other: Artifacts) -> pd.DataFrame:
    """The largest difference of each artifact of a script, and of each number in its record.

    Rows have `kind` (artifact or number), `name` and `difference`. Raises `UserError` if the runs are not comparable.
    """
    check_alike([one, other])
    settings = [made.record["settings"] for made in (one, other)]
    for name in sorted((set(settings[0]) | set(settings[1])) - FREE_SETTINGS):
        values = [of.get(name) for of in settings]
        if values[0] != values[1]:
            raise UserError(f"{one.script}: {name} is {values[0]} in {one.folder} and {values[1]} in {other.folder}")
    odd = {*one.record["artifacts"], *one.keys} ^ {*other.record["artifacts"], *other.keys}
    if odd:
        raise UserError(f"{one.script}: {min(odd)} is in one of the two folders alone")
    rows = []
    for name in sorted(one.record["artifacts"]):
        rows.append((ARTIFACT, name, _difference_of(name, one, other)))
    for key in one.keys:
        rows.append((NUMBER, key, largest_difference(*_numbers(key, one, other))))
    return pd.DataFrame(rows, columns=["kind", "name", "difference"])


def _difference_of(name: str, one: Artifacts, other: Artifacts) -> float:
    """The largest difference of an artifact; for a ranking, the largest difference of the effects ranked."""
    about, values = one.record["index"][name], (one.load(name), other.load(name))
    if about["kind"] == "ranking":
        effects = one.load(about["by"]).abs()
        values = tuple(effects[order] for order in values)
    if "rows_ranked_in" in about:
        ranking = about["rows_ranked_in"]
        values = _same_rows(*values, one.load(ranking), other.load(ranking))
    return largest_difference(*values)


def _same_rows(
    one: torch.Tensor, other: torch.Tensor, order: torch.Tensor, order_of_other: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows (K, ...) of two artifacts for what both rank among their first K, in the same order."""
    rows, rows_of_other = (
        {ranked: row for row, ranked in enumerate(each[: len(one)].tolist())} for each in (order, order_of_other)
    )
    both = [ranked for ranked in rows if ranked in rows_of_other]
    return one[[rows[ranked] for ranked in both]], other[[rows_of_other[ranked] for ranked in both]]


def _numbers(key: str, one: Artifacts, other: Artifacts) -> tuple[object, object]:
    """A number of both records: an estimate with its interval, a ranking without its names, which may have swapped.

    Plain intervals are compared only if both records have one: a run at the limit may lack it.
    """
    numbers = one.number(key), other.number(key)
    if one.is_ranking(key) and other.is_ranking(key):
        return [*numbers[0].values()], [*numbers[1].values()]
    if not all(isinstance(number, Estimate) for number in numbers):
        return numbers
    if any(number.plain_low is None for number in numbers):
        numbers = numbers[0].without_plain(), numbers[1].without_plain()
    return numbers[0].as_json(), numbers[1].as_json()


def _run_into_both(one: Path, other: Path) -> list[tuple[str, str]]:
    """The experiments that were run into both folders, each with its layer's subfolder, if any.

    Raises `UserError` if there are none, or if one was run into only one of the folders.
    """
    run_into = [_run_into(folder) for folder in (one, other)]
    if not {*run_into[0]} & {*run_into[1]}:
        raise UserError("no experiment was run into both folders; give two folders of artifacts")
    for script, below in sorted({*run_into[0]} ^ {*run_into[1]}):
        had, lacks = (one, other) if (script, below) in run_into[0] else (other, one)
        raise UserError(f"{script}.py was run into {had / below} and not into {lacks / below}; run it there as well")
    return run_into[0]


def _run_into(folder: Path) -> list[tuple[str, str]]:
    """The experiments that were run into a folder or into one of its layers' subfolders, in order."""
    layers = sorted(path.name for path in folder.glob("m*") if LAYER.fullmatch(path.name))
    places = [(name, below) for below in ("", *layers) for name in EXPERIMENTS]
    return [(name, below) for name, below in places if record_path(folder / below, name).is_file()]


def main(options: Namespace) -> None:
    """Print the largest difference of each artifact, and of all."""
    scripts = _run_into_both(*options.folders)
    worst = 0.0
    for script, below in scripts:
        runs = [read_artifacts(folder / below, script) for folder in options.folders]
        print(f"{Path(below) / script}: {' and '.join(str(run.record['engine']) for run in runs)}")
        differences = compare(*runs)
        for row in differences[differences["kind"] == ARTIFACT].itertuples():
            print(f"  {row.difference:.1e}  {row.name}")
        numbers = differences[differences["kind"] == NUMBER]
        if not numbers.empty:
            most = numbers.loc[numbers["difference"].idxmax()]
            print(f"  {most['difference']:.1e}  {len(numbers)} numbers, most of all {most['name']}")
        worst = max(worst, differences["difference"].max())
    print(f"largest difference: {worst:.1e}")
    if options.within is not None and worst > options.within:
        sys.exit(1)
