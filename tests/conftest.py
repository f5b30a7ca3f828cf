"""How tests are shared out among processes (`pytest --numprocesses auto --dist loadgroup --no-loadscope-reorder`)."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

from reproduction.experiments import EXPERIMENTS

if TYPE_CHECKING:
    from reproduction.run import Artifacts


def is_slow(item: pytest.Item) -> bool:
    return item.get_closest_marker("slow") is not None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What test modules import stays: it is looked through for garbage neither meanwhile nor later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)  # so that the groups are there before xdist, in whatever order, looks for them
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """A file's slow tests go together, and so do its others, since they share what they prepare.

    Slow ones come first, then files of many tests, so that both processes end at about the same time.
    """
    for item in items:
        item.add_marker(pytest.mark.xdist_group(f"{item.path.stem}, slow" if is_slow(item) else item.location[0]))
    in_file = Counter(item.path for item in items)
    items.sort(key=lambda item: (not is_slow(item), -in_file[item.path]))
    yield


@pytest.fixture(scope="session")
def standin_made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Artifacts]:
    """What an experiment leaves on the stand-in: N = 97, torch engine, the paper's circuit, run once for all tests."""
    from reproduction.run import read_artifacts  # here, for xdist's own process imports this file, and runs no test
    from tests.helpers.experiments import made_by

    folder = tmp_path_factory.getbasetemp()
    shared = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "standin"
    shared.mkdir(exist_ok=True)

    def made(script: str) -> Artifacts:
        circuit = ("--circuit", "paper") if EXPERIMENTS[script].evaluates_circuit else ()
        with FileLock(shared / f"{script}.lock"):
            if (shared / script / "out").is_dir():
                return read_artifacts(shared / script / "out", script)
            return made_by(script, shared / script, "standin", 97, "--engine", "torch", *circuit)

    return made
