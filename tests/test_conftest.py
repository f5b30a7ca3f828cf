"""Tests of a file that share what they prepare run in one process."""

from __future__ import annotations

import os

import pytest


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="the tests run in one process")
@pytest.mark.parametrize("of", ["one", "more"])
def test_the_tests_of_a_file_are_a_group(request, of):
    """Without an error, a pytest that xdist does not know yet loses the groups, and minutes with them."""
    assert request.node.nodeid.endswith("@tests/test_conftest.py")
