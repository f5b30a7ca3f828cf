"""Do the tests themselves work? Planted circuits pass each; a wrong one fails those that should see what is wrong."""

from __future__ import annotations

from functools import cache

import pytest

from benchmarks import calibration
from benchmarks.calibration import (
    CIRCUITS,
    VARIANTS,
    engine_of,
    planted,
    random_verdicts,
    scale_of,
    searches_of,
    verdicts,
    where,
)
from path_patching.bootstrap import Estimate
from path_patching.circuits import edge_lists
from path_patching.circuits.circuit import Circuit, full_circuit, is_same, late_half
from path_patching.circuits.validation.completeness import completeness
from path_patching.circuits.validation.faithfulness import faithfulness
from path_patching.circuits.validation.matched import matched
from path_patching.circuits.validation.minimality import minimality
from path_patching.circuits.validation.verdicts import BARS, Verdict
from path_patching.files import ROOT
from path_patching.paths import PathSet
from tests.helpers.benchmarks import run_here
from tests.helpers.planted import END, SHAPES, YY

each_shape = pytest.mark.parametrize("shape", SHAPES)

ASK_FOR_A_NODE = {"faithfulness", "complement", "completeness", "counterfactual"}  # that is missing
ASK_WHETHER_ALL_ARE_NEEDED = {"minimality", "minimality_links"}
CAUGHT = {  # the bars that have to see what is wrong, in every shape; others may
    "planted": set(),
    "too few": ASK_FOR_A_NODE,
    "too many": ASK_WHETHER_ALL_ARE_NEEDED,
    "swapped": {*ASK_FOR_A_NODE, *ASK_WHETHER_ALL_ARE_NEEDED, "consensus"},
}
MAY_SEE = {"planted": set(), "too many": {"consensus"}}  # if the circuit is small; a useless node takes nothing away
ELSEWHERE = {"seeds", "random", "other_loss", "interactions"}  # test 10's own tests plant two abilities in a model
PERFECT = {"complement": 0, "divergence": 0, "completeness": 0, "control": 0, "on_curve": 0}  # of others it is 1


@each_shape
@pytest.mark.parametrize("variant", VARIANTS)
def test_each_circuit_is_caught_by_what_should_see_it(shape, variant):
    failed = {verdict.bar for verdict in verdicts(shape, variant) if verdict.passed is False}
    assert failed >= CAUGHT[variant]
    if variant in MAY_SEE:
        assert failed <= CAUGHT[variant] | MAY_SEE[variant]


@each_shape
def test_every_bar_judges_the_planted_circuit_and_finds_it_perfect(shape):
    judged = [verdict for verdict in verdicts(shape, "planted") if verdict.passed is not None]
    assert {verdict.bar for verdict in judged} == {*BARS} - ELSEWHERE
    for verdict in judged:
        assert value_of(verdict) == pytest.approx(PERFECT.get(verdict.bar, 1), abs=1e-3), verdict


@each_shape
def test_the_planted_late_half_is_all_there_is_at_the_end(shape):
    late = faithfulness(engine_of(shape), scale_of(shape), late_half(planted(shape).circuit, END), "late")
    assert late.normalized.value == pytest.approx(1, abs=1e-4)
    assert late.complement.value == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "chain"])
def test_no_random_circuit_does_what_the_planted_one_does(shape):
    found = random_verdicts(shape)
    assert [verdict.measured for verdict in found] == pytest.approx([1 / (1 + CIRCUITS)] * 2)
    assert all(verdict.passed for verdict in found)


def test_a_model_with_few_circuits_cannot_judge_by_random_ones():
    """m2 reads a head of layer 2 that reads m0 or m1, or one of layer 1 that reads m0; m1 one of layer 1: 4 + 2 + 2."""
    found = random_verdicts("chain")
    assert [verdict.measured for verdict in found] == [1 / 8, 1 / 8]
    assert [verdict.passed for verdict in found] == [None, None]
    assert all("7 drawn, too few to judge by" in str(verdict) for verdict in found)


@cache
def without_places(shape: str) -> Circuit:
    """The planted circuit as links that hold at every position."""
    return Circuit("without places", edge_lists.without_places(planted(shape).circuit.links))


@each_shape
def test_without_places_the_planted_circuit_is_as_minimal_complete_and_stable(shape):
    circuit, engine, scale = without_places(shape), engine_of(shape), scale_of(shape)
    paths = full_circuit(circuit, YY, END)
    least = minimality(engine, scale, paths, YY, END, "all of it", placed=False)
    complete = completeness(engine, scale, paths, YY, END, "all of it", placed=False)
    found = [*least.verdicts(), *complete.verdicts(), *searches_of(shape).verdicts(circuit)]
    for verdict in found:
        assert verdict.passed
        assert value_of(verdict) == pytest.approx(PERFECT.get(verdict.bar, 1), abs=1e-3), verdict
    assert {verdict.bar for verdict in found} == {
        "minimality", "minimality_links", "completeness", "stability", "consensus"
    }  # fmt: skip
    assert tuple(node.name for node in least.nodes) == circuit.members
    assert tuple(each.link for each in least.links) == circuit.links


@pytest.mark.parametrize("shape", ["heads alone", "lower MLPs"])
def test_no_random_circuit_without_places_does_what_the_planted_one_does(shape):
    def paths(drawn: Circuit) -> PathSet:
        return full_circuit(drawn, YY, END)

    found = matched(engine_of(shape), scale_of(shape), without_places(shape), paths, "any layers", "planted", CIRCUITS)
    assert len(found.alone) == CIRCUITS
    assert (found.p_alone, found.p_without) == (1 / (1 + CIRCUITS), 1 / (1 + CIRCUITS))


@each_shape
def test_the_wrong_circuits_are_other_circuits(shape):
    circuits = [*planted(shape).variants.values()]
    assert [*planted(shape).variants] == [*VARIANTS]
    assert not any(is_same(one, other) for place, one in enumerate(circuits) for other in circuits[:place])


def test_a_cell_of_the_table_says_in_which_models():
    assert where({"chain": True, "heads": True, "lower": None}, wanted=True) == "all 2"
    assert where({"chain": True, "heads": False, "lower": False}, wanted=False) == "heads, lower"
    assert where({"chain": True, "heads": None}, wanted=False) == "none of 1"
    assert where({"chain": None}, wanted=True) == "not judged"


def test_the_page_has_the_table_that_the_benchmark_prints(capsys):
    printed = run_here(calibration.main, (), (), capsys)
    assert printed.count("\n") == 2 + len({*BARS} - ELSEWHERE | {"random"})
    assert printed in (ROOT / "docs" / "validation.md").read_text()


def value_of(verdict: Verdict) -> float:
    """What was measured, without its interval."""
    return verdict.measured.value if isinstance(verdict.measured, Estimate) else verdict.measured
