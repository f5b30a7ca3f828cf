"""Getting a GPT-2 from the hub: a pretended one on this machine, none at all, and one that never answers."""

from __future__ import annotations

import json
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from path_patching import progress
from path_patching.errors import UserError
from path_patching.gpt2 import hub, tensor_cache
from path_patching.gpt2.hub import ModelUnavailable
from path_patching.gpt2.tensor_cache import cache_folder, description_path, is_gpt2_small, load_model, source_folder
from tests.helpers.checkpoints import edit_config, save_checkpoint

HANGS = 60.0  # seconds: far more than six silences, far less than the minutes for which the library asks again
NAME, PATH = "owner/little", "owner+little"
Send = Callable[[BaseHTTPRequestHandler, bytes], None]


@dataclass
class PretendedHub:
    """Repositories as folders, by name and revision; `send` may spoil how weights are sent."""

    address: str = ""
    warns: str = "you should log in"
    folders: dict[tuple[str, str], Path] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()
    send: Send | None = None
    asked: list[str] = field(default_factory=list)

    def revision_of(self, folder: Path) -> str:
        """Something like a commit's hash, of the folder's place."""
        return sha1(str(folder).encode()).hexdigest()

    def files(self, folder: Path) -> list[dict[str, object]]:
        """What the hub says of each file: git's hash, and of weights their SHA-256."""
        found = []
        for path in sorted(each for each in folder.iterdir() if each.is_file()):
            content = path.read_bytes()
            told = {"rfilename": path.name, "size": len(content), "blobId": git_hash(content)}
            if path.suffix == ".safetensors":
                told |= {"lfs": {"size": len(content), "sha256": sha256(content).hexdigest(), "pointerSize": 1}}
            found.append(told)
        return found

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer a question for a repository's files, or for one of them."""
        self.asked.append(f"{request.command} {request.path}")
        path = request.path.partition("?")[0].removeprefix("/")
        if path.startswith("api/models/"):
            repository, _, revision = path.removeprefix("api/models/").partition("/revision/")
            self.answer_for(request, repository, revision or "main")
            return
        repository, _, rest = path.partition("/resolve/")
        revision, _, file = rest.partition("/")
        of_name = {named: folder for (name, named), folder in self.folders.items() if name == repository}
        folder = next(each for named, each in of_name.items() if revision in (named, self.revision_of(each)))
        commit = self.revision_of(folder)
        content = (folder / file).read_bytes()
        if self.send and request.command == "GET" and file.endswith(".safetensors"):
            self.send(request, content)
            return
        begin(request, 200, Content_Length=len(content), ETag=f'"{git_hash(content)}"', X_Repo_Commit=commit)
        if request.command == "GET":
            request.wfile.write(content)

    def answer_for(self, request: BaseHTTPRequestHandler, repository: str, revision: str) -> None:
        """What the hub says of a repository; of one that is private, what it says of one that is missing."""
        known = repository in {name for name, _ in self.folders} - {*self.hidden}
        folder = self.folders.get((repository, revision))
        if known and folder:
            said = {"id": repository, "sha": self.revision_of(folder), "siblings": self.files(folder)}
            content = json.dumps(said).encode()
            warning = {"X_HF_Warning": f"unauthenticated; {self.warns}"}
            begin(request, 200, Content_Type="application/json", Content_Length=len(content), **warning)
            request.wfile.write(content)
        elif known:
            begin(request, 404, X_Error_Code="RevisionNotFound", Content_Length=0)
        else:
            begin(request, 401, X_Error_Code="RepoNotFound", Content_Length=0)


def git_hash(content: bytes) -> str:
    return sha1(b"blob %d\0" % len(content) + content).hexdigest()


def begin(request: BaseHTTPRequestHandler, status: int, **headers: object) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), str(value))
    request.end_headers()


