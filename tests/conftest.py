"""How tests are shared out among processes (`pytest --numprocesses auto --dist loadgroup --no-loadscope-reorder`)."""

from __future__ import annotations

import pytest


def is_slow(item: pytest.Item) -> bool:
    return item.get_closest_marker("slow") is not None


@pytest.hookimpl(tryfirst=True)  # before xdist looks for the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file's slow tests go together, and so do its others, since they share what they prepare; slow ones first."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(f"{item.path.stem}, slow" if is_slow(item) else item.location[0]))
    items.sort(key=lambda item: not is_slow(item))
