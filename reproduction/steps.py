"""The steps of a whole reproduction: the scripts with their arguments, and which of them are done already.

A step is done if its record has the same command, code, libraries and model, and the same artifacts of other scripts,
and if all files that it published are unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from path_patching.circuits.circuit_file import as_json, read_circuit
from path_patching.errors import UserError
from path_patching.files import ROOT
from reproduction.experiments import EXPERIMENTS, PLOTS, WORDS
from reproduction.paper import named_as_read
from reproduction.provenance import code_sha256, library_versions
from reproduction.publication import intact, invocation, read_record, record_path, sha256
from reproduction.run import Artifacts, read_artifacts


@dataclass(frozen=True)
class Step:
    """A script with its arguments, the folder of its record, and the folder that it reads from."""

    script: str
    arguments: tuple[str, ...]
    published: Path
    read: Path

    @property
    def command(self) -> str:
        """The step's command."""
        return invocation(self.script, self.arguments)

    @property
    def circuit_file(self) -> Path | None:
        """The circuit's file, if the step is given one."""
        given = dict(zip(self.arguments, self.arguments[1:], strict=False)).get("--circuit")
        return None if given in (None, "paper", "auto") else Path(given)

    @property
    def program(self) -> tuple[str, ...]:
        """What Python is given before the script's arguments; it works from any folder."""
        return (str(ROOT / "reproduce.py"), self.script) if self.script in WORDS else (str(ROOT / f"{self.script}.py"),)


def steps_of(
    model: str, options: Sequence[str], artifacts: Path, plots: Path, out: Path | None, circuit: str | None = None
) -> tuple[Step, ...]:
    """Every step for a model, in order. All experiments get `options`, some get `circuit`.

    The folders are the scripts' defaults, or subfolders of `out`.
    """
    named = ("--model", model)
    to_artifacts = ("--out", str(artifacts)) if out else ()
    to_plots = ("--artifacts", str(artifacts), "--out", str(plots)) if out else ()
    with_circuit = ("--circuit", circuit) if circuit else ()
    experiments = []
    for name, each in EXPERIMENTS.items():
        more = with_circuit if each.evaluates_circuit else ()
        experiments.append(Step(name, (*named, *options, *more, *to_artifacts), artifacts, artifacts))
    others = [Step(name, (*named, *to_plots), plots, artifacts) for name in (*PLOTS, *WORDS)]
    return (*experiments, *others)


def is_done(step: Step, fingerprint: str) -> bool:
    """Whether the step was done with the same inputs and the model of this fingerprint, and its results are there."""
    if not intact(record_path(step.published, step.script)):
        return False
    try:
        record = read_artifacts(step.published, step.script).record
    except UserError:
        return False
    if "partial" in record:
        return False
    expected = {
        "command": step.command,
        "code_sha256": code_sha256(step.script),
        "versions": library_versions(),
        "model": {**record["model"], "fingerprint": fingerprint},
        "read": {name: _hash_of(step, name) for name in record["read"]},
    }
    if step.circuit_file:
        expected["circuit"] = as_json(named_as_read(read_circuit(step.circuit_file)))
    if "beside" in record:
        expected["beside"] = {name: _hash_of(step, name) for name in record["beside"]}
    return all(record.get(name) == value for name, value in expected.items())


def to_be_run(steps: Sequence[Step], fingerprint: str) -> list[Step]:
    """The steps that are not done, and those that read what such a step will have made anew."""
    waiting: list[Step] = []
    for step in steps:
        path = record_path(step.published, step.script)
        anew = {record_path(each.published, each.script).name for each in waiting}
        if not is_done(step, fingerprint) or anew & {*read_record(path).get("read", {})}:
            waiting.append(step)
    return waiting


def read_experiments(folder: Path) -> dict[str, Artifacts]:
    """The artifacts of the experiments that were run into a folder, by script, checked to be unchanged.

    Raises `UserError` if there is none, or an artifact is missing, damaged or of another run.
    """
    made = {name: read_artifacts(folder, name) for name in EXPERIMENTS if record_path(folder, name).is_file()}
    if not made:
        raise UserError(f"no experiment has artifacts in {folder}; run python reproduce.py, or give --artifacts")
    for artifacts in made.values():
        artifacts.check_all()
    return made


def _hash_of(step: Step, name: str) -> str | None:
    path = next((folder / name for folder in (step.read, step.published) if (folder / name).is_file()), None)
    return sha256(path) if path else None
