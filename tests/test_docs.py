"""What a page says of the code is what the code says, and its links lead somewhere."""

from __future__ import annotations

import re

import pytest

from path_patching.circuits.validation.verdicts import BARS
from path_patching.files import ROOT
from reproduction.settings import VALIDATION

PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md"), *ROOT.glob("examples/*/*.md")]
VALIDATION_PAGE = (ROOT / "docs" / "validation.md").read_text()


def rows_below(header: str, page: str) -> list[list[str]]:
    """The cells of the table with this header; `\\|` is a bar within a cell."""
    below = page[page.index(header) :].split("\n\n")[0].splitlines()[2:]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in below]
    return [[cell.strip().replace("\\|", "|") for cell in row] for row in cells]


def test_the_table_of_bars_is_that_of_the_code():
    said = rows_below("| test | bar |", VALIDATION_PAGE)
    assert [row[1:] for row in said] == [[f"`{name}`", bar.asked, bar.words, bar.reason] for name, bar in BARS.items()]


def test_every_test_has_a_section_in_the_order_in_which_it_is_made():
    sections = re.findall(r"^## (\d+)\. .*?(?:`--only (\w+)`)?$", VALIDATION_PAGE, re.MULTILINE)
    assert [int(number) for number, _ in sections] == [*range(1, 13)]
    assert tuple(name for _, name in sections if name) == VALIDATION
    assert {int(row[0]) for row in rows_below("| test | bar |", VALIDATION_PAGE)} == {*range(1, 12)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_between_pages_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
