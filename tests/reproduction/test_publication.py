"""Files are published together or not at all, by one run at a time."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time

import pytest

from path_patching.errors import UserError
from reproduction.publication import intact, open_publication, read_record, record_path, script_of, sha256, wait_for
from tests.helpers.refusals import put_there

NAME = "circuit_discovery"


def publish(folder, name: str = NAME, **files: bytes) -> None:
    publication = open_publication(name, folder)
    for file, content in files.items():
        publication.stage(file, content)
    publication.publish({})


def hold_the_lock(folder, ready) -> None:
    """What a busy run does: it has staged a file and goes on."""
    publication = open_publication(NAME, folder)
    publication.stage("half", b"done")
    ready.set()
    time.sleep(60)


@pytest.fixture
def busy(tmp_path):
    """Another process in the middle of a run in `tmp_path`."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold_the_lock, args=(tmp_path, ready))
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
    context = multiprocessing.get_context("spawn")
    waiting = context.Process(target=wait_for, args=(NAME, tmp_path))
    waiting.start()
    waiting.join(5)
    assert waiting.is_alive()
    busy.kill()
    waiting.join(30)
    assert waiting.exitcode == 0


def test_nothing_to_wait_for(tmp_path):
    wait_for(NAME, tmp_path / "none")
    wait_for(NAME, tmp_path)


def test_what_is_published_is_not_added_to(tmp_path):
    publication = open_publication(NAME, tmp_path)
    publication.stage("a", b"1")
    publication.publish({})
    with pytest.raises(UserError, match="run the script from its first cell"):
        publication.stage("b", b"2")
    with pytest.raises(UserError, match="run the script from its first cell"):
        publication.publish({})
    assert (tmp_path / "a").read_bytes() == b"1"


def test_a_first_cell_that_is_run_again_starts_anew(tmp_path):
    earlier = open_publication(NAME, tmp_path)
    earlier.stage("a", b"1")
    later = open_publication(NAME, tmp_path)
    later.stage("b", b"2")
    with pytest.raises(UserError, match="run the script from its first cell"):
        earlier.stage("c", b"3")
    later.publish({})
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
