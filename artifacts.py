"""Artifacts of a run: plain tensors or JSON, and one JSON record that says what made them.

A run saves into a hidden folder and publishes everything at its end, so that a run which fails half way leaves the
earlier artifacts as they were. The record names every artifact with its SHA-256; reading checks it, so that a folder
in which two runs were mixed is refused.
"""

from __future__ import annotations

import atexit
import hashlib
import io
import json
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import torch

from gpt2 import Model
from settings import ROOT, Settings
from utils import UserError, first_line, write_text

RECORD_VERSION = 1
LIBRARIES = ("torch", "rust_circuit", "transformers", "numpy")


def library_versions() -> dict[str, str | None]:
    """Versions of Python and of the libraries that results depend on; None for one that is not installed."""
    return {"python": platform.python_version()} | {name: _version(name) for name in LIBRARIES}


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def code_version() -> str | None:
    """The repository's commit, with `+changes` where files differ from it; None outside a git checkout."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass
class Run:
    """One script's run: collects artifacts and numbers, and publishes them together.

    The only mutable object of the experiments, because a script's cells add to it one after the other.
    """

    script: str
    folder: Path
    provenance: Mapping[str, object]
    staging: Path
    numbers: dict[str, object] = field(default_factory=dict)

    def save(self, name: str, value: torch.Tensor | Mapping[str, object]) -> None:
        """Stage an artifact: a tensor, or a dict of tensors and lists. Tensors are stored on the CPU."""
        stored = value.detach().cpu().clone() if isinstance(value, torch.Tensor) else dict(value)
        content = io.BytesIO()  # torch.save reports a full disk as something else when it writes by itself
        torch.save(stored, content)
        with _writing(self.staging):
            path = self.staging / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.getvalue())

    def save_json(self, name: str, value: Mapping[str, object]) -> None:
        """Stage an artifact of plain values as JSON; its name ends in `.json`."""
        with _writing(self.staging):
            write_text(self.staging / name, json.dumps(value, indent=2) + "\n")

    def note(self, name: str, value: float | str | list | dict) -> None:
        """Print a number and keep it for the record."""
        print(f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}")
        self.numbers[name] = value

    def publish(self) -> Path:
        """Move everything into the run's folder, each file whole, the record last. Returns the record's path.

        Raises `UserError` if the folder cannot be written to.
        """
        staged = sorted(path for path in self.staging.rglob("*") if path.is_file())
        names = [path.relative_to(self.staging).as_posix() for path in staged]
        record = {
            "record_version": RECORD_VERSION,
            "script": self.script,
            **self.provenance,
            "numbers": self.numbers,
            "artifacts": {name: sha256(path) for name, path in zip(names, staged, strict=True)},
        }
        record_path = self.folder / f"{self.script}.json"
        with _writing(self.folder):
            for name, path in zip(names, staged, strict=True):
                destination = self.folder / name
                destination.parent.mkdir(parents=True, exist_ok=True)
                path.replace(destination)
            write_text(record_path, json.dumps(record, indent=2) + "\n")
        shutil.rmtree(self.staging)
        print(f"{len(names)} artifacts and {record_path.name} are in {self.folder}")
        return record_path


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise UserError(
            f"cannot write artifacts to {folder} ({reason}); mend that or choose another with --out"
        ) from error


def start_run(script: str, settings: Settings, model: Model, engine: str, device: str) -> Run:
    """Open a run of `script`.

    Raises `UserError` if the folder cannot be written to: now, before hours of work, not at the end.
    """
    folder = settings.artifact_folder()
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=folder, prefix=f".{script}."))
    atexit.register(shutil.rmtree, staging, ignore_errors=True)  # of a run that fails; a published one has no more
    provenance = {
        "model": {"name": model.name, "fingerprint": model.fingerprint},
        "settings": settings.as_json(),
        "engine": engine,
        "device": device,
        "code": code_version(),
        "versions": library_versions(),
    }
    return Run(script, folder, provenance, staging)


@dataclass(frozen=True)
class Artifacts:
    """The published artifacts of one script, checked as they are read."""

    folder: Path
    record: Mapping[str, object]

    @property
    def model_name(self) -> str:
        """The name of the model that made them, for titles."""
        return self.record["model"]["name"]

    def load(self, name: str) -> torch.Tensor | dict[str, object]:
        """An artifact by its file name. Raises `UserError` if it is missing, damaged or of another run."""
        path = self.folder / name
        script = self.record["script"]
        expected = self.record["artifacts"].get(name)
        if expected is None or not path.is_file():
            raise UserError(f"{path} is not among what {script}.py made; run python {script}.py again")
        if sha256(path) != expected:
            raise UserError(f"{path} is damaged or of another run than {script}.json; run python {script}.py again")
        return json.loads(path.read_bytes()) if path.suffix == ".json" else torch.load(path, weights_only=True)


def read_artifacts(folder: Path, script: str) -> Artifacts:
    """The artifacts that `script` published in `folder`. Raises `UserError` if there are none that can be read."""
    path = folder / f"{script}.json"
    if not path.is_file():
        raise UserError(f"no {path}; run python {script}.py first, or name its folder with --artifacts")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        version = record["record_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a run's record ({first_line(error)}); run python {script}.py again") from error
    if version != RECORD_VERSION:
        raise UserError(f"{path} has record version {version}, this code reads {RECORD_VERSION}; run {script}.py again")
    return Artifacts(folder, record)
