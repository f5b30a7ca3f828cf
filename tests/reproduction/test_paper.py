"""The paper's circuit is known by its nodes and links; no other one has its name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from path_patching.circuits.circuit import LOGITS
from path_patching.circuits.papers_shape import varied
from path_patching.circuits.search import NAME
from reproduction.paper import GIVEN, PAPER, is_the_papers, named_as_read, truly_named

OTHERS = {
    "a head less": {"heads": PAPER.heads[1:]},
    "a head more": {"heads": (*PAPER.heads, "a6.h1")},
    "an MLP less": {"mlps": PAPER.mlps[:3], "heads_feed": ("m8", "m9", "m10", LOGITS)},
    "other links": {"heads_feed": ("m8", "m9")},
    "a node at YY less": {"first_below": ("m0", "m1", "m2", "m3", "a0.h1", "a0.h3")},
    "followed otherwise": {"followed": ("v",), "whole": ("q", "k")},
}


@pytest.mark.parametrize("name", [PAPER.name, "mine"])
@pytest.mark.parametrize("changed", [{}, {"heads": PAPER.heads[::-1]}, {"studied": ()}, {"mlps": PAPER.mlps[::-1]}])
def test_the_paper_s_circuit_is_known_whatever_it_is_called_and_in_any_order(name, changed):
    same = varied(PAPER, name=name, **changed)
    assert is_the_papers(same)
    assert truly_named(same) == named_as_read(same) == replace(same, name=PAPER.name)


@pytest.mark.parametrize("name", [PAPER.name, NAME, "mine"])
@pytest.mark.parametrize("other", OTHERS)
def test_one_that_was_edited_has_neither_its_name_nor_that_of_one_found(name, other):
    edited = varied(PAPER, name=name, **OTHERS[other])
    assert not is_the_papers(edited)
    assert truly_named(edited).name == (GIVEN if name == PAPER.name else name)
    assert named_as_read(edited).name == ("mine" if name == "mine" else GIVEN)
    assert replace(named_as_read(edited), name=name) == edited


@pytest.mark.parametrize(
    "name",
    ["The paper's circuit ", " the paper's circuit", "the papers circuit", "the paper\u2019s circuit",
     "THE PAPER'S CIRCUIT.", "the  paper's  circuit", "the paper's cir\uff43uit"],
)  # fmt: skip
def test_no_name_that_reads_like_the_paper_s_is_another_circuit_s(name):
    other = varied(PAPER, name=name, **OTHERS["a head less"])
    assert truly_named(other).name == named_as_read(other).name == GIVEN
    assert truly_named(varied(PAPER, name=name)).name == PAPER.name


def test_nor_one_that_reads_like_that_of_the_circuit_found():
    assert named_as_read(varied(PAPER, name=f"{NAME.title()} ", **OTHERS["a head less"])).name == GIVEN
    mine = varied(PAPER, name="the paper's circuit with m7", **OTHERS["a head less"])
    assert named_as_read(mine).name == mine.name
