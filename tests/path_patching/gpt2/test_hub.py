"""Getting GPT-2 from the hub: with no network, with a hub that never answers, and from a hub made for the test."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub.utils._http import default_client_factory

from path_patching.files import ROOT
from path_patching.gpt2 import hub
from path_patching.gpt2.tensor_cache import description_path, load_model
from tests.helpers.checkpoints import save_checkpoint
from tests.helpers.scripts import error_line, output, run_python

SCRIPT = str(ROOT / "reproduce.py"), "weights"
LONGEST_WAIT = 20.0  # seconds, from the start of the script to its error
REVISION = "0123456789abcdef0123456789abcdef01234567"

# The script as it is, except that the model in a description file takes GPT-2's place.
WITH_ANOTHER_TABLE = """
import sys, reproduce
from path_patching.gpt2 import circ_text, tensor_cache
text = open(sys.argv.pop(1)).read()
tensor_cache.published_description = lambda: circ_text.from_text(text)
reproduce.main(["weights"])
"""


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, str]:
    """Settings under which nothing of this machine's caches is seen."""
    names = {"HF_HOME": "hf", "TENSORS_CACHE_DIR": "tensors", "RR_RRFS_DIR": "rrfs"}
    return {name: str(tmp_path / folder) for name, folder in names.items()}


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(16)
        yield listening.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def check_unavailable(reason: str, settings: dict[str, str]) -> None:
    start = time.monotonic()
    line = error_line(run_python(*SCRIPT, "--model", "gpt2", settings=settings))
    assert time.monotonic() - start < LONGEST_WAIT
    assert line.startswith("error: GPT-2 small is not in the tensor cache")
    for words in (reason, "HF_HOME", "model PATH", "model standin"):
        assert words in line
    assert not list(Path(settings["TENSORS_CACHE_DIR"]).glob("????"))  # where tensors would be


def test_hub_that_refuses_is_found_out(folders: dict[str, str], closed_port: int):
    check_unavailable("refused", folders | {"HF_ENDPOINT": f"http://127.0.0.1:{closed_port}"})


def test_offline_is_respected(folders: dict[str, str], silent_port: int):
    check_unavailable("offline", folders | {"HF_ENDPOINT": f"http://127.0.0.1:{silent_port}", "HF_HUB_OFFLINE": "1"})


def test_name_server_that_hangs_cannot_hold_us(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The library's timeouts do not bound the look-up of a name; ours bounds everything."""
    released = threading.Event()
    monkeypatch.setattr("huggingface_hub.get_session", released.wait)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(hub, "DEADLINE", 0.2)
    start = time.monotonic()
    with pytest.raises(hub.ModelUnavailable, match="no answer within"):
        hub.gpt2_checkpoint(tmp_path)
    released.set()
    assert time.monotonic() - start < 2


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "model")


