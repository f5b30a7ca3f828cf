"""Getting GPT-2 from the hub: with no network, with a hub that never answers, and from a hub made for the test."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

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
    assert not list(Path(settings["TENSORS_CACHE_DIR"]).rglob("*"))


def test_hub_that_refuses_is_found_out(folders: dict[str, str], closed_port: int):
    check_unavailable("refused", folders | {"HF_ENDPOINT": f"http://127.0.0.1:{closed_port}"})


@pytest.mark.slow
def test_hub_that_never_answers_is_found_out(folders: dict[str, str], silent_port: int):
    check_unavailable("timed out", folders | {"HF_ENDPOINT": f"http://127.0.0.1:{silent_port}"})


def test_offline_is_respected(folders: dict[str, str], silent_port: int):
    check_unavailable("offline", folders | {"HF_ENDPOINT": f"http://127.0.0.1:{silent_port}", "HF_HUB_OFFLINE": "1"})


def test_name_server_that_hangs_cannot_hold_us(monkeypatch: pytest.MonkeyPatch):
    """The library's timeouts do not bound the look-up of a name; ours bounds everything."""
    released = threading.Event()
    monkeypatch.setattr("huggingface_hub.get_session", released.wait)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(hub, "DEADLINE", 0.2)
    start = time.monotonic()
    with pytest.raises(hub.ModelUnavailable, match="no answer within"):
        hub.gpt2_checkpoint()
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
    elsewhere = folders | {"TENSORS_CACHE_DIR": folders["TENSORS_CACHE_DIR"] + "-2", "HF_HUB_OFFLINE": "1"}
    second = output(run_python("-c", WITH_ANOTHER_TABLE, str(published), settings=elsewhere))
    assert second.splitlines()[1:] == first.splitlines()[1:]


def test_download_that_is_not_the_published_model_is_refused(endpoint: str, folders: dict[str, str], tmp_path: Path):
    run = run_python(*SCRIPT, settings=folders | {"HF_ENDPOINT": endpoint})
    assert run.returncode == 1
    assert "is not GPT-2 small" in run.stderr.splitlines()[-1]
    assert not (tmp_path / "tensors").exists()


def test_hub_without_the_model_is_one_line(endpoint: str, checkpoint: Path, folders: dict[str, str]):
    (checkpoint / "model.safetensors").unlink()
    check_unavailable("404", folders | {"HF_ENDPOINT": endpoint})
