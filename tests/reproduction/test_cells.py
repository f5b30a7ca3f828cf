"""Which cells a run needs is read off its script, and which ran off the window."""

from __future__ import annotations

import re

import pytest

from reproduction.cells import Cells, lines_of, needed_cells, text_of
from reproduction.experiments import EXPERIMENTS
from reproduction.settings import VALIDATION

SCRIPT = '''"""A script."""

# %% What is asked?
settings = 3

# %% Which sentences? Some of
# them are short.
run = open_run("mine", settings)

# %% Is it
# so? It is.
seen = look(settings)
for each in seen:
    run.note("so", each)

# %% And why?
# Nobody knows.
run.note("why", 1)

# %% Everything ran: publish it.
run.publish()
'''
OPENING, SO, WHY = re.split(r"(?m)^(?=# %% )", SCRIPT)[2:5]
DONE = [OPENING, SO, WHY]


def not_run(*cells: str) -> list[str]:
    """What is said after these cells; one that ends in an exclamation mark did not come to its end."""
    seen = Cells(needed_cells(SCRIPT))
    for cell in cells:
        seen.ended(cell.rstrip("!"), whole=not cell.endswith("!"))
    return seen.not_run()


def test_a_run_needs_its_cells_from_the_one_that_opens_it_to_the_last_but_one():
    assert [*needed_cells(SCRIPT)] == not_run() == ["Which sentences?", "Is it so?", "And why?"]
    assert needed_cells(text_of("a_notebook_of_ones_own")) == {}


def test_a_cell_that_is_forgotten_or_ended_half_way_is_missing_until_it_is_run_again():
    assert not_run(*DONE) == []
    assert not_run(OPENING, WHY) == ["Is it so?"]
    assert not_run(OPENING, f"{SO}!", WHY) == not_run(*DONE, f"{SO}!") == ["Is it so?"]
    assert not_run(*DONE, f"{SO}!", SO) == []


@pytest.mark.parametrize(
    "cells",
    [
        [cell.partition("\n")[2] for cell in DONE],
        ["\n".join(DONE)],
        [OPENING, *SO.splitlines(), WHY],
        [OPENING, SO.replace("seen = look(settings)", "seen = look(4)"), WHY, 'run.note("mine", 1)!'],
    ],
    ids=["without the questions", "joined", "split", "changed"],
)
def test_cells_are_known_by_their_lines(cells):
    assert not_run(*cells) == []


@pytest.mark.parametrize("script", EXPERIMENTS)
def test_no_cell_is_taken_for_others_of_its_script_or_of_another_in_the_same_window(script):
    of_others = {line for other in {*EXPERIMENTS} - {script} for line in lines_of(text_of(other))}
    needed = needed_cells(text_of(script))
    _, *behind_the_opening = needed
    for forgotten in behind_the_opening:
        ran = of_others.union(*(lines for question, lines in needed.items() if question != forgotten))
        assert Cells(needed, ran).not_run() == [forgotten]


def test_tests_of_the_validation_that_are_not_asked_for_are_not_missing():
    script = text_of("circuit_validation")
    sentences, *tests = needed_cells(script)
    assert len(tests) == len(VALIDATION)
    assert [*needed_cells(script, ["seeds"])] == [sentences, "Is it the same with other sentences?"]


def test_every_script_ends_by_publishing():
    for script in EXPERIMENTS:
        assert "run.publish()" in lines_of(re.split(r"(?m)^(?=# %% )", text_of(script))[-1])