@pytest.fixture
def published(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A description of the checkpoint, to stand for the published table."""
    monkeypatch.setenv("TENSORS_CACHE_DIR", str(tmp_path / "elsewhere"))
    load_model(str(checkpoint))
    return description_path(str(checkpoint))


@pytest.fixture
def endpoint(checkpoint: Path) -> Iterator[str]:
    """A hub that has the checkpoint under GPT-2's name."""

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = self.begin()
            if content is not None:
                self.wfile.write(content)

        def do_HEAD(self) -> None:
            self.begin()

        def begin(self) -> bytes | None:
            folder, _, file = self.path.partition("/resolve/main/")
            if folder != "/openai-community/gpt2" or not (checkpoint / file).is_file():
                self.send_error(404)
                return None
            content = (checkpoint / file).read_bytes()
            self.send_response(200)
            self.send_header("ETag", f'"{sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", REVISION)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            return content

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_checkpoint_is_downloaded_then_found_on_the_machine(endpoint: str, published: Path, folders: dict[str, str]):
    first = output(run_python("-c", WITH_ANOTHER_TABLE, str(published), settings=folders | {"HF_ENDPOINT": endpoint}))
    assert first.startswith("GPT-2 small: 37 tensors in")
    assert "all 37 match the published hashes" in first
    for tensors in Path(folders["TENSORS_CACHE_DIR"]).glob("????"):
        shutil.rmtree(tensors)
    offline = folders | {"HF_HUB_OFFLINE": "1"}
    assert output(run_python("-c", WITH_ANOTHER_TABLE, str(published), settings=offline)) == first


def test_download_that_is_not_the_published_model_is_refused(endpoint: str, folders: dict[str, str], tmp_path: Path):
    run = run_python(*SCRIPT, settings=folders | {"HF_ENDPOINT": endpoint})
    assert run.returncode == 1
    line, downloads = run.stderr.splitlines()[-1], tmp_path / "tensors" / "downloads"
    assert "is not GPT-2 small" in line
    assert f"delete {downloads}" in line
    assert [path.name for path in (tmp_path / "tensors").iterdir()] == ["downloads"]


# What a hub may answer, and how long it may take. These hubs are asked within the test's own process.

CONTENT = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 40}
Answer = Callable[[BaseHTTPRequestHandler, bytes], None]


def begin(request: BaseHTTPRequestHandler, status: int = 200, **headers: object) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), str(value))
    request.end_headers()


def usual(request: BaseHTTPRequestHandler, content: bytes) -> None:
    begin(request, Content_Length=len(content))
    request.wfile.write(content)


