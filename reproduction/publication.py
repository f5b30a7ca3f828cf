"""Files that are published together, once all of them are made, with a JSON record that names each with its SHA-256.

They are staged in a hidden folder beside their destination, so that a run which fails half way leaves the earlier files
as they were. Publishing moves the earlier files aside and the staged ones in, the record last: all of it or, if a move
fails, nothing. What a killed process had moved aside comes back when the script is run there again; until then readers
see by the hashes that files and record do not belong together. While a script stages files in a folder, another run of
it there is refused.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from path_patching.errors import UserError, first_line, shortened
from path_patching.files import parse_json, regular, write_text
from path_patching.interrupts import interrupts_held
from reproduction.experiments import WORDS

RECORD_VERSION = 5
PLAIN = re.compile(r"(?=.{1,200}\Z)\w[\w .-]*(/\w[\w .-]*)*", re.ASCII)
NEW_RECORD, EARLIER = "record", "earlier"  # in the folder of what is moved aside: the one to come, and the files


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    return hashlib.sha256(regular(path).read_bytes()).hexdigest()


def inside(folder: Path, name: str) -> Path:
    """The file of a name in a folder. Raises `UserError` if the name leads elsewhere, by itself or through a link."""
    path = folder / name
    if not PLAIN.fullmatch(name) or not Path(os.path.realpath(path.parent)).is_relative_to(os.path.realpath(folder)):
        raise UserError(
            f"{shortened(name)!r} is no name of a file in {folder}: it leads elsewhere, or has other signs than "
            "letters, digits, spaces and . _ -"
        )
    return path


@dataclass(frozen=True)
class Publication:
    """What one run of a script is about to publish in a folder, which it has locked against other runs of it.

    `name` is the script's or, where its runs leave different files ("neuron_plots-m8"), begins with it and a dash.
    """

    name: str
    folder: Path
    staging: Path
    lock: FileLock
    published: dict[str, str] = field(default_factory=dict)
    """What it has published so far, by SHA-256."""

    def stage(self, name: str, content: bytes | Iterable[bytes]) -> None:
        """Put a file aside, its content whole or in pieces; `name` may begin with subfolders.

        Raises `UserError` if it cannot be written, if its name leads out of the folder or is the record's, or if all
        was given up for a later run.
        """
        self._open_again()
        path = inside(self.staging, name)
        if self.folder / name == record_path(self.folder, self.name):
            raise UserError(f"{name} is the record itself; give the file another name")
        with writing_to(self.staging):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with path.open("wb") as file:
                    file.writelines([content] if isinstance(content, bytes) else content)
            except BaseException:  # of which no part is to be published
                path.unlink(missing_ok=True)
                raise

    def publish(self, record: Mapping[str, object]) -> Path:
        """Put everything into the folder in the place of what an earlier run left, all of it or nothing.

        What this run has published before, and has not staged again, stays. Ctrl-C is held off meanwhile. Returns the
        record's path. Raises `UserError` if the folder cannot be written to, or like `stage`; what is staged can be
        published again then.
        """
        self._open_again()
        head = {"record_version": RECORD_VERSION, "script": script_of(self.name)}
        with writing_to(self.folder), interrupts_held():
            self._keep_published()
            staged = sorted(path for path in self.staging.rglob("*") if path.is_file())
            files = {path.relative_to(self.staging).as_posix(): path for path in staged}
            hashes = {name: sha256(path) for name, path in files.items()}
            text = json.dumps(signed({**head, **record, "artifacts": hashes}), indent=2, allow_nan=False) + "\n"
            self._exchange(files, text)
            self.published.clear()
            self.published.update(hashes)
            self.lock.release(force=True)
        return record_path(self.folder, self.name)

    def _exchange(self, files: Mapping[str, Path], record: str) -> None:
        """Move the earlier run's files aside, and the staged ones and their record in."""
        path = record_path(self.folder, self.name)
        names = sorted({*files, *_files_by_hash(path)})
        places = {name: inside(self.folder, name) for name in names} | {path.name: path}
        for place in places.values():
            _check_no_folder(place, self.name)
        aside = Path(tempfile.mkdtemp(dir=self.folder, prefix=f".{self.name}.", suffix=".aside"))
        try:
            write_text(aside / NEW_RECORD, record)
            moves = [(place, aside / EARLIER / name) for name, place in places.items() if os.path.lexists(place)]
            moves += [(file, places[name]) for name, file in files.items()]
            _move_all([*moves, (self.staging, aside / self.staging.name), (aside / NEW_RECORD, path)])
        finally:
            _put_back(aside, self.folder)

    def _open_again(self) -> None:
        """See that there is a place for what is staged, also after publishing, as when a cell is run again to look."""
        if self.staging.is_dir():
            return
        again = f"run {script_of(self.name)}.py again, from its first cell"
        if not self.folder.is_dir():
            raise UserError(f"{self.folder}, where this run publishes, was removed; {again}")
        if not self.published:
            raise UserError(f"a later run of {script_of(self.name)}.py has begun in {self.folder}; {again}")
        with writing_to(self.folder):
            lock_folder(self.name, self.folder)
            if _files_by_hash(record_path(self.folder, self.name)) != self.published:
                self.lock.release(force=True)
                raise UserError(f"another run has published in {self.folder} since; {again}")
            self.staging.mkdir()

    def _keep_published(self) -> None:
        """Stage what this run has published and not staged again. Raises `UserError` if it has changed since."""
        for name, expected in self.published.items():
            source, staged = inside(self.folder, name), inside(self.staging, name)
            if staged.exists():
                continue
            if not source.is_file() or sha256(source) != expected:
                raise UserError(f"{source} has changed since it was published; run its cell again")
            staged.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, staged)


