"""Publishing files together once all of them are made, with a JSON record that has the SHA-256 of each.

Files are staged in a hidden folder beside their destination: a run that fails half way leaves the earlier files as they
were. Publishing moves the earlier files aside and the staged ones in, the record last. If a move fails, everything is
moved back. If the process is killed, the earlier files come back when the script is run there again; until then the
hashes show readers that files and record do not belong together. While a script stages files in a folder, another run
of it there is refused.
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
from typing import Any, NoReturn

from filelock import FileLock, Timeout

from path_patching.errors import UserError, first_line, shortened
from path_patching.files import parse_json, regular, write_text
from path_patching.interrupts import interrupts_held
from reproduction.experiments import WORDS

RECORD_VERSION = 5
PLAIN = re.compile(r"(?=.{1,200}\Z)\w[\w .-]*(/\w[\w .-]*)*", re.ASCII)
NEW_RECORD, EARLIER = "record", "earlier"  # in the folder of what is moved aside: the new record, and the earlier files


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    return hashlib.sha256(regular(path).read_bytes()).hexdigest()


def inside(folder: Path, name: str) -> Path:
    """The file of a name in a folder. Raises `UserError` if the name leads out of it, by itself or through a link."""
    path = folder / name
    if not PLAIN.fullmatch(name) or not Path(os.path.realpath(path.parent)).is_relative_to(os.path.realpath(folder)):
        raise UserError(
            f"{shortened(name)!r} is no name of a file in {folder}: it leads elsewhere, or has other signs than "
            "letters, digits, spaces and . _ -"
        )
    return path


@dataclass(frozen=True)
class Publication:
    """What one run of a script will publish in a folder, which it has locked against other runs of the script.

    `name` is the script's. If its runs make different files, it begins with the script's and a dash:
    "neuron_plots-m8".
    """

    name: str
    folder: Path
    staging: Path
    lock: FileLock
    published: dict[str, str] = field(default_factory=dict)
    """What it has published so far, by SHA-256."""

    def stage(self, name: str, content: bytes | Iterable[bytes]) -> None:
        """Stage a file, given whole or in pieces; `name` may begin with subfolders.

        Raises `UserError` if it cannot be written, if its name leads out of the folder or is the record's, or if a
        later run has taken the folder.
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
            except BaseException:  # no part of the file may be published
                path.unlink(missing_ok=True)
                raise

    def publish(self, record: Mapping[str, object]) -> Path:
        """Replace an earlier run's files in the folder by the staged ones, all or nothing.

        Files that this run has published before and not staged again stay. Ctrl-C waits meanwhile. Returns the path of
        the record. Raises `UserError` if the folder cannot be written to, or like `stage`; then publish again.
        """
        self._open_again()
        head = {"record_version": RECORD_VERSION, "script": script_of(self.name)}
        with writing_to(self.folder), interrupts_held():
            self._keep_published()
            files = {path.relative_to(self.staging).as_posix(): path for path in sorted(_files_below(self.staging))}
            hashes = {name: sha256(path) for name, path in files.items()}
            text = json.dumps(signed({**head, **record, "artifacts": hashes}), indent=2, allow_nan=False) + "\n"
            self._exchange(files, text)
            self.published.clear()
            self.published.update(hashes)
            self.lock.release(force=True)
        return record_path(self.folder, self.name)

    def _exchange(self, files: Mapping[str, Path], record: str) -> None:
        """Move the earlier run's files aside, then the staged files and their record in."""
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
        """Make sure that there is a folder for staged files, also after publishing: a cell may be run again."""
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
        """Stage the files that this run has published and not staged again. Raises `UserError` if one has changed."""
        for name, expected in self.published.items():
            source, staged = inside(self.folder, name), inside(self.staging, name)
            if staged.exists():
                continue
            if not source.is_file() or sha256(source) != expected:
                raise UserError(f"{source} has changed since it was published; run its cell again")
            staged.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, staged)


def _move_all(moves: Sequence[tuple[Path, Path]]) -> None:
    """Move files one after another, each to a place that is free by then; if one fails, move all back."""
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
    """Bring back files that a killed process had moved aside, unless it had moved all: the new record comes last."""
    earlier = aside / EARLIER
    if (aside / NEW_RECORD).exists():
        for file in [*_files_below(earlier)] if earlier.is_dir() else ():
            file.replace(folder / file.relative_to(earlier))
    shutil.rmtree(aside, ignore_errors=True)


def _files_below(folder: Path) -> Iterator[Path]:
    """The files in a folder and its subfolders. Raises `OSError` where `Path.rglob` leaves out what it cannot read."""
    for place, _, names in os.walk(folder, onerror=_raise):
        yield from (Path(place) / name for name in names)


def _raise(error: OSError) -> NoReturn:
    raise error


def _check_no_folder(place: Path, name: str) -> None:
    if place.is_dir():
        raise UserError(f"{place} is a folder, where {script_of(name)}.py has a file; move it away")


def open_publication(name: str, folder: Path) -> Publication:
    """Lock a folder for a script's run and make room there for what it will publish.

    If the first cell is run again in an interactive window, what the same process had staged is dropped. Raises
    `UserError` if another run of the script is busy there, or if the folder cannot be written to: now, not after hours
    of work.
    """
    _check_no_folder(record_path(folder, name), name)
    with writing_to(folder):
        lock = lock_folder(name, folder)
        for left in folder.glob(f".{name}.*.staged"):  # killed, or of this process; another would hold the lock
            shutil.rmtree(left, ignore_errors=True)
        for left in folder.glob(f".{name}.*.aside"):
            _put_back(left, folder)
        staging = Path(tempfile.mkdtemp(dir=folder, prefix=f".{name}.", suffix=".staged"))
    atexit.register(shutil.rmtree, staging, ignore_errors=True)  # for a run that fails; a published one has none left
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
    """Wait until no run of a script is busy in a folder: a run may outlive the process that started it."""
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
    """The path of the record of what was published under a name."""
    return folder / f"{name}.json"


def script_of(name: str) -> str:
    """The script that publishes under a name."""
    return name.partition("-")[0]


def invocation(script: str, arguments: Sequence[str] = ()) -> str:
    """The command of a run: a script's file, or reproduce.py with one of its words."""
    words = ["reproduce.py", script] if script in WORDS else [f"{script}.py"]
    return shlex.join(["python", *words, *arguments])


def signed(record: Mapping[str, object]) -> dict[str, object]:
    """A record with the SHA-256 of the rest of it, which shows if it was edited."""
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
    """Whether a record can be read, and all of its files are there with their hashes."""
    try:
        record = read_record(path)
        return all(sha256(path.parent / name) == expected for name, expected in record["artifacts"].items())
    except (UserError, OSError):
        return False


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Within it, an error of writing to `folder` becomes one line that says so."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise UserError(f"cannot write to {folder} ({reason}); mend that or choose another with --out") from error


def _files_by_hash(path: Path) -> dict[str, str]:
    """The SHA-256 of the files that a record names; none without a record that can be trusted."""
    try:
        return dict(read_record(path)["artifacts"]) if path.is_file() else {}
    except UserError as error:
        if isinstance(error.__cause__, OSError):
            raise
        return {}