@contextmanager
def hub_that(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub whose weights are what `answer` sends, with short deadlines; gives the ranges that it was asked for."""
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            file = self.path.removeprefix("/")
            if file == "model.safetensors":
                asked.append(self.headers["Range"])
            with suppress(ConnectionError):
                (answer if file == "model.safetensors" else usual)(self, CONTENT[file])

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        for name in (name for name in os.environ if name.lower().endswith("_proxy")):
            monkeypatch.delenv(name)
        session = default_client_factory()
        monkeypatch.setattr("huggingface_hub.get_session", lambda: session)
        monkeypatch.setattr("huggingface_hub.hf_hub_url", lambda repository, file: f"{address}/{file}")
        monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
        monkeypatch.setattr(hub, "STEP_TIMEOUT", 0.3)
        monkeypatch.setattr(hub, "DEADLINE", 0.6)
        yield asked
        server.shutdown()
    session.close()


def check_downloaded(tmp_path: Path) -> None:
    folder = hub.gpt2_checkpoint(tmp_path / "downloads")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == CONTENT
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {folder / name for name in CONTENT}


def check_refused(tmp_path: Path, reason: str) -> None:
    start = time.monotonic()
    with pytest.raises(hub.ModelUnavailable, match=reason) as raised:
        hub.gpt2_checkpoint(tmp_path / "downloads")
    assert time.monotonic() - start < 3
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["config.json"]


@pytest.mark.parametrize("tag", ["../../../outside", "/etc/outside", "..", "a/../../b", "x" * 5000, ""])
def test_no_answer_says_where_a_file_goes(tmp_path: Path, monkeypatch, tag: str):
    def answer(request: BaseHTTPRequestHandler, content: bytes) -> None:
        named = {
            "ETag": f'"{tag}"',
            "X_Linked_ETag": tag,
            "X_Repo_Commit": tag,
            "Content_Disposition": f"filename={tag}",
        }
        begin(request, Content_Length=len(content), **named)
        request.wfile.write(content)

    with hub_that(answer, monkeypatch):
        check_downloaded(tmp_path)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_no_answer_says_how_long_to_wait(tmp_path: Path, monkeypatch, status: int):
    with hub_that(lambda request, _: begin(request, status, Retry_After=3600, Content_Length=10**9), monkeypatch):
        check_refused(tmp_path, str(status))


def test_a_hub_that_never_answers_is_left(tmp_path: Path, monkeypatch):
    with hub_that(lambda *_: time.sleep(2), monkeypatch):
        check_refused(tmp_path, "timed out")


def test_a_hub_that_falls_silent_is_left(tmp_path: Path, monkeypatch):
    def answer(request: BaseHTTPRequestHandler, content: bytes) -> None:
        if request.headers["Range"] != "bytes=0-":  # asked to go on where it fell silent
            time.sleep(2)
            return
        begin(request, Content_Length=len(content))
        request.wfile.write(content[:100])
        request.wfile.flush()
        time.sleep(2)

    with hub_that(answer, monkeypatch) as asked:
        check_refused(tmp_path, "timed out|no answer within")
    assert asked == ["bytes=0-", "bytes=100-"]


def test_headers_that_never_end_are_left(tmp_path: Path, monkeypatch):
    def answer(request: BaseHTTPRequestHandler, content: bytes) -> None:
        request.send_response(200)
        for number in range(100):
            request.send_header(f"X-{number}", "0")
            request.flush_headers()
            time.sleep(0.05)

    with hub_that(answer, monkeypatch):
        check_refused(tmp_path, "no answer within")


def test_a_body_that_never_ends_is_left(tmp_path: Path, monkeypatch):
    def answer(request: BaseHTTPRequestHandler, content: bytes) -> None:
        begin(request)
        while True:
            request.wfile.write(content)

    monkeypatch.setitem(hub.FILES, "model.safetensors", 100_000)
    with hub_that(answer, monkeypatch):
        check_refused(tmp_path, "sends more than the 100000 bytes that are taken")


def test_a_body_that_says_it_is_too_long_is_not_begun(tmp_path: Path, monkeypatch):
    with hub_that(lambda request, _: begin(request, Content_Length=10**15), monkeypatch):
        check_refused(tmp_path, "sends more than the 1000000000 bytes that are taken")


def test_a_download_that_is_slow_but_moves_is_waited_for(tmp_path: Path, monkeypatch):
    def answer(request: BaseHTTPRequestHandler, content: bytes) -> None:
        begin(request, Content_Length=len(content))
        for start in range(0, len(content), 1024):
            request.wfile.write(content[start : start + 1024])
            time.sleep(0.1)

    with hub_that(answer, monkeypatch) as asked:
        check_downloaded(tmp_path)  # in a second, longer than any deadline
    assert asked == ["bytes=0-"]


@pytest.mark.parametrize("can_go_on", [True, False])
def test_a_download_that_breaks_off_goes_on(tmp_path: Path, monkeypatch, can_go_on: bool):
    answers: list[int] = []

    def answer(request: BaseHTTPRequestHandler, content: bytes) -> None:
        start = int(request.headers["Range"].removeprefix("bytes=").removesuffix("-")) if can_go_on else 0
        answers.append(start)
        begin(request, 206 if start else 200, Content_Length=len(content) - start)
        request.wfile.write(content[start : 4000 * len(answers)])

    with hub_that(answer, monkeypatch):
        check_downloaded(tmp_path)
    assert answers == ([0, 4000, 8000] if can_go_on else [0, 0, 0])


@pytest.mark.parametrize("can_go_on", [True, False])
def test_a_download_that_breaks_off_at_the_same_place_is_left(tmp_path: Path, monkeypatch, can_go_on: bool):
    def answer(request: BaseHTTPRequestHandler, content: bytes) -> None:
        goes_on = can_go_on and request.headers["Range"] != "bytes=0-"
        begin(request, 206 if goes_on else 200, Content_Length=len(content))
        request.wfile.write(b"" if goes_on else content[:4000])

    with hub_that(answer, monkeypatch) as asked:
        check_refused(tmp_path, "peer closed connection")
    assert asked == ["bytes=0-", "bytes=4000-"]


def test_hub_without_the_model_is_one_line(endpoint: str, checkpoint: Path, folders: dict[str, str]):
    (checkpoint / "model.safetensors").unlink()
    check_unavailable("404", folders | {"HF_ENDPOINT": endpoint})