def _move_all(moves: Sequence[tuple[Path, Path]]) -> None:
    """Move files one after the other, each to a place that is free by then; all of them or, if one fails, none."""
    begun: list[tuple[Path, Path]] = []
    try:
        for source, destination in moves:
            destination.parent.mkdir(parents=True, exist_ok=True)
            begun.append((source, destination))
            source.replace(destination)
    except BaseException:
        for source, destination in reversed(begun):
            if not os.path.lexists(source):  # else it was the move that failed
                destination.replace(source)
        raise


def _put_back(aside: Path, folder: Path) -> None:
    """Bring back what is still aside, as of a killed process, unless all was moved; the new record is moved last."""
    earlier = aside / EARLIER
    if (aside / NEW_RECORD).exists():
        for file in [path for path in earlier.rglob("*") if not path.is_dir()]:
            file.replace(folder / file.relative_to(earlier))
    shutil.rmtree(aside, ignore_errors=True)


def _check_no_folder(place: Path, name: str) -> None:
    if place.is_dir():
        raise UserError(f"{place} is a folder, where {script_of(name)}.py has a file; move it away")


def open_publication(name: str, folder: Path) -> Publication:
    """Lock a folder for a script's run and make room there for what it will publish.

    In an interactive window, where a first cell is run again, what the same process had staged there is given up.
    Raises `UserError` if another run of the script is busy there, or if the folder cannot be written to: now, before
    hours of work, not at the end.
    """
    _check_no_folder(record_path(folder, name), name)
    with writing_to(folder):
        lock = lock_folder(name, folder)
        for left in folder.glob(f".{name}.*.staged"):  # killed, or of this process; another would hold the lock
            shutil.rmtree(left, ignore_errors=True)
        for left in folder.glob(f".{name}.*.aside"):
            _put_back(left, folder)
        staging = Path(tempfile.mkdtemp(dir=folder, prefix=f".{name}.", suffix=".staged"))
    atexit.register(shutil.rmtree, staging, ignore_errors=True)  # of a run that fails; a published one has no more
    return Publication(name, folder, staging, lock)


def lock_folder(name: str, folder: Path) -> FileLock:
    """Make a folder and lock it for a script's run, until the lock is released or the process ends in any way.

    A process that holds the lock gets it again.

    Raises `UserError` if another run of the script is busy there, or the lock is another user's; `OSError` if the
    folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".{name}.lock"
    lock = FileLock(path, is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except PermissionError as error:
        if not path.exists():
            raise
        raise UserError(
            f"{path} is another user's; remove it if no run is busy there, or give another --out"
        ) from error
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


def signed(record: Mapping[str, object]) -> dict[str, object]:
    """A record with the SHA-256 of all the rest of it, by which one that was edited is known."""
    rest = {name: value for name, value in record.items() if name != "sha256"}
    return {**rest, "sha256": hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()}


def read_record(path: Path) -> dict[str, Any]:
    """A record. Raises `UserError` if it is damaged, no record, edited or of another version."""
    again = f"run {invocation(script_of(path.stem))} again"
    try:
        record: dict[str, Any] = parse_json(regular(path).read_bytes())
        version = record["record_version"]
        names = {**record["artifacts"], **record.get("read", {}), **record.get("beside", {})}
        is_own = record == signed(record)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {again}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is not a run's record ({first_line(error)}); {again}") from error
    if version != RECORD_VERSION:
        raise UserError(f"{path} has record version {shortened(version)}, this code reads {RECORD_VERSION}; {again}")
    for name in names:
        inside(path.parent, name)
    if not is_own:
        raise UserError(f"{path} was changed after the run that left it; {again}")
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


def _files_by_hash(path: Path) -> dict[str, str]:
    """The files that a record names, by SHA-256; none if there is no record, or one that cannot be trusted."""
    try:
        return dict(read_record(path)["artifacts"]) if path.is_file() else {}
    except UserError as error:
        if isinstance(error.__cause__, OSError):
            raise
        return {}
