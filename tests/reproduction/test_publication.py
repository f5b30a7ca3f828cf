"""Files are published together or not at all, by one run at a time."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from itertools import count, product
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import NoReturn

import pytest
from filelock import FileLock

from path_patching.errors import UserError
from reproduction.publication import (
    RECORD_VERSION,
    Publication,
    intact,
    open_publication,
    read_record,
    record_path,
    script_of,
    sha256,
    signed,
    wait_for,
)
from reproduction.run import read_artifacts
from tests.helpers.faults import trouble_before
from tests.helpers.refusals import put_there

NAME = "circuit_discovery"
RECORD = {  # what a reader wants to see
    "command": "python circuit_discovery.py",
    "model": {"name": "a model", "fingerprint": "abc", "is_gpt2_small": False},
    "settings": {"model": "standin", "as_published": False},
    **{part: {} for part in ("read", "numbers", "index")},
}


def staged(folder, files: dict[str, bytes], name: str = NAME) -> Publication:
    publication = open_publication(name, folder)
    for file, content in files.items():
        publication.stage(file, content)
    return publication


def publish(folder, name: str = NAME, **files: bytes) -> None:
    staged(folder, files, name).publish(RECORD)


def found_in(folder: Path) -> dict[str, bytes]:
    """All that a reader sees in a folder."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith(".")}


def hidden_in(folder: Path) -> list[str]:
    """What lies in a folder beside that, but for the lock."""
    return [path.name for path in folder.glob(".*") if not path.name.endswith(".lock")]


def hold_the_lock(folder, ready) -> None:
    """What a busy run does: it has staged a file and goes on."""
    publication = open_publication(NAME, folder)
    publication.stage("half", b"done")
    ready.set()
    time.sleep(60)


@pytest.fixture
def busy(tmp_path):
    """Another process in the middle of a run in `tmp_path`."""
    ready = multiprocessing.get_context("fork").Event()
    process = ForkProcess(target=hold_the_lock, args=(tmp_path, ready))
    process.start()
    assert ready.wait(60)
    yield process
    process.kill()
    process.join()


def test_a_second_run_in_one_folder_is_refused(busy, tmp_path):
    with pytest.raises(UserError, match=r"another run of circuit_discovery\.py is writing to"):
        open_publication(NAME, tmp_path)
    publish(tmp_path, "neuron_investigations", a=b"1")  # another script may


def test_what_a_killed_run_left_is_cleared_and_does_not_block(busy, tmp_path):
    assert list(tmp_path.glob(".circuit_discovery.*.staged"))
    os.kill(busy.pid, signal.SIGKILL)
    busy.join()
    publish(tmp_path, a=b"1")
    assert not list(tmp_path.glob(".*.staged"))
    assert (tmp_path / "a").read_bytes() == b"1"
    assert not (tmp_path / "half").exists()


def test_waiting_ends_with_the_other_run(busy, tmp_path, capsys):
    waiting = ForkProcess(target=wait_for, args=(NAME, tmp_path))
    waiting.start()
    waiting.join(1)
    assert waiting.is_alive()
    busy.kill()
    waiting.join(30)
    assert waiting.exitcode == 0


def test_nothing_to_wait_for(tmp_path):
    wait_for(NAME, tmp_path / "none")
    wait_for(NAME, tmp_path)


def test_what_is_published_again_replaces_what_was_and_keeps_the_rest(tmp_path):
    """Cells that were run again after the last one, if only to look, ended in “this run is over”."""
    publication = staged(tmp_path, {"a": b"1", "deep/b": b"2"})
    publication.publish(RECORD)
    publication.stage("a", b"3")
    publication.stage("c", b"4")
    assert found_in(tmp_path)["a"] == b"1", "looking changes nothing"
    publication.publish(RECORD)
    assert [found_in(tmp_path)[name] for name in ("a", "deep/b", "c")] == [b"3", b"2", b"4"]
    assert sorted(read_record(record_path(tmp_path, NAME))["artifacts"]) == ["a", "c", "deep/b"]
    assert intact(record_path(tmp_path, NAME))
    assert hidden_in(tmp_path) == []


def test_a_run_that_looks_again_gives_way_to_one_that_has_published_since(tmp_path):
    publication = staged(tmp_path, {"a": b"1"})
    publication.publish(RECORD)
    publish(tmp_path, a=b"2")
    for again in (lambda: publication.stage("b", b"3"), lambda: publication.publish(RECORD)):
        with pytest.raises(UserError, match=r"another run has published in .* since; run circuit_discovery\.py again"):
            again()
    assert found_in(tmp_path)["a"] == b"2"
    publish(tmp_path, a=b"4")