@pytest.fixture(autouse=True)
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORS_CACHE_DIR", str(tmp_path / "tensors"))
    monkeypatch.setenv("RR_RRFS_DIR", str(tmp_path / "rrfs"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def pretended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendedHub]:
    """A hub that has a little GPT-2, in two revisions."""
    pretended = PretendedHub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(ConnectionError):
                pretended.answer(self)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    for seed, revision in enumerate(("main", "v2")):
        pretended.folders[NAME, revision] = save_checkpoint(tmp_path / f"hub {revision}", seed=seed)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        pretended.address = f"http://127.0.0.1:{server.server_port}"
        go_online(monkeypatch, pretended.address)
        yield pretended
        server.shutdown()


def go_online(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Ask this hub, past any proxy, and lose patience soon."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    monkeypatch.setattr(hub, "ANSWER_SECONDS", 0.5)
    huggingface_hub.close_session()


def refused(name: str, words: str, kind: type[UserError] = ModelUnavailable) -> str:
    """The line with which a model is not to be had; nothing is left in the tensor cache."""
    with pytest.raises(kind, match=words) as raised:
        load_model(name)
    assert "\n" not in str(raised.value)
    assert not list(cache_folder().glob("????/*"))
    return str(raised.value)


def test_a_model_is_downloaded_by_name_and_then_needs_no_hub(pretended: PretendedHub, monkeypatch):
    model = load_model(NAME)
    same = load_model(str(pretended.folders[NAME, "main"]))
    assert (model.name, model.fingerprint, model.config) == (NAME, same.fingerprint, same.config)
    assert source_folder(NAME) == cache_folder() / "downloads" / PATH
    pretended.asked.clear()
    assert load_model(NAME).fingerprint == model.fingerprint
    shutil.rmtree(cache_folder() / "circuits")
    assert load_model(NAME).fingerprint == model.fingerprint
    assert pretended.asked == []


def test_a_download_is_silent_but_for_its_bar_which_needs_no_widgets_in_a_notebook(
    pretended: PretendedHub, monkeypatch, capsys, caplog
):
    load_model(NAME)
    err = capsys.readouterr().err
    assert [words for words in (pretended.warns, "it/s", "B/s") if words in err + caplog.text] == []
    monkeypatch.setattr(progress, "_in_notebook", lambda: True)
    load_model(f"{NAME}@v2")
    assert "model.safetensors: 100%" in capsys.readouterr().err


def test_a_revision_is_another_model(pretended: PretendedHub):
    newest, second = load_model(NAME), load_model(f"{NAME}@v2")
    assert second.name == f"{NAME}@v2"
    assert second.fingerprint == load_model(str(pretended.folders[NAME, "v2"])).fingerprint != newest.fingerprint
    assert description_path(f"{NAME}@v2") != description_path(NAME)
    assert load_model(NAME).fingerprint == newest.fingerprint
    line = refused_besides(f"{NAME}@v3")
    assert f"{NAME} has no revision v3" in line


def refused_besides(name: str) -> str:
    with pytest.raises(ModelUnavailable) as raised:
        load_model(name)
    return str(raised.value)


def test_a_model_without_an_owner_in_its_name_has_one(pretended: PretendedHub):
    pretended.folders["openai-community/gpt2-medium", "main"] = pretended.folders[NAME, "v2"]
    assert load_model("gpt2-medium").name == "gpt2-medium"
    pretended.asked.clear()
    assert load_model("openai-community/gpt2-medium").name == "gpt2-medium"
    assert pretended.asked == []


def test_gpt2_small_is_known_by_its_hashes_whatever_it_is_called(pretended: PretendedHub, monkeypatch):
    described = tensor_cache.from_text(_description_of(pretended.folders[NAME, "main"]))
    monkeypatch.setattr(tensor_cache, "published_description", lambda: described)
    assert is_gpt2_small(load_model(NAME))
    assert not is_gpt2_small(load_model(f"{NAME}@v2"))


def _description_of(folder: Path) -> str:
    load_model(str(folder))
    return description_path(str(folder)).read_text()


@pytest.mark.parametrize("hidden", [(), (NAME,)], ids=["missing", "private"])
def test_a_model_that_is_missing_or_private_is_one_line(pretended: PretendedHub, hidden):
    pretended.hidden = hidden
    line = refused(NAME if hidden else "owner/other", "there is no such model, or it is private")
    assert "HF_TOKEN" in line
    assert "no folder" in line


def test_a_model_that_is_no_gpt2_is_one_line_before_its_weights_are_fetched(pretended: PretendedHub):
    edit_config(pretended.folders[NAME, "main"], model_type="llama")
    refused(NAME, r"model_type 'llama' is not supported, only 'gpt2' is", UserError)
    assert not [asked for asked in pretended.asked if asked.endswith(".safetensors")]


def test_a_repository_without_weights_that_can_be_read_is_one_line(pretended: PretendedHub):
    folder = pretended.folders[NAME, "main"]
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(NAME, r"owner/little has no model\.safetensors on the hub", UserError)


def test_weights_in_parts_are_read(pretended: PretendedHub):
    folder = pretended.folders[NAME, "main"]
    whole, state = load_model(str(folder)), load_file(folder / "model.safetensors")
    parts = {name: f"model-0000{row % 2 + 1}-of-00002.safetensors" for row, name in enumerate(state)}
    for part in {*parts.values()}:
        save_file({name: state[name] for name in state if parts[name] == part}, folder / part)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    (folder / "model.safetensors").unlink()
    assert load_model(NAME).fingerprint == whole.fingerprint


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_what_comes_damaged_is_named_and_can_be_fetched_again(pretended: PretendedHub, file: str, monkeypatch):
    told = pretended.files(pretended.folders[NAME, "main"])
    path = pretended.folders[NAME, "main"] / file
    content = path.read_bytes()
    with monkeypatch.context() as spoiled:
        spoiled.setattr(pretended, "files", lambda folder: told)
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
        refused(NAME, f"{file} arrived damaged and was deleted; try again")
    path.write_bytes(content)
    assert load_model(NAME).fingerprint == load_model(str(path.parent)).fingerprint


def test_a_download_that_was_damaged_later_is_named_with_what_to_delete(pretended: PretendedHub):
    load_model(NAME)
    shutil.rmtree(cache_folder() / "circuits")
    for tensors in cache_folder().glob("????"):
        shutil.rmtree(tensors)
    folder = cache_folder() / "downloads" / PATH
    (folder / "model.safetensors").write_bytes(b"damaged")
    refused(NAME, f"is damaged .*: delete {re.escape(str(folder))} and try again$")
    shutil.rmtree(folder)
    assert load_model(NAME).tensors


def test_what_the_hubs_own_library_has_is_used(pretended: PretendedHub):
    for file in ("config.json", "model.safetensors"):
        huggingface_hub.hf_hub_download(NAME, file)
    pretended.asked.clear()
    assert load_model(NAME).tensors
    assert pretended.asked == []
    assert source_folder(NAME).is_relative_to(constants.HF_HUB_CACHE)
    assert not (cache_folder() / "downloads").exists()


def test_a_hub_that_falls_silent_is_left(pretended: PretendedHub, monkeypatch):
    slept = time.sleep
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)

    def send(request: BaseHTTPRequestHandler, content: bytes) -> None:
        begin(request, 200, Content_Length=len(content))
        slept(3)

    pretended.send = send
    start = time.monotonic()
    refused(NAME, "timed out")
    assert time.monotonic() - start < HANGS
    assert not (cache_folder() / "downloads" / PATH / "model.safetensors").exists()


def test_a_hub_that_never_answers_is_left(silent_port: int, monkeypatch):
    go_online(monkeypatch, f"http://127.0.0.1:{silent_port}")
    start = time.monotonic()
    refused(NAME, "timed out")
    assert time.monotonic() - start < HANGS


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


def check_unavailable(reason: str, line: str) -> None:
    """That a line says how GPT-2 small can be had."""
    assert line.startswith("GPT-2 small is not in the tensor cache")
    for words in (reason, "HF_HOME", "model PATH", "model standin"):
        assert words in line


def test_a_hub_that_refuses_is_found_out(closed_port: int, monkeypatch):
    go_online(monkeypatch, f"http://127.0.0.1:{closed_port}")
    check_unavailable("refused", refused("gpt2", "refused"))


def test_offline_is_respected(silent_port: int, monkeypatch):
    go_online(monkeypatch, f"http://127.0.0.1:{silent_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # what HF_HUB_OFFLINE=1 sets at the library's import
    check_unavailable("offline", refused("gpt2", "offline"))
