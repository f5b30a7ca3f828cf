"""Writing and reading the artifacts of a run: plain tensors, tables or JSON, and one JSON record of what made them.

The record's numbers have keys, paths such as `late_half/probability_difference/share_of_clean`, and the words that they
are shown in. Its index says what each artifact is, so that readers can ask for that instead of for a file's name. The
record has the whole circuit that a run evaluates, so that runs with different circuits can be told apart. Reading
checks every artifact's SHA-256 against the record, so that a folder with two mixed runs is refused.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property, reduce
from importlib import import_module
from pathlib import Path
from traceback import walk_stack
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol

import torch

from path_patching.bootstrap import Estimate
from path_patching.circuits.circuit import Circuit, in_order, is_same
from path_patching.circuits.circuit_file import as_json, from_json
from path_patching.errors import UserError, first_line
from path_patching.files import parse_json
from path_patching.gpt2.model import Model
from path_patching.gpt2.tensor_cache import is_gpt2_small
from reproduction.cells import Cells, needed_cells, text_of
from reproduction.numbers import printed, unit_of
from reproduction.paper import truly_named
from reproduction.provenance import made_by
from reproduction.publication import (
    Publication,
    inside,
    invocation,
    open_publication,
    read_record,
    record_path,
    script_of,
    sha256,
)
from reproduction.settings import Settings, model_folder
from reproduction.terminal import after_each_cell, imports_are_done, in_notebook, running_cell, seconds_so_far, window

if TYPE_CHECKING:
    import pandas as pd

Number = float | str | list[Any] | dict[str, Any] | Estimate

NOT_MEASURED = "not measured, what it is a share of is zero or may be"
ROWS_AT_ONCE = 100_000  # of a table are written as text

MODEL = {"model/name": str, "model/fingerprint": str, "model/is_gpt2_small": bool}
PARTS = {"script": str, "command": str, **MODEL, "read": dict}  # of every record, by type
SETTINGS = {"settings/model": str, "settings/as_published": bool}
PARTS_OF_EXPERIMENT = {**PARTS, **SETTINGS, "numbers": dict, "index": dict}

PART = r"[a-z0-9]+(?:[._][a-z0-9]+)*"  # late_half, a9.h1
KEY = re.compile(f"{PART}(?:/{PART})*")


def check_finite(name: str, value: object, nan: str | None = None) -> None:
    """Raise `UserError` if a result (tensors, tables, numbers, dicts and lists of them) has a value that is not finite.

    `nan` says what a NaN means in it; without it, NaNs are errors too.
    """
    if not _is_finite(value, nan is not None):
        raise UserError(
            f"{name} is not finite, so nothing is published; look for what is damaged in the model's weights"
        )


def _is_finite(value: object, or_nan: bool) -> bool:
    if isinstance(value, torch.Tensor):
        return not value.is_floating_point() or bool((value.isfinite() | (value.isnan() & or_nan)).all())
    if hasattr(value, "select_dtypes"):  # a table of pandas, which takes long to import
        return _is_finite(torch.tensor(value.select_dtypes("float").to_numpy()), or_nan)
    if isinstance(value, Mapping):
        return all(_is_finite(each, or_nan) for each in value.values())
    if isinstance(value, list | tuple):
        return all(_is_finite(each, or_nan) for each in value)
    if isinstance(value, float):
        return math.isfinite(value) or (or_nan and math.isnan(value))
    return True


@dataclass(frozen=True)
class Run:
    """One script's run: its cells add artifacts and numbers one after another, and it publishes them together.

    Cells can be run again afterwards; publishing again replaces what was published.
    """

    publication: Publication
    provenance: Mapping[str, Any]
    numbers: dict[str, dict[str, object]] = field(default_factory=dict)
    index: dict[str, dict[str, object]] = field(default_factory=dict)
    read: dict[str, str | None] = field(default_factory=dict)
    circuit: dict[str, object] = field(default_factory=dict)
    cells: Cells = field(default_factory=Cells)
    """Which cells it needs in a window, and which ran."""

    @property
    def folder(self) -> Path:
        """Where the artifacts will be."""
        return self.publication.folder

    @property
    def script(self) -> str:
        """The script that runs."""
        return script_of(self.publication.name)

    def save(self, name: str, value: torch.Tensor | Mapping[str, object], *, kind: str, **about: Any) -> None:
        """Stage an artifact: a tensor, or a dict of tensors and lists. Tensors are stored on the CPU.

        `kind` and `about` say what it is, in plain values: `kind="sweep", receiver="m10", position="END"`. If it may
        have NaNs, `nan` says what they mean. Raises `UserError` for other values that are not finite.
        """
        stored = value.detach().cpu().clone() if isinstance(value, torch.Tensor) else dict(value)
        content = io.BytesIO()  # writing to a file, torch.save reports a full disk as another error
        torch.save(stored, content)
        check_finite(name, stored, about.get("nan"))
        self._stage(name, content.getvalue(), kind, about)

    def save_json(self, name: str, value: Mapping[str, object], *, kind: str, **about: Any) -> None:
        """Stage an artifact of plain values as JSON; its name ends in `.json`."""
        check_finite(name, value, about.get("nan"))
        self._stage(name, (_as_json(name, value) + "\n").encode(), kind, about)

    def save_table(self, name: str, parts: Iterable[pd.DataFrame], *, kind: str, **about: Any) -> None:
        """Stage a table as CSV, floats in full, without its index; its name ends in `.csv`.

        It is given in parts with the same columns; only one part at a time is in memory.
        """
        self._stage(name, _csv(name, parts, about.get("nan")), kind, about)

    def _stage(self, name: str, content: bytes | Iterable[bytes], kind: str, about: Mapping[str, Any]) -> None:
        said = {"kind": kind, **{key: each for key, each in about.items() if each is not None}}
        _as_json(name, said)
        self.publication.stage(name, content)
        self.index[name] = {**said, **_cell_of(f"{self.script}.py")}

    def staged(self, name: str) -> Any:
        """An artifact that was saved, before or after it was published."""
        staged = self.publication.staging / name
        return _read(staged if staged.is_file() else self.folder / name)

    def note(
        self, key: str, value: Number, words: str, kind: Literal["ranking"] | None = None, line: str | None = None
    ) -> None:
        """Print a number with its words, and keep it in full for the record: an estimate with its interval and its N.

        `line` is printed instead if given. In a `ranking`, a dict from the strongest to the weakest, nearly equal
        values may be in another order in another run. An estimate is left out if it, or an end of its interval, is a
        share of zero. Raises ValueError for a key that is no path of lower-case parts, `UserError` for another number
        that is not finite.
        """
        if not KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no key; write a path of lower-case parts, as late_half/cutoff_sharpness")
        if isinstance(value, Estimate) and not value.is_finite:
            self.numbers.pop(key, None)  # of an earlier time
            print(line or f"{words}: {NOT_MEASURED}")
            return
        print(f"{words}: {printed(value, unit_of(key))}" if line is None else line)
        number: dict[str, Any] = dict(value.as_json()) if isinstance(value, Estimate) else {"value": value}
        check_finite(key, number)
        _as_json(key, number)
        self.numbers[key] = {"words": words, **number} | ({"kind": kind} if kind else {})

    def note_circuit(self, circuit: Circuit) -> None:
        """Record the whole circuit that the run evaluates, and print its name: the paper's only for the paper's."""
        named = truly_named(circuit)
        self.note("circuit/name", named.name, "circuit")
        self.circuit.update(as_json(named))

    def note_read(self, name: str, hash_: str | None) -> None:
        """Record that this run depends on an artifact of another script, or on its absence (`None`)."""
        self.read[name] = hash_

    def publish(self, partial: bool = False) -> None:
        """Publish everything together, replacing what was published before.

        Raises `UserError` if it cannot be written, and if some cells did not run to their end; with `partial` it is
        published, and the record says which cells are missing.
        """
        self.cells.ended(text_of(self.script) if _cell_of(f"{self.script}.py") else running_cell())
        not_run = self.cells.not_run()
        if not_run and not partial:
            raise UserError(
                f"nothing is published, since these cells were not run to their end: {' '.join(not_run)} Run them, or "
                "give run.publish(partial=True)"
            )
        found = {"numbers": self.numbers, "index": self.index} | ({"circuit": self.circuit} if self.circuit else {})
        said = {**self.provenance, "read": self.read, "seconds": seconds_so_far(), **found}
        if not_run:
            said["partial"] = not_run
            said["warnings"] = [*said["warnings"], f"a part of {self.script}.py, without: {' '.join(not_run)}"]
        path = self.publication.publish(said)
        print(f"the artifacts and {path.name} are in {self.folder}")


def _cell_of(file: str) -> dict[str, str]:
    """The line of a script's cell that runs now, as `circuit_discovery.py:104`; nothing in a notebook, which has none.

    Where a cell calls a function of the script, that is the call's line: the outermost in the file.
    """
    lines = [number for frame, number in walk_stack(None) if Path(frame.f_code.co_filename).name == file]
    return {"cell": f"{file}:{lines[-1]}"} if lines else {}


def _csv(name: str, parts: Iterable[pd.DataFrame], nan: str | None) -> Iterator[bytes]:
    """The lines of a table, some at a time. Raises `UserError` like `check_finite`."""
    for number, part in enumerate(parts):
        check_finite(name, part, nan)
        for first in range(0, len(part), ROWS_AT_ONCE):
            rows = part.iloc[first : first + ROWS_AT_ONCE]
            yield rows.to_csv(index=False, lineterminator="\n", header=number + first == 0).encode()


def _as_json(name: str, value: object) -> str:
    """A value as JSON. Raises `UserError`, now and not when all is published, for what JSON cannot hold."""
    try:
        return json.dumps(value, indent=2)
    except TypeError as error:
        raise UserError(
            f"{name} cannot be recorded ({first_line(error)}); give numbers, texts, lists and dicts, as .item() does"
        ) from None


def start_run(
    script: str,
    settings: Settings,
    model: Model,
    engine: str,
    device: str,
    warnings: Sequence[str] = (),
) -> Run:
    """Open a run of `script`. Its record will have the `warnings`, and so will records of figures drawn from it.

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
    cells = needed_cells(text_of(script), getattr(settings, "only", None)) if window() else {}
    run = Run(open_publication(script, settings.artifact_folder()), provenance, cells=Cells(cells))
    after_each_cell(run.cells.ended)
    return run


