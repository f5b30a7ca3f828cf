"""The steps of a whole reproduction: which scripts, called how, and which of them are done already.

A step is done if its record says that it was called like this, by the same code and libraries, with the same model and
the same artifacts of other scripts, and all that it published is as it left it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from artifacts import Artifacts, read_artifacts
from provenance import code_sha256, command_of, library_versions
from publication import intact, read_record, record_path, sha256
from utils import UserError

# Seconds that each took for the stand-in on two cores. Only their ratios are used, to tell how much time is left.
EXPERIMENTS = {
    "circuit_discovery": 71,
    "big_ds_experiments": 42,
    "neuron_investigations": 6,
    "sequence_generalization": 11,
    "pca_experiments": 20,
    "random_circuit_ablation": 24,
    "random_years": 4,
    "topk_years": 5,
}
PLOTS = {
    "circuit_discovery_plotting": 12,
    "big_ds_plotting": 4,
    "neuron_plots": 7,
    "appendix_plots": 11,
    "pca_plots": 4,
}
SUMMARIES = {"results": 2, "report": 4}
COSTS = {**EXPERIMENTS, **PLOTS, **SUMMARIES}
STEPS = tuple(COSTS)


@dataclass(frozen=True)
class Step:
    """A script with its arguments, the folder that its record will lie in, and the one that it reads from."""

    script: str
    arguments: tuple[str, ...]
    published: Path
    read: Path

    @property
    def command(self) -> str:
        """How the step is called."""
        return command_of(self.script, list(self.arguments))


def steps_of(model: str, options: Sequence[str], artifacts: Path, plots: Path, out: Path | None) -> tuple[Step, ...]:
    """Every step for a model, in order. `options` are those of the experiments.

    Folders are where scripts put artifacts and figures by themselves, or, with `out`, its subfolders.
    """
    named = ("--model", model)
    to_artifacts = ("--out", str(artifacts)) if out else ()
    to_plots = ("--artifacts", str(artifacts), "--out", str(plots)) if out else ()
    experiments = [Step(name, (*named, *options, *to_artifacts), artifacts, artifacts) for name in EXPERIMENTS]
    others = [Step(name, (*named, *to_plots), plots, artifacts) for name in (*PLOTS, *SUMMARIES)]
    return (*experiments, *others)


def is_done(step: Step, fingerprint: str) -> bool:
    """Whether the step was done with the same inputs, for the model of this fingerprint, and its results are there."""
    path = record_path(step.published, step.script)
    if not intact(path):
        return False
    record = read_record(path)
    expected = {
        "command": step.command,
        "code_sha256": code_sha256(step.script),
        "versions": library_versions(),
        "model": {**record["model"], "fingerprint": fingerprint},
        "read": {name: _hash_of(step, name) for name in record["read"]},
    }
    if "beside" in record:
        expected["beside"] = {name: _hash_of(step, name) for name in record["beside"]}
    return all(record.get(name) == value for name, value in expected.items())


def read_experiments(folder: Path) -> dict[str, Artifacts]:
    """What the experiments made that were run into a folder, by script. Raises `UserError` if there is none."""
    made = {name: read_artifacts(folder, name) for name in EXPERIMENTS if record_path(folder, name).is_file()}
    if not made:
        raise UserError(f"no experiment has artifacts in {folder}; run python reproduce.py, or give --artifacts")
    return made


def time_left(spent: float, done: Sequence[str], ahead: Sequence[str], of_current: float = 0.0) -> float | None:
    """Seconds until all steps `ahead` are done, the first for `of_current` seconds already.

    Judged by what the steps `done` in this run took together; None as long as there are none.
    """
    if not done:
        return None
    pace = spent / sum(COSTS[script] for script in done)
    first, *rest = ahead
    return max(0.0, pace * COSTS[first] - of_current) + pace * sum(COSTS[script] for script in rest)


def _hash_of(step: Step, name: str) -> str | None:
    path = next((folder / name for folder in (step.read, step.published) if (folder / name).is_file()), None)
    return sha256(path) if path else None
