"""Artifacts of a run: plain tensors, tables or JSON, and one JSON record that says what made them.

The record's numbers have keys, paths such as `late_half/probability_difference/share_of_clean`, and beside them the
words that they are shown in. Its index says what each artifact is, so that whoever looks for one asks for what it is
and not for its file's name. Reading checks every artifact's SHA-256 against the record, so that a folder in which two
runs were mixed is refused.
"""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

from path_patching.bootstrap import Estimate
from path_patching.errors import UserError, first_line
from path_patching.gpt2.model import Model
from path_patching.gpt2.tensor_cache import is_gpt2_small
from reproduction.provenance import made_by
from reproduction.publication import (
    Publication,
    invocation,
    open_publication,
    read_record,
    record_path,
    script_of,
    sha256,
)
from reproduction.settings import Settings, model_folder

Number = float | str | list[Any] | dict[str, Any] | Estimate

# What is written in full is read in full: pandas 3 does so by itself, and deprecates being told to.
EXACT_FLOATS = {} if int(pd.__version__.partition(".")[0]) >= 3 else {"float_precision": "round_trip"}

ROWS_AT_ONCE = 100_000  # of a table, as text

PARTS = {"script": str, "command": str, "model": dict, "read": dict}  # of every record, by type
PARTS_OF_EXPERIMENT = {**PARTS, "settings": dict, "numbers": dict, "index": dict}

PART = r"[a-z0-9]+(?:[._][a-z0-9]+)*"  # late_half, a9.h1
KEY = re.compile(f"{PART}(?:/{PART})*")


@dataclass(frozen=True)
class Run:
    """One script's run: its cells add artifacts and numbers one after the other, which it publishes together."""

    publication: Publication
    provenance: Mapping[str, Any]
    started: float = field(default_factory=time.monotonic)
    numbers: dict[str, dict[str, object]] = field(default_factory=dict)
    index: dict[str, dict[str, object]] = field(default_factory=dict)
    read: dict[str, str | None] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where the artifacts will be."""
        return self.publication.folder

    @property
    def script(self) -> str:
        """The script that runs."""
        return script_of(self.publication.name)

    def save(self, name: str, value: torch.Tensor | Mapping[str, object], *, kind: str, **about: object) -> None:
        """Stage an artifact: a tensor, or a dict of tensors and lists. Tensors are stored on the CPU.

        `kind` and `about` say what it is, in plain values: `kind="sweep", receiver="m10", position="END"`.
        """
        stored = value.detach().cpu().clone() if isinstance(value, torch.Tensor) else dict(value)
        content = io.BytesIO()  # torch.save reports a full disk as something else when it writes by itself
        torch.save(stored, content)
        self._stage(name, content.getvalue(), kind, about)

    def save_json(self, name: str, value: Mapping[str, object], *, kind: str, **about: object) -> None:
        """Stage an artifact of plain values as JSON; its name ends in `.json`."""
        self._stage(name, (json.dumps(value, indent=2) + "\n").encode(), kind, about)

    def save_table(self, name: str, parts: Iterable[pd.DataFrame], *, kind: str, **about: object) -> None:
        """Stage a table as CSV, floats in full, without its index; its name ends in `.csv`.

        It is given in parts of the same columns, of which one at a time is in memory.
        """
        self._stage(name, _csv(parts), kind, about)

    def _stage(self, name: str, content: bytes | Iterable[bytes], kind: str, about: Mapping[str, object]) -> None:
        self.publication.stage(name, content)
        self.index[name] = {"kind": kind, **about}

    def note(self, key: str, value: Number, words: str, kind: Literal["ranking"] | None = None) -> None:
        """Print a number with its words, and keep it in full for the record: an estimate with its interval and its N.

        In a `ranking`, a dict from the strongest to the weakest, nearly equal values may have swapped their places in
        another run. Raises ValueError for a key that is no path of lower-case parts.
        """
        if not KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no key; write a path of lower-case parts, as late_half/cutoff_sharpness")
        print(f"{words}: {_shortened(value)}")
        number: dict[str, Any] = dict(value.as_json()) if isinstance(value, Estimate) else {"value": value}
        self.numbers[key] = {"words": words, **number} | ({"kind": kind} if kind else {})

    def note_read(self, name: str, hash_: str | None) -> None:
        """Keep that an artifact of another script, or its absence (`None`), went into this run."""
        self.read[name] = hash_

    def publish(self) -> Path:
        """Publish everything together. Returns the record's path. Raises `UserError` if it cannot be written."""
        spent = {"seconds": round(time.monotonic() - self.started, 1)}
        found = {"numbers": self.numbers, "index": self.index}
        path = self.publication.publish({**self.provenance, "read": self.read, **spent, **found})
        print(f"the artifacts and {path.name} are in {self.folder}")
        return path


def _csv(parts: Iterable[pd.DataFrame]) -> Iterator[bytes]:
    """The lines of a table, some at a time."""
    for number, part in enumerate(parts):
        for first in range(0, len(part), ROWS_AT_ONCE):
            rows = part.iloc[first : first + ROWS_AT_ONCE]
            yield rows.to_csv(index=False, lineterminator="\n", header=number + first == 0).encode()