class Experiment(Protocol):
    """What a run's record says about its experiment."""

    @property
    def settings(self) -> Settings:
        """What was asked for."""

    @property
    def model(self) -> Model:
        """The model evaluated."""

    @property
    def engine_name(self) -> str:
        """The engine's name."""

    @property
    def device(self) -> str:
        """The engine's device."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Lines that belong beside every result."""


def open_run(script: str, experiment: Experiment) -> Run:
    """A run of `script` that records and publishes; a notebook shows the figures of what its cells make.

    Raises `UserError` if its folder is busy or cannot be written to.
    """
    engine, device = experiment.engine_name, experiment.device
    run = start_run(script, experiment.settings, experiment.model, engine, device, experiment.warnings)
    if in_notebook():
        # Not an import that `provenance` follows: how a window draws changes no result.
        import_module("reproduction.window").show_what_cells_make(run)
    return run


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

    @cached_property
    def circuit(self) -> Circuit | None:
        """The circuit that the run evaluated; None if it evaluated none."""
        return from_json(self.record["circuit"]) if "circuit" in self.record else None

    @property
    def model_folder(self) -> str | None:
        """The name of the folders for the model that made them; None for GPT-2 small, which needs none."""
        return model_folder(self.record["settings"]["model"])

    @property
    def is_partial(self) -> bool:
        """Whether some cells of the script were not run."""
        return "partial" in self.record

    def number(self, key: str) -> Any:
        """A `Number` by its key, with the type that it was recorded with; None if the run did not measure it."""
        found = self.record["numbers"].get(key)
        if found is None:
            return None
        names = [each.name for each in fields(Estimate) if each.name in found]
        return Estimate(**{name: found[name] for name in names}) if "n" in names else found["value"]

    @property
    def keys(self) -> list[str]:
        """The keys of all numbers, in the order measured."""
        return [*self.record["numbers"]]

    def is_ranking(self, key: str) -> bool:
        """Whether a number is a ranking, in which nearly equal values may be in another order in another run."""
        return bool(self.record["numbers"][key].get("kind") == "ranking")

    def find(self, **about: object) -> dict[str, Mapping[str, object]]:
        """The index entries that match all of `about`, by file name, in the order made."""
        index, wanted = self.record["index"], about.items()
        return {name: entry for name, entry in index.items() if all(entry.get(key) == value for key, value in wanted)}

    def load(self, name: str) -> Any:
        """An artifact by its file name: a tensor, a table or a dict.

        Raises `UserError` if it is missing, damaged or of another run.
        """
        path = self.check(name)
        try:
            return _read(path)
        except Exception as error:  # a pickle of more than tensors can raise anything
            raise UserError(
                f"{path} cannot be read ({first_line(error)}); run {invocation(self.script)} again"
            ) from error

    def check(self, name: str) -> Path:
        """The path of an artifact. Raises `UserError` if it is missing, damaged or of another run."""
        path = inside(self.folder, name)
        expected = self.record["artifacts"].get(name)
        if expected is None or not path.is_file():
            part = " in part" if self.is_partial else ""
            raise UserError(f"{path} is not among what {self.script} made{part}; run {invocation(self.script)} again")
        if sha256(path) != expected:
            raise UserError(
                f"{path} is damaged or of another run than {self.script}.json; run {invocation(self.script)} again"
            )
        return path

    def check_all(self) -> None:
        """Raise `UserError` if an artifact is missing, damaged or of another run."""
        for name in self.record["artifacts"]:
            self.check(name)

    def load_all(self) -> dict[str, Any]:
        """All artifacts by file name. Raises `UserError` like `load`, also later for one that was not made."""
        return _Made(self, {name: self.load(name) for name in self.record["artifacts"]})


