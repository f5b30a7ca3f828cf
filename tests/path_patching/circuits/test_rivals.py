from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from path_patching.circuits.circuit import Circuit, Link
from path_patching.circuits.circuit_file import read_circuit
from path_patching.circuits.edge_lists import as_graph
from path_patching.circuits.rivals import COLUMNS, compared, table
from path_patching.circuits.validation.faithfulness import divergence_from
from path_patching.errors import UserError
from path_patching.files import ROOT
from path_patching.gpt2.model import Architecture
from path_patching.torch_engine.engine import TorchEngine
from reproduction.paper import PAPER
from tests.helpers.edge_patching import all_edges, edges_alone
from tests.helpers.setups import VOCABULARY, random_setup
from utils import greater_than

SIZES = Architecture(n_layers=12, n_heads=12, d_model=24, d_head=2, d_mlp=12, n_positions=8, vocab_size=VOCABULARY)
SETUP = random_setup(SIZES, n=4, length=5, yy_position=2, eos=False, twins=True, seed=2)
ENGINE, METRIC = TorchEngine(SETUP.model, SETUP.sentences), greater_than(SETUP.years)
RIVALS = [read_circuit(ROOT / "examples" / "circuits" / name) for name in ("acdc.txt", "eap-ig.json", "cd-t.txt")]
SMALL = Circuit("small", tuple(map(Link.parse, ("embeds → m0", "m0 →v a9.h1", "a9.h1 → logits", "embeds → logits"))))


def test_rivals_stand_side_by_side_by_numbers_that_edge_patching_gives():
    found = compared(ENGINE, METRIC, [PAPER, *RIVALS], 2, SETUP.end)
    clean, corrupted = (edges_alone(SETUP.model, SETUP.sentences, edges) for edges in (all_edges(SIZES), []))
    whole, nothing = METRIC(clean).mean(), METRIC(corrupted).mean()
    assert abs(whole - nothing) > 1e-3
    for rival, each in zip(RIVALS[:2], found[1:3], strict=True):
        alone = edges_alone(SETUP.model, SETUP.sentences, as_graph(rival.links, SIZES)["edges"])
        score = METRIC(alone).mean()
        assert each.faithfulness.value == pytest.approx(((score - nothing) / (whole - nothing)).item(), abs=1e-3)
        assert each.recovered.value == pytest.approx((score / whole).item(), abs=1e-3)
        assert each.divergence.value == pytest.approx(divergence_from(clean)(alone).mean().item(), abs=1e-4)
    assert [len(each.circuit.members) for each in found] == [18, 21, 19, 20]
    assert [len(each.shared.nodes.both) for each in found] == [18, 16, 18, 13]


def test_a_node_that_does_nothing_is_not_needed():
    tensors = {**SETUP.model.tensors, "a9.w.o_arr": torch.zeros_like(SETUP.model.tensors["a9.w.o_arr"])}
    idle = replace(SETUP.model, tensors=tensors, fingerprint="idle")
    links = (*SMALL.links, Link.parse("m0 →v a8.h2"), Link.parse("a8.h2 → logits"))
    for model, needed in ((SETUP.model, 3), (idle, 2)):
        of_one = TorchEngine(model, SETUP.sentences.rows(slice(1)))  # with intervals of no width
        (found,) = compared(of_one, greater_than(SETUP.years[:1]), [replace(SMALL, links=links)], 2, SETUP.end)
        assert found.needed == needed


def test_the_table_has_a_row_for_each_circuit_and_compares_with_the_first():
    found = compared(ENGINE, METRIC, [SMALL, replace(SMALL, name="again")], 2, SETUP.end)
    header, _, *rows = [line.strip("|").split("|") for line in table(found).splitlines()]
    assert tuple(map(str.strip, header)) == COLUMNS
    cells = [[cell.strip() for cell in row] for row in rows]
    assert [row[1:3] for row in cells] == [["2 (1.3 %)", "4 (0.0 %)"]] * 2
    assert [row[0] for row in cells] == ["small", "again"]
    assert [row[-2:] for row in cells] == [["–", "–"], ["2 (1.00)", "4 (1.00)"]]
    assert cells[0][3:7] == cells[1][3:7]


def test_circuits_of_one_name_are_told_apart():
    found = compared(ENGINE, METRIC, [SMALL, SMALL, SMALL], 2, SETUP.end)
    assert [line.split(" | ")[0] for line in table(found).splitlines()[2:]] == ["| small", "| small (2)", "| small (3)"]


def test_a_circuit_of_the_embeddings_alone_has_no_node_that_could_be_needed():
    direct = Circuit("direct", (Link.parse("embeds → logits"),))
    _, found = compared(ENGINE, METRIC, [SMALL, direct], 2, SETUP.end)
    assert (found.needed, found.shared.nodes.both) == (0, ())


def test_no_circuit_and_one_that_the_model_lacks_are_refused_before_anything_is_evaluated():
    with pytest.raises(UserError, match="no circuit is given"):
        compared(ENGINE, METRIC, [], 2, SETUP.end)
    lacking = Circuit("of another model", (Link.parse("embeds → m12"), Link.parse("m12 → logits")))
    with pytest.raises(UserError, match=r"of another model has m12, but .* has 12 layers"):
        compared(ENGINE, METRIC, [SMALL, lacking], 2, SETUP.end)


def test_a_name_does_not_break_the_table():
    found = compared(ENGINE, METRIC, [replace(SMALL, name="a|b")], 2, SETUP.end)
    assert table(found).splitlines()[-1].startswith(r"| a\|b | 2 (1.3 %) | 4 (0.0 %) | ")