def test_what_was_changed_since_it_was_published_is_not_published_again(tmp_path):
    publication = staged(tmp_path, {"a": b"1", "b": b"2"})
    publication.publish(RECORD)
    (tmp_path / "a").write_bytes(b"another")
    publication.stage("b", b"3")
    with pytest.raises(UserError, match="has changed since it was published; run its cell again"):
        publication.publish(RECORD)
    publication.stage("a", b"4")
    publication.publish(RECORD)
    assert [found_in(tmp_path)[name] for name in "ab"] == [b"4", b"3"]


def test_a_folder_that_was_removed_is_named(tmp_path):
    """It said that the run is over."""
    publication = staged(tmp_path / "out", {"a": b"1"})
    shutil.rmtree(tmp_path / "out")
    for again in (lambda: publication.stage("b", b"3"), lambda: publication.publish(RECORD)):
        with pytest.raises(UserError, match=r"out, where this run publishes, was removed; run circuit_discovery\.py"):
            again()


def test_a_lock_of_another_user_is_named(tmp_path, monkeypatch):
    def forbid(self: FileLock, *_: object, **__: object) -> NoReturn:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), self.lock_file)

    (tmp_path / f".{NAME}.lock").touch()
    monkeypatch.setattr(FileLock, "acquire", forbid)
    with pytest.raises(UserError, match=r"\.circuit_discovery\.lock is another user's; remove it"):
        open_publication(NAME, tmp_path)
    (tmp_path / f".{NAME}.lock").unlink()
    with pytest.raises(UserError, match="cannot write to"):
        open_publication(NAME, tmp_path)


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077, 0o002])
def test_records_are_as_open_as_artifacts(tmp_path, umask):
    earlier = os.umask(umask)
    try:
        publish(tmp_path, a=b"1")
    finally:
        os.umask(earlier)
    for path in (tmp_path / "a", record_path(tmp_path, NAME)):
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_first_cell_that_is_run_again_starts_anew(tmp_path):
    earlier = open_publication(NAME, tmp_path)
    earlier.stage("a", b"1")
    later = open_publication(NAME, tmp_path)
    later.stage("b", b"2")
    later.publish(RECORD)
    with pytest.raises(UserError, match=r"a later run of circuit_discovery\.py has begun"):
        earlier.stage("c", b"3")
    assert [(tmp_path / name).is_file() for name in "abc"] == [False, True, False]
    publish(tmp_path, a=b"1")


def test_what_an_earlier_run_had_more_is_removed(tmp_path):
    publish(tmp_path, a=b"1", b=b"2")
    publish(tmp_path, a=b"3")
    assert not (tmp_path / "b").exists()
    assert read_record(record_path(tmp_path, NAME))["artifacts"] == {"a": sha256(tmp_path / "a")}


def test_files_of_other_names_are_left_alone(tmp_path):
    publish(tmp_path, "neuron_plots", a=b"1")
    publish(tmp_path, "neuron_plots-m8", b=b"2")
    assert script_of("neuron_plots-m8") == "neuron_plots"
    assert (tmp_path / "a").exists()
    assert intact(record_path(tmp_path, "neuron_plots"))


