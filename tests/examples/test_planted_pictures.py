"""The pictures of the page on validation are those that their command makes, and show what the page says."""

from __future__ import annotations

import re

import pytest

import planted_pictures
from path_patching.files import ROOT


def test_the_page_shows_every_picture_and_each_shows_what_is_said():
    figures = planted_pictures.figures()
    page = (ROOT / "docs" / "validation.md").read_text()
    assert re.findall(r"images/planted-([\w-]+)\.webp", page) == [*figures]
    right, wrong = figures["equivalence"].data
    assert list(right.y) == pytest.approx([0] * 36, abs=1e-4)
    assert max(wrong.y) < -0.3
    own, random = figures["random-links"].data
    assert [f"{each:.2f}" for each in own.x] == ["0.48", "0.00", "0.48", "0.48"] * 2
    assert list(random.x) == pytest.approx([0] * 8, abs=1e-4)