class _Made(dict[str, Any]):
    """Artifacts by file name; asking for one that was not made raises the `UserError` of `check`."""

    def __init__(self, source: Artifacts, made: Mapping[str, Any]) -> None:
        super().__init__(made)
        self._source = source

    def __missing__(self, name: str) -> NoReturn:
        self._source.check(name)
        raise KeyError(name)


def _read(path: Path) -> Any:
    """An artifact, read according to its file's ending."""
    if path.suffix == ".json":
        return parse_json(path.read_bytes())
    if path.suffix == ".csv":
        import pandas as pd  # imported here, since it is slow and not always needed

        return pd.read_csv(path)
    return torch.load(path, weights_only=True)


def read_artifacts(folder: Path, script: str) -> Artifacts:
    """The artifacts that `script` published in `folder`. Raises `UserError` if there are none that can be read."""
    imports_are_done()
    path = record_path(folder, script)
    if not path.is_file():
        raise UserError(f"no {path}; run {invocation(script)} first, or name its folder with --artifacts")
    record = read_record(path)
    if lacking := _lacking(record):
        raise UserError(f"{path} is not a run's record ({lacking} is missing); run {invocation(script)} again")
    if record["script"] != script_of(script):
        raise UserError(f"{path} is a record of {record['script']}; run {invocation(script)} again")
    if "partial" in record:
        print(f"note: {path} is of {record['warnings'][-1]}")
    return Artifacts(folder, record)


