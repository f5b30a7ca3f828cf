"""The paper's circuit of GPT-2 small (section 3), which is recognized by its paths, not by its name."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from unicodedata import normalize

from path_patching.circuits.circuit import LOGITS, Circuit, is_same
from path_patching.circuits.papers_shape import in_papers_shape
from path_patching.circuits.search import NAME

PAPER = in_papers_shape(
    name="the paper's circuit",
    mlps=("m8", "m9", "m10", "m11"),
    heads=("a5.h1", "a5.h5", "a6.h9", "a7.h10", "a8.h8", "a8.h11", "a9.h1"),
    heads_feed=(LOGITS, "m8", "m9", "m10", "m11"),
    first_below=("m0", "m1", "m2", "m3", "a0.h1", "a0.h3", "a0.h5"),
    further_below=("m0", "m1", "m2", "m3", "a0.h1"),
    studied=("a7.h10", "a8.h11", "a9.h1"),
)
GIVEN = "a given circuit"


@cache
def is_the_papers(circuit: Circuit) -> bool:
    """Whether a circuit has the paths of the paper's, whatever its name is."""
    return is_same(circuit, PAPER)


def truly_named(circuit: Circuit) -> Circuit:
    """A circuit with the paper's name if it is the paper's; without it if it is not, for example if it was edited."""
    if is_the_papers(circuit):
        return replace(circuit, name=PAPER.name)
    return replace(circuit, name=GIVEN) if _reads_like(circuit.name, PAPER.name) else circuit


def named_as_read(circuit: Circuit) -> Circuit:
    """A circuit read from a file. Anyone may have edited it, so it does not count as found automatically either."""
    named = truly_named(circuit)
    return replace(named, name=GIVEN) if _reads_like(named.name, NAME) else named


def _reads_like(name: str, other: str) -> bool:
    """Whether a reader takes two names for the same: capitals, spaces, apostrophes and other signs do not count."""
    letters = ["".join(filter(str.isalnum, normalize("NFKC", each).casefold())) for each in (name, other)]
    return letters[0] == letters[1]
