"""Files that are published together, once all of them are made, with a JSON record that names each with its SHA-256.

They are staged in a hidden folder beside their destination, so that a run which fails half way leaves the earlier files
as they were. While a script stages files in a folder, another run of it there is refused. A run that is killed while
it moves its files leaves an earlier record beside some of them; `intact` and readers see that by the hashes.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from path_patching.errors import UserError, first_line
from path_patching.files import regular, write_text

RECORD_VERSION = 3
WORDS = ("results", "report")  # of reproduce.py; every other run is a script's


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    return hashlib.sha256(regular(path).read_bytes()).hexdigest()


@dataclass(frozen=True)
class Publication:
    """What one run of a script is about to publish in a folder, which it has locked against other runs of it.

    `name` is the script's or, where its runs leave different files ("neuron_plots-m8"), begins with it and a dash.
    """

    name: str
    folder: Path
    staging: Path
    lock: FileLock

    def stage(self, name: str, content: bytes) -> None:
        """Put a file aside; `name` may begin with subfolders.

        Raises `UserError` if it cannot be written, or if all was published already or given up for a later run.
        """
        self._check_open()
        with writing_to(self.staging):
            path = self.staging / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def publish(self, record: Mapping[str, object]) -> Path:
        """Move everything into the folder, each file whole, the record last; then remove what an earlier run had more.

        Returns the record's path. Raises `UserError` if the folder cannot be written to, or like `stage`.
        """
        self._check_open()
        staged = sorted(path for path in self.staging.rglob("*") if path.is_file())
        files = {path.relative_to(self.staging).as_posix(): path for path in staged}
        hashes = {name: sha256(path) for name, path in files.items()}
        path = record_path(self.folder, self.name)
        with writing_to(self.folder):
            earlier = _files_of(path)
            for name, file in files.items():
                destination = self.folder / name
                destination.parent.mkdir(parents=True, exist_ok=True)
                file.replace(destination)
            head = {"record_version": RECORD_VERSION, "script": script_of(self.name)}
            write_text(path, json.dumps({**head, **record, "artifacts": hashes}, indent=2) + "\n")
            for name in earlier - set(files):
                (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.staging)
        self.lock.release(force=True)
        return path

    def _check_open(self) -> None:
        # What is published is published: a second time, with the few files staged since, would take the others away.
        if not self.staging.is_dir():
            raise UserError(
                f"this run of {script_of(self.name)}.py is over; to publish again, run the script from its first cell"
            )


def open_publication(name: str, folder: Path) -> Publication:
    """Lock a folder for a script's run and make room there for what it will publish.

    In an interactive window, where a first cell is run again, what the same process had staged there is given up.
    Raises `UserError` if another run of the script is busy there, or if the folder cannot be written to: now, before
    hours of work, not at the end.
    """
    with writing_to(folder):
        lock = lock_folder(name, folder)
        for left in folder.glob(f".{name}.*.staged"):  # killed, or of this process; another would hold the lock
            shutil.rmtree(left, ignore_errors=True)
        staging = Path(tempfile.mkdtemp(dir=folder, prefix=f".{name}.", suffix=".staged"))
    atexit.register(shutil.rmtree, staging, ignore_errors=True)  # of a run that fails; a published one has no more
    return Publication(name, folder, staging, lock)


def lock_folder(name: str, folder: Path) -> FileLock:
    """Make a folder and lock it for a script's run, until the lock is released or the process ends in any way.

    A process that holds the lock gets it again.

    Raises `UserError` if another run of the script is busy there, `OSError` if the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f".{name}.lock", is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"another run of {script_of(name)}.py is writing to {folder}; wait until it ends, or give another --out"
        ) from None
    return lock


def wait_for(name: str, folder: Path) -> None:
    """Wait until no run of a script is busy in a folder, as one may be whose own starter was killed."""
    lock = FileLock(folder / f".{name}.lock")
    if not folder.is_dir():
        return
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting for a run of {script_of(name)}.py that is busy in {folder}", flush=True)
        lock.acquire()
    lock.release()


def record_path(folder: Path, name: str) -> Path:
    """Where the record of what was published under a name lies."""
    return folder / f"{name}.json"


def script_of(name: str) -> str:
    """The script that publishes under a name."""
    return name.partition("-")[0]


def invocation(script: str, arguments: Sequence[str] = ()) -> str:
    """How a run is called: a script by its file, one of reproduce.py's words through that."""
    words = ["reproduce.py", script] if script in WORDS else [f"{script}.py"]
    return shlex.join(["python", *words, *arguments])


def read_record(path: Path) -> dict[str, Any]:
    """A record. Raises `UserError` if it is damaged, no record, or of another version."""
    again = f"run {invocation(script_of(path.stem))} again"
    try:
        record: dict[str, Any] = json.loads(regular(path).read_bytes())
        version, _ = record["record_version"], {**record["artifacts"]}
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {again}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a run's record ({first_line(error)}); {again}") from error
    if version != RECORD_VERSION:
        raise UserError(f"{path} has record version {version}, this code reads {RECORD_VERSION}; {again}")
    return record


def intact(path: Path) -> bool:
    """Whether a record can be read and all of its files are there and its own."""
    try:
        record = read_record(path)
        return all(sha256(path.parent / name) == expected for name, expected in record["artifacts"].items())
    except (UserError, OSError):
        return False


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """What cannot be written there is one line that says so."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise UserError(f"cannot write to {folder} ({reason}); mend that or choose another with --out") from error


def _files_of(path: Path) -> set[str]:
    """The files that a record names; none if there is no record that can be read."""
    try:
        return set(read_record(path)["artifacts"])
    except UserError:
        return set()
