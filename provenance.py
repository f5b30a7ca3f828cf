"""What a result was made with: the command, the code, the libraries."""

from __future__ import annotations

import ast
import hashlib
import platform
import shlex
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

import torch

from settings import in_interactive_window
from utils import ROOT

LIBRARIES = ("rust_circuit", "transformers", "numpy", "concept-erasure", "plotly", "kaleido", "jinja2")
NO_INPUT = ("README.md", "order.pt")  # in `cache/`: about the data, and made by a script


def library_versions() -> dict[str, str | None]:
    """Versions of Python and of the libraries that results depend on; None for one that is not installed.

    PyTorch's own word, because the package's does not say for which device it was built.
    """
    versions = {"python": platform.python_version(), "torch": str(torch.__version__)}
    return versions | {name: _version(name) for name in LIBRARIES}


def code_version() -> str | None:
    """The repository's commit, with `+changes` where files differ from it; None outside a git checkout."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def made_by(script: str) -> dict[str, object]:
    """What a record says of how this run of a script came about: its command, its code and the libraries."""
    return {
        "command": command(script),
        "code": code_version(),
        "code_sha256": code_sha256(script),
        "versions": library_versions(),
    }


def command_of(script: str, arguments: list[str]) -> str:
    """How a script is called with arguments."""
    return shlex.join(["python", f"{script}.py", *arguments])


def command(script: str) -> str:
    """How this run of a script was called; in an interactive window, where there is no call, by its name alone."""
    return command_of(script, [] if in_interactive_window() else sys.argv[1:])


@cache
def code_sha256(script: str) -> str:
    """A hash over a script, all modules of the repository that it imports, their templates, and the data in `cache/`.

    The stand-in's weights have a fingerprint of their own, like those of every model.
    """
    data = {path for path in (ROOT / "cache").iterdir() if path.is_file() and path.name not in NO_INPUT}
    code = _with_imports(ROOT / f"{script}.py")
    templates = {path.with_suffix(".html") for path in code if path.with_suffix(".html").is_file()}
    digest = hashlib.sha256()
    for path in sorted(code | templates | data):
        digest.update(f"{path.relative_to(ROOT).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _with_imports(path: Path) -> set[Path]:
    """A source file and all of the repository's that it imports, directly or not."""
    found, waiting = set(), [path]
    while waiting:
        source = waiting.pop()
        if source not in found:
            found.add(source)
            waiting += _imported(source)
    return found


def _imported(path: Path) -> list[Path]:
    """The repository's source files that one imports."""
    names = []
    for statement in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(statement, ast.Import):
            names += [alias.name for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            names += [statement.module, *(f"{statement.module}.{alias.name}" for alias in statement.names)]
    files = {ROOT / f"{name.replace('.', '/')}.py" for name in names}
    return sorted(file for file in files if file.is_file())


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None