def _lacking(record: Mapping[str, Any]) -> str | None:
    """The first part that is missing or wrong in a record; None if it has all."""
    parts = PARTS if "figures" in record else PARTS_OF_EXPERIMENT
    lacking = [part for part, kind in parts.items() if not isinstance(_part(record, part), kind)]
    numbers, index = _part(record, "numbers") or {}, _part(record, "index") or {}
    if not lacking:
        lacking = [key for key, each in numbers.items() if not isinstance(each, dict) or "value" not in each]
        lacking += [name for name, about in index.items() if not isinstance(about, dict)]
    return lacking[0] if lacking else None


def _part(record: object, path: str) -> Any:
    """A part of a record by its path, such as `model/name`; None if it is not there."""
    return reduce(lambda whole, key: whole.get(key) if isinstance(whole, dict) else None, path.split("/"), record)


def read_if_run(folder: Path, script: str) -> Artifacts | None:
    """`read_artifacts`; if the script was not run, None, and a line says so."""
    if record_path(folder, script).is_file():
        return read_artifacts(folder, script)
    print(f"left out: the figures of {script}.py, which was not run")
    return None


def check_alike(sources: Sequence[Artifacts]) -> None:
    """Raise `UserError`, naming both, if two scripts' artifacts are of different models or circuits."""
    for other in sources[1:]:
        _check_same_model(sources[0], other)
    with_circuit = [(made, made.circuit) for made in sources if made.circuit is not None]
    for of_other in with_circuit[1:]:
        _check_same_circuit(*with_circuit[0], *of_other)


def _check_same_model(one: Artifacts, other: Artifacts) -> None:
    if one.record["model"]["fingerprint"] != other.record["model"]["fingerprint"]:
        raise UserError(
            f"{one.script}.json in {one.folder} is of {model_of(one)}, but {other.script}.json of {model_of(other)}; "
            "run one of the two again"
        )


def _check_same_circuit(one: Artifacts, circuit: Circuit, other: Artifacts, circuit_of_other: Circuit) -> None:
    if not is_same(circuit, circuit_of_other):
        nodes = [{*each.mlps, *each.heads, *each.lower} for each in (circuit, circuit_of_other)]
        raise UserError(
            f"{one.script}.json in {one.folder} was made with {circuit.name}, but {other.script}.json with another "
            f"circuit, {circuit_of_other.name}: they differ in {', '.join(in_order(nodes[0] ^ nodes[1])) or 'links'}; "
            "run one of the two again with the circuit of the other"
        )


def model_of(artifacts: Artifacts) -> str:
    """The model that made artifacts, in words."""
    model = artifacts.record["model"]
    return f"{model['name']} (fingerprint {model['fingerprint'][:8]}…{model['fingerprint'].partition('+')[2]})"