def _shortened(value: Number) -> str:
    """A number as it is printed."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shortened(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_shortened, value))
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def start_run(
    script: str, settings: Settings, model: Model, engine: str, device: str, warnings: Sequence[str] = ()
) -> Run:
    """Open a run of `script`, whose record will hold the `warnings`, as that of all figures drawn of it.

    Raises `UserError` if its folder is busy or cannot be written to.
    """
    provenance = {
        **made_by(script),
        "model": {"name": model.name, "fingerprint": model.fingerprint, "is_gpt2_small": is_gpt2_small(model)},
        "settings": settings.as_json(),
        "engine": engine,
        "device": device,
        "warnings": list(warnings),
    }
    return Run(open_publication(script, settings.artifact_folder()), provenance)


@dataclass(frozen=True)
class Artifacts:
    """The published artifacts of one script, checked as they are read."""

    folder: Path
    record: Mapping[str, Any]

    @property
    def script(self) -> str:
        """The script that made them."""
        script: str = self.record["script"]
        return script

    @property
    def model_folder(self) -> str | None:
        """The name that folders of the model have that made them; None for GPT-2 small, which needs none."""
        return model_folder(self.record["settings"]["model"])

    def number(self, key: str) -> Any:
        """A `Number` by its key, of the type that it was noted with; None if the run did not measure it."""
        found = self.record["numbers"].get(key)
        if found is None:
            return None
        value, low, high, n = (found.get(name) for name in ("value", "low", "high", "n"))
        return value if n is None else Estimate(value, low, high, n)

    @property
    def keys(self) -> list[str]:
        """The keys of all numbers, in the order measured."""
        return [*self.record["numbers"]]

    def is_ranking(self, key: str) -> bool:
        """Whether a number is a ranking, in which nearly equal values may have swapped their places."""
        return bool(self.record["numbers"][key].get("kind") == "ranking")

    def find(self, **about: object) -> dict[str, Mapping[str, object]]:
        """What the index says of those artifacts of which all of this is said, by file name, in the order made."""
        index, wanted = self.record["index"], about.items()
        return {name: entry for name, entry in index.items() if all(entry.get(key) == value for key, value in wanted)}

    def load(self, name: str) -> Any:
        """An artifact by its file name: a tensor, a table or a dict.

        Raises `UserError` if it is missing, damaged or of another run.
        """
        path = self.folder / name
        expected = self.record["artifacts"].get(name)
        if expected is None or not path.is_file():
            raise UserError(f"{path} is not among what {self.script} made; run {invocation(self.script)} again")
        if sha256(path) != expected:
            raise UserError(
                f"{path} is damaged or of another run than {self.script}.json; run {invocation(self.script)} again"
            )
        try:
            return _read(path)
        except Exception as error:  # what a pickle that holds more than tensors makes the reader raise depends on it
            raise UserError(
                f"{path} cannot be read ({first_line(error)}); run {invocation(self.script)} again"
            ) from error

    def load_all(self) -> dict[str, Any]:
        """All artifacts by file name. Raises `UserError` like `load`."""
        return {name: self.load(name) for name in self.record["artifacts"]}


def _read(path: Path) -> Any:
    """An artifact, by what its file is."""
    if path.suffix == ".json":
        return json.loads(path.read_bytes())
    if path.suffix == ".csv":
        return pd.read_csv(path, **EXACT_FLOATS)
    return torch.load(path, weights_only=True)


def read_artifacts(folder: Path, script: str) -> Artifacts:
    """The artifacts that `script` published in `folder`. Raises `UserError` if there are none that can be read."""
    path = record_path(folder, script)
    if not path.is_file():
        raise UserError(f"no {path}; run {invocation(script)} first, or name its folder with --artifacts")
    record = read_record(path)
    parts = PARTS if "figures" in record else PARTS_OF_EXPERIMENT
    if lacking := [part for part, kind in parts.items() if not isinstance(record.get(part), kind)]:
        raise UserError(f"{path} is not a run's record ({lacking[0]} is missing); run {invocation(script)} again")
    if record["script"] != script_of(script):
        raise UserError(f"{path} is a record of {record['script']}; run {invocation(script)} again")
    return Artifacts(folder, record)


def read_if_run(folder: Path, script: str) -> Artifacts | None:
    """Like `read_artifacts`; None, and a line that says so, if the script was not run."""
    if record_path(folder, script).is_file():
        return read_artifacts(folder, script)
    print(f"left out: the figures of {script}.py, which was not run")
    return None


def check_same_model(one: Artifacts, other: Artifacts) -> None:
    """Raise `UserError`, naming both, if two scripts' artifacts are not of the same model, read the same way."""
    if one.record["model"]["fingerprint"] != other.record["model"]["fingerprint"]:
        raise UserError(
            f"{one.script}.json in {one.folder} is of {model_of(one)}, but {other.script}.json of {model_of(other)}; "
            "run one of the two again"
        )


def model_of(artifacts: Artifacts) -> str:
    """The model that made artifacts, in words."""
    model = artifacts.record["model"]
    return f"{model['name']} (fingerprint {model['fingerprint'][:8]}…{model['fingerprint'].partition('+')[2]})"
