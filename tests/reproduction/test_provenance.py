"""What a result was made with: a step's code is all that it imports, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reproduction import provenance
from reproduction.provenance import code_sha256, code_version, command
from reproduction.publication import invocation


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A small repository: a script that imports a module, which imports from packages; and modules beside them."""
    (tmp_path / "cache").mkdir()
    for folder in ("package", "surface/below"):
        (tmp_path / folder).mkdir(parents=True)
    for name, text in {
        "script.py": "import helper\n",
        "helper.py": "from package.deep import thing\nfrom surface import name\nimport surface.below.bottom\n"
        "PAGE = 'helper.html'\n",
        "package/deep.py": "thing = 'table.csv'\n",
        "package/table.csv": "a,b\n",
        "package/beside.csv": "a,b\n",
        "package/beside.py": "",
        "surface/__init__.py": "from .inner import name\nfrom surface.other import *\n",
        "surface/inner.py": "from .below import name\n",
        "surface/other.py": "",
        "surface/beside.py": "",
        "surface/below/__init__.py": "from ..cousin import name\n",
        "surface/below/bottom.py": "",
        "surface/cousin.py": "name = 1\n",
        "beside.py": "",
        "helper.html": "<p>",
        "beside.html": "<p>",
        "cache/data.txt": "one",
    }.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    code_sha256.cache_clear()
    yield tmp_path
    code_sha256.cache_clear()


@pytest.mark.parametrize(
    ("file", "matters"),
    [
        ("script.py", True),
        ("helper.py", True),
        ("package/deep.py", True),
        ("cache/data.txt", True),
        ("helper.html", True),
        ("package/table.csv", True),
        ("package/beside.csv", False),
        ("surface/__init__.py", True),
        ("surface/inner.py", True),
        ("surface/other.py", True),
        ("surface/below/__init__.py", True),
        ("surface/below/bottom.py", True),
        ("surface/cousin.py", True),
        ("beside.py", False),
        ("package/beside.py", False),
        ("surface/beside.py", False),
        ("beside.html", False),
    ],
)
def test_a_change_counts_if_the_script_depends_on_it(repository, file, matters):
    before = code_sha256("script")
    with (repository / file).open("a") as changed:
        changed.write("# changed\n")
    code_sha256.cache_clear()
    assert (code_sha256("script") != before) is matters


def test_what_is_said_of_the_data_is_no_code(repository):
    before = code_sha256("script")
    (repository / "cache" / "README.md").write_text("words")
    code_sha256.cache_clear()
    assert code_sha256("script") == before


def git(folder: Path, *words: str) -> str:
    """What git says in a folder, whatever is set up on this machine."""
    who = [f"GIT_{role}_{what}" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")]
    settings = {**dict.fromkeys(who, "x"), "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    run = subprocess.run(
        ["git", *words], cwd=folder, env=os.environ | settings, check=True, capture_output=True, text=True
    )
    return run.stdout.strip()


def committed(folder: Path) -> str:
    """A repository with one commit, whose name is returned."""
    folder.mkdir(exist_ok=True)
    (folder / "script.py").write_text("one")
    (folder / ".gitignore").write_text("made/\n")
    git(folder, "init", "--quiet")
    git(folder, "config", "status.showUntrackedFiles", "no")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "one")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def repository_within(tmp_path, monkeypatch) -> Path:
    """Where this repository may have been unpacked: within another one."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    committed(tmp_path)
    folder = tmp_path / "unpacked"
    folder.mkdir()
    monkeypatch.setattr(provenance, "ROOT", folder)
    return folder


def test_the_commit_is_this_repository_s_and_no_other_s(repository_within, monkeypatch):
    (repository_within / "script.py").write_text("one")
    assert code_version() is None
    monkeypatch.setenv("GIT_DIR", str(repository_within.parent / ".git"))
    assert code_version() is None
    monkeypatch.delenv("GIT_DIR")
    (repository_within / ".git").mkdir()  # which is no repository
    assert code_version() is None
    (repository_within / ".git").rmdir()
    own = committed(repository_within)
    monkeypatch.setenv("GIT_DIR", str(repository_within.parent / ".git"))
    assert code_version() == own


def test_a_work_tree_of_the_repository_has_its_commit(repository_within, monkeypatch):
    own = committed(repository_within)
    git(repository_within, "worktree", "add", "--quiet", "--detach", str(repository_within.parent / "beside"))
    monkeypatch.setattr(provenance, "ROOT", repository_within.parent / "beside")
    assert code_version() == own


@pytest.mark.parametrize(
    ("file", "changes"), [("script.py", True), ("new.py", True), ("new/deep.py", True), ("made/new.py", False)]
)
def test_files_that_were_changed_or_are_new_count_as_changes(repository_within, file, changes):
    own = committed(repository_within)
    path = repository_within / file
    path.parent.mkdir(exist_ok=True)
    path.write_text("two")
    assert code_version() == (f"{own}+changes" if changes else own)


def test_commands_can_be_pasted_into_a_shell(monkeypatch):
    assert invocation("script", ["--out", "a b"]) == "python script.py --out 'a b'"
    assert invocation("results", ["--check"]) == "python reproduce.py results --check"
    monkeypatch.setattr(sys, "argv", ["/somewhere/script.py", "--n", "3"])
    assert command("script") == "python script.py --n 3"
    monkeypatch.setattr(sys, "argv", ["/somewhere/reproduce.py", "report", "--model", "standin"])
    assert command("report") == "python reproduce.py report --model standin"