@pytest.mark.parametrize("spoil", ["missing", "changed", "no record", "damaged record", "future record"])
def test_what_is_not_whole_is_not_intact(tmp_path, spoil):
    publish(tmp_path, a=b"1")
    path = record_path(tmp_path, NAME)
    assert intact(path)
    record = json.loads(path.read_text())
    if spoil == "missing":
        (tmp_path / "a").unlink()
    elif spoil == "changed":
        (tmp_path / "a").write_bytes(b"2")
    elif spoil == "no record":
        path.unlink()
    else:
        path.write_text("{" if spoil == "damaged record" else json.dumps(record | {"record_version": 99}))
    assert not intact(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot write to"):
        open_publication(NAME, tmp_path)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_a_record_or_an_artifact_that_is_no_file_is_not_waited_for(tmp_path, kind, monkeypatch):
    publish(tmp_path, a=b"1")
    put_there(tmp_path / "a", kind, monkeypatch)
    assert not intact(record_path(tmp_path, NAME))
    put_there(record_path(tmp_path, NAME), kind, monkeypatch)
    with pytest.raises(UserError, match=r"cannot be read \(it is not a file\)"):
        read_record(record_path(tmp_path, NAME))


OLD, NEW = "old", "new"
RUNS = {  # the files of an earlier run, and those of the one that is interrupted
    "a first run": ((), ("a", "deep/b")),
    "the same files": (("a", "deep/b"), ("a", "deep/b")),
    "fewer": (("a", "b", "deep/c"), ("a",)),
    "more": (("a",), ("a", "b", "deep/er/c")),
}


@pytest.fixture
def _quick(monkeypatch):
    """Nothing here is about what a disk forgets when the power goes."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def stage_run(folder: Path, run: str, names: tuple[str, ...]) -> Publication:
    return staged(folder, {name: f"{run} {name}".encode() for name in names})


def fail() -> NoReturn:
    raise OSError(errno.EIO, "the disk has died")


def interrupt() -> NoReturn:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize(
    ("run", "trouble"),
    [("a first run", interrupt), ("the same files", interrupt), ("fewer", interrupt), ("more", fail)],
)
def test_wherever_publishing_is_interrupted_the_old_run_or_the_new_one_is_whole(tmp_path, run, trouble):
    """Before each of its file operations in turn, until all of them are through."""
    old, new = RUNS[run]
    stage_run(tmp_path / NEW, NEW, new).publish(RECORD)
    before, whole, folder = {}, found_in(tmp_path / NEW), tmp_path / "runs"
    for at in count(1):
        if old:  # over what the last interruption left
            stage_run(folder, OLD, old).publish(RECORD)
            before = before or found_in(folder)
        else:
            folder = tmp_path / str(at)
        assert hidden_in(folder) == []
        publication = stage_run(folder, NEW, new)
        assert found_in(folder) == before
        with trouble_before(at, trouble) as came:
            try:
                publication.publish(RECORD)
            except (UserError, KeyboardInterrupt):
                assert came.has_come
        found = found_in(folder)
        assert found in (before, whole)
        if found:
            read_artifacts(folder, NAME).check_all()
        if found != whole:
            publication.publish(RECORD)  # once the disk is mended
            assert found_in(folder) == whole
        if not came.has_come:
            break
    assert at > 10 + len(new), "it was interrupted at all of them"


@pytest.mark.usefixtures("_quick")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked on this platform")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_what_a_killed_run_had_moved_aside_comes_back_with_the_next(tmp_path):
    old, new = ("a", "deep/b"), ("c", "deep/d")
    states = set()
    for at in count(12, step=3):  # before that, files are staged
        stage_run(tmp_path, OLD, old).publish(RECORD)
        before = found_in(tmp_path)
        if (child := os.fork()) == 0:
            with trouble_before(at, lambda: os._exit(9)):
                stage_run(tmp_path, NEW, new).publish(RECORD)
            os._exit(0)
        was_killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        open_publication(NAME, tmp_path)
        found = read_artifacts(tmp_path, NAME)
        found.check_all()
        state = {old: OLD, new: NEW}[tuple(found.record["artifacts"])]
        states.add((state, was_killed))
        assert state == NEW or before.items() <= found_in(tmp_path).items()
        assert len(hidden_in(tmp_path)) == 1, "what is staged now"
        if not was_killed:
            break
    assert states == {(OLD, True), (NEW, True), (NEW, False)}


@pytest.fixture
def interruptible():
    """Ctrl-C as in a terminal; it is ignored where the tests run in the background."""
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, earlier)


def test_ctrl_c_waits_until_all_is_published(tmp_path, interruptible):
    publish(tmp_path, a=b"1")
    for at in range(1, 12):
        publication = staged(tmp_path, {"a": b"%d" % at, "b": b"2"})
        with trouble_before(at, lambda: signal.raise_signal(signal.SIGINT)), pytest.raises(KeyboardInterrupt):
            publication.publish(RECORD)
        if (tmp_path / "a").read_bytes() == b"%d" % at:
            read_artifacts(tmp_path, NAME).check_all()
    assert (tmp_path / "b").read_bytes() == b"2"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_thread_that_is_not_the_main_one_publishes_as_well(tmp_path):
    publication = staged(tmp_path, {"a": b"1"})
    thread = threading.Thread(target=publication.publish, args=(RECORD,))
    thread.start()
    thread.join()
    assert intact(record_path(tmp_path, NAME))


@pytest.mark.parametrize("name", ["a", "gone", "deep/b"])
def test_a_folder_in_a_file_s_place_is_named_and_the_earlier_run_stays(tmp_path, name):
    publish(tmp_path, gone=b"1", b=b"2")
    (tmp_path / "gone").unlink()
    (tmp_path / name / "mine").mkdir(parents=True)
    before = found_in(tmp_path)
    publication = staged(tmp_path, {"a": b"3", "deep/b": b"4"})
    with pytest.raises(UserError, match=rf"{tmp_path / name} is a folder, where circuit_discovery\.py has a file"):
        publication.publish(RECORD)
    assert found_in(tmp_path) == before
    (tmp_path / name).rename(tmp_path / "elsewhere")
    publication.publish(RECORD)
    assert found_in(tmp_path).keys() == {"a", "deep/b", f"{NAME}.json"}


def test_a_folder_in_the_record_s_place_is_named_before_anything_is_computed(tmp_path):
    record_path(tmp_path, NAME).mkdir()
    with pytest.raises(UserError, match=r"circuit_discovery\.json is a folder"):
        open_publication(NAME, tmp_path)


ELSEWHERE = ["../precious", "deep/../../precious", "/precious", "link/precious", "", ".", "..", "./a", "a//b", "a/"]
ELSEWHERE += [".hidden", "deep/.hidden", "a\\b", "C:a", "a\nb", "a\0b", "\ud800", "ä", "a" * 300]


@pytest.fixture
def precious(tmp_path) -> Path:
    """A file beside the folder of runs, and a link to where it lies within that."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "link").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "precious").write_text("precious")
    return tmp_path / "precious"


@pytest.mark.parametrize(
    ("part", "name"),
    [*product(["artifacts"], ELSEWHERE), *product(["read", "beside"], ELSEWHERE[:4])],
)
def test_a_record_that_names_files_elsewhere_is_refused_and_they_stay(precious, part, name):
    folder = precious.parent / "runs"
    name = str(precious) if name == "/precious" else name
    head = {"record_version": RECORD_VERSION, "script": NAME, "artifacts": {}}
    record_path(folder, NAME).write_text(json.dumps(signed(head | RECORD | {part: {name: sha256(precious)}})))
    with pytest.raises(UserError, match="is no name of a file in") as refused:
        read_artifacts(folder, NAME)
    assert "\n" not in str(refused.value)
    assert not intact(record_path(folder, NAME))
    publish(folder, a=b"1")
    assert precious.read_text() == "precious"
    assert intact(record_path(folder, NAME))


@pytest.mark.parametrize("name", [*ELSEWHERE, f"{NAME}.json"])
def test_a_file_is_not_published_elsewhere(precious, name):
    folder = precious.parent / "runs"
    publication = open_publication(NAME, folder)
    if name == "link/precious":  # within what is staged there is no such link
        publication.stage(name, b"1")
        with pytest.raises(UserError, match="is no name of a file in"):
            publication.publish(RECORD)
    else:
        with pytest.raises(UserError, match=r"is no name of a file in|is the record itself"):
            publication.stage(name, b"1")
    assert precious.read_text() == "precious"


def test_a_record_that_was_changed_is_refused_and_takes_nothing_away(tmp_path):
    publish(tmp_path, a=b"1")
    (tmp_path / "mine").write_text("mine")
    path = record_path(tmp_path, NAME)
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"artifacts": record["artifacts"] | {"mine": "0"}}))
    with pytest.raises(UserError, match=r"was changed after the run that left it; run python circuit_discovery\.py"):
        read_record(path)
    publish(tmp_path, b=b"2")
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_record_may_be_formatted_anew(tmp_path):
    publish(tmp_path, a=b"1")
    path = record_path(tmp_path, NAME)
    record = read_record(path)
    path.write_text(json.dumps(dict(reversed(record.items()))))
    assert read_record(path) == record


@pytest.mark.parametrize(
    "text",
    [
        "NaN", '{"record_version": NaN}', '{"record_version": 1e999, "artifacts": {}}', "[" * 100_000, "9" * 5000,
        f'{{"record_version": [{RECORD_VERSION}], "artifacts": {{}}}}', '"record_version"', "[[[[]]]]", "null", "\xff",
        f'{{"record_version": {RECORD_VERSION}, "artifacts": []}}', '{"a": 1, "a": 1}',
        f'{{"record_version": {RECORD_VERSION}, "artifacts": {{}}, "read": [["a"]]}}',
    ],
)  # fmt: skip
def test_what_is_no_record_is_one_line(tmp_path, text):
    path = record_path(tmp_path, NAME)
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"run python circuit_discovery\.py again") as refused:
        read_record(path)
    assert str(path) in str(refused.value)
    assert len(str(refused.value)) < 300 + len(str(path))


def test_what_is_not_json_is_not_published(tmp_path):
    publication = staged(tmp_path, {"a": b"1"})
    with pytest.raises(ValueError, match="JSON compliant"):
        publication.publish({"seconds": float("nan")})
    assert found_in(tmp_path) == {}
