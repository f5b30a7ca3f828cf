"""The files of examples/circuits hold what their README says."""

from __future__ import annotations

from itertools import product

import pytest

from path_patching.circuits.circuit import Circuit
from path_patching.circuits.circuit_file import read_circuit
from path_patching.circuits.edge_lists import from_text
from path_patching.files import ROOT
from path_patching.paths import Node
from reproduction.paper import PAPER

FOLDER = ROOT / "examples" / "circuits"
LOWER, LATE = {"m0", "m1", "m2", "m3", "a0.h1", "a0.h3", "a0.h5"}, {"m8", "m9", "m10", "m11"}
ACDC = {"a5.h5", "a6.h1", "a6.h9", "a7.h10", "a8.h11", "a9.h1"}
CDT = {"a9.h1", "a10.h4", "a7.h10", "a11.h8", "a10.h7", "a6.h9", "a8.h11", "a8.h8"}
ENDS = {"input": 0, "logits": 99}
MLPS = {f"m{layer}" for layer in range(12)}


def edges(senders: set[str], readers: set[str], inputs: str = "") -> set[str]:
    """Every edge that leads downstream from one of some nodes to another; to heads, into some inputs or into all."""
    pairs = ((sender, reader) for sender, reader in product(senders, readers) if depth(sender) < depth(reader))
    return {f"{sender}->{reader}{each}" for sender, reader in pairs for each in inputs.split() or [""]}


def depth(name: str) -> int:
    return ENDS[name] if name in ENDS else Node.named(name, 0).depth


def read(name: str) -> Circuit:
    return read_circuit(FOLDER / name)


def test_the_papers_is_the_papers():
    assert read("paper.json") == PAPER


def test_acdcs_is_six_heads_with_the_queries_of_every_mlp_below():
    chained = LOWER - {"a0.h3", "a0.h5"}
    expected = edges({"input"}, LOWER) | edges(LOWER, ACDC) | edges(chained, LOWER & MLPS)
    expected |= edges(ACDC, LATE) | edges(LATE, LATE) | edges(ACDC | LATE, {"logits"})
    first_nine = {f"m{layer}" for layer in range(9)}
    expected |= edges(first_nine, first_nine) | edges(first_nine, ACDC, "<q>")
    assert read("acdc.txt").links == from_text("\n".join(expected))


def test_eap_igs_is_eight_heads_that_read_the_lower_nodes_alone():
    heads, chained = {*PAPER.heads, "a6.h1"}, LOWER - {"a0.h3", "a0.h5"}
    expected = edges({"input"}, LOWER) | edges(LOWER, heads) | edges(chained, LOWER & MLPS)
    expected |= edges(heads, LATE) | edges(LATE, LATE) | edges(heads | LATE, {"logits"})
    assert read("eap-ig.json").links == from_text("\n".join(expected))


def test_cdts_is_eight_heads_and_every_mlp_and_all_edges_among_them():
    nodes = CDT | MLPS
    assert read("cd-t.txt").links == from_text("\n".join(edges({"input"} | nodes, nodes | {"logits"})))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*[tn]")), ids=lambda path: path.name)
def test_the_page_names_every_file(path):
    assert f"| `{path.name}` |" in (FOLDER / "README.md").read_text()
