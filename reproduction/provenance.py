"""What a result was made with: the command, the code, the libraries."""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

import torch

from path_patching.files import ROOT
from reproduction.experiments import WORDS
from reproduction.publication import invocation
from reproduction.terminal import arguments_of

LIBRARIES = ("rust_circuit", "transformers", "numpy", "pandas", "concept-erasure", "plotly", "kaleido", "jinja2")
DATA = ("cache", "path_patching/gpt2/data")
NO_INPUT = ("README.md",)  # beside the data, which it describes


def library_versions() -> dict[str, str | None]:
    """Versions of Python and of the libraries that results depend on; None for one that is not installed.

    PyTorch's version is its own: the package's does not say for which device it was built.
    """
    versions = {"python": platform.python_version(), "torch": str(torch.__version__)}
    return versions | {name: _version(name) for name in LIBRARIES}


def code_version() -> str | None:
    """The repository's commit, with `+changes` if files differ from it or are new; None outside a git checkout."""
    try:
        commit = _git("rev-parse", "--verify", "HEAD")
        return f"{commit}+changes" if _git("status", "--porcelain", "--untracked-files=normal") else commit
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*words: str) -> str:
    """git's answer about this repository, never about one around it or one that the environment names."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "--no-optional-locks", f"--git-dir={ROOT / '.git'}", f"--work-tree={ROOT}", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def made_by(script: str) -> dict[str, object]:
    """What a record says about how a script was run: its command, its code and the libraries."""
    return {
        "command": command(script),
        "code": code_version(),
        "code_sha256": code_sha256(script),
        "versions": library_versions(),
    }


def command(script: str) -> str:
    """The command of this run of a script; in an interactive window, only the script's name."""
    given = arguments_of("reproduce.py" if script in WORDS else f"{script}.py") or []
    return invocation(script, given[1:] if script in WORDS else given)


@cache
def code_sha256(script: str) -> str:
    """A hash over a script, all modules of the repository that it imports, the files beside them that they name, and
    the data in `cache/` and beside the tokenizer.

    The stand-in's weights have a fingerprint of their own, like those of every model.
    """
    lying = (path for folder in DATA for path in (ROOT / folder).glob("*"))
    data = {path for path in lying if path.is_file() and path.name not in NO_INPUT}
    code = _with_imports(ROOT / "reproduction" / f"{script}.py" if script in WORDS else ROOT / f"{script}.py")
    if script not in WORDS:  # without the table: a new entry must leave the other steps done
        code.discard(ROOT / "reproduction" / "experiments.py")
    named = {file for path in code for file in _named_beside(path)}
    digest = hashlib.sha256()
    for path in sorted(code | named | data):
        digest.update(f"{path.relative_to(ROOT).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _with_imports(path: Path) -> set[Path]:
    """A source file and all files of the repository that it imports, directly or not."""
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        source = waiting.pop()
        if source not in found:
            found.add(source)
            waiting += _imported(source)
    return found


def _imported(path: Path) -> set[Path]:
    """The repository's source files that a file imports, with the `__init__.py` of each package on the way.

    A package may export names of its modules. So a name of a package is looked for among its modules and in its
    `__init__.py`, whose imports are followed too.
    """
    names = _imported_names(path.read_bytes(), path.relative_to(ROOT).parts)
    parts = {tuple(name.split(".")) for name in names}
    on_the_way = {whole[:length] for whole in parts for length in range(1, len(whole) + 1)}
    candidates = {ROOT.joinpath(*each) for each in on_the_way}
    files = {file for each in candidates for file in (each.with_suffix(".py"), each / "__init__.py")}
    return {file for file in files if file.is_file()}


@cache
def _imported_names(source: bytes, parts: tuple[str, ...]) -> frozenset[str]:
    """The modules, and names that may be modules, that a source file imports; `parts` is the file's path."""
    names: set[str] = set()
    for statement in ast.walk(ast.parse(source)):
        if isinstance(statement, ast.Import):
            names |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            module = _absolute(statement, parts)
            names |= {module, *(f"{module}.{alias.name}" for alias in statement.names)}
    return frozenset(names)


def _named_beside(path: Path) -> set[Path]:
    """The templates and tables in a source file's folder that it names."""
    text = path.read_text(encoding="utf-8")
    beside = {file for ending in ("*.html", "*.csv") for file in path.parent.glob(ending)}
    return {file for file in beside if file.name in text}


def _absolute(statement: ast.ImportFrom, parts: tuple[str, ...]) -> str:
    """The module that a `from … import` names, seen from the repository's root."""
    if not statement.level:
        return statement.module or ""
    package = parts[: -statement.level]
    return ".".join([*package, *([statement.module] if statement.module else [])])


@cache
def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None
