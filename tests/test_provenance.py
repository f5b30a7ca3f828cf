"""What a result was made with: a step's code is all that it imports, and nothing else."""

from __future__ import annotations

import sys

import pytest

import provenance
from provenance import code_sha256, command, command_of


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A small repository: a script that imports a module, which imports one of a package; and one beside them."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "package").mkdir()
    for name, text in {
        "script.py": "import helper\n",
        "helper.py": "from package.deep import thing\n",
        "package/deep.py": "thing = 1\n",
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
        ("beside.py", False),
        ("beside.html", False),
    ],
)
def test_a_change_counts_if_the_script_depends_on_it(repository, file, matters):
    before = code_sha256("script")
    with (repository / file).open("a") as changed:
        changed.write("# changed\n")
    code_sha256.cache_clear()
    assert (code_sha256("script") != before) is matters


@pytest.mark.parametrize("file", ["order.pt", "README.md"])
def test_what_a_run_leaves_in_cache_and_what_is_said_of_it_is_no_code(repository, file):
    before = code_sha256("script")
    (repository / "cache" / file).write_text("ranks")
    code_sha256.cache_clear()
    assert code_sha256("script") == before


def test_commands_can_be_pasted_into_a_shell(monkeypatch):
    assert command_of("script", ["--out", "a b"]) == "python script.py --out 'a b'"
    monkeypatch.setattr(sys, "argv", ["/somewhere/script.py", "--n", "3"])
    assert command("script") == "python script.py --n 3"
