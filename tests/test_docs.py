"""What a page says of the code is what the code says: bars, commands, blocks, links and pictures."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

import pictures
from path_patching.circuits.validation.verdicts import BARS
from path_patching.files import ROOT
from reproduce import COMMANDS
from reproduction.settings import VALIDATION
from tests.helpers.scripts import output, run_script

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


def test_the_readme_is_short_and_shows_the_circuit_and_the_heatmap_of_the_stand_in():
    readme = (ROOT / "README.md").read_bytes()
    assert len(readme) <= 7000
    shown = re.findall(r"!\[[^]]+\]\((docs/images/[\w-]+\.png)\)", readme.decode())
    assert [Path(path).stem for path in shown] == [*pictures.PICTURES]
    for path in shown:
        assert (ROOT / path).read_bytes().startswith(b"\x89PNG")
    below = readme.decode().partition("docs/images/")[2].partition("## ")[0]
    assert "of the stand-in, not of GPT-2" in below


COMMAND = re.compile(r"python (\w+(?:/\w+)?\.py)((?: [^`\n#]*)?)")
OWN = [page for page in PAGES if page.parent in (ROOT, ROOT / "docs")]


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """The scripts that a page calls, with their words and flags."""
    return [(script, said.split()) for script, said in COMMAND.findall(page.read_text())]


@pytest.mark.parametrize("page", OWN, ids=lambda page: page.stem)
def test_every_command_of_a_page_names_a_script_and_flags_that_it_has(page):
    for script, said in commands(page):
        assert (ROOT / script).is_file(), script
        word = [said[0]] if script == "reproduce.py" and said and said[0] in COMMANDS else []
        known = help_of(script, *word)
        for flag in [each.strip("[]") for each in said if each.startswith(("--", "[--"))]:
            assert flag in known, f"{script} has no {flag}"


@cache
def help_of(script: str, *word: str) -> str:
    return output(run_script(ROOT / script, *word, "--help"))


@pytest.mark.slow
def test_the_blocks_of_the_readme_and_of_path_sets_run_one_after_the_other(capsys):
    names: dict[str, object] = {}
    for page in (ROOT / "README.md", ROOT / "docs" / "path-sets.md"):
        for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
            exec(compile(block, page.name, "exec"), names)  # as a reader who copies it
    printed = capsys.readouterr().out
    assert "-0.0191 [-0.0248, -0.0141]" in printed
    assert "m0@8 →v a7.h10@12 → logits@12" in printed
    assert names["engine"].evaluate([names["Request"].clean(), names["Request"].patch(names["values"])]).shape[0] == 2
