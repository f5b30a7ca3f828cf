"""Do the tests themselves work? Planted circuits pass each; a wrong one fails those that should see what is wrong."""

from __future__ import annotations

from functools import cache

import pytest

from benchmarks import calibration
from benchmarks.calibration import (
    CIRCUITS,
    FEW,
    VARIANTS,
    engine_of,
    full,
    of_few,
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
from path_patching.circuits.validation.random_links import beside_random_links
from path_patching.circuits.validation.verdicts import BARS, Verdict
from path_patching.files import ROOT
from path_patching.paths import PathSet
from tests.helpers.benchmarks import run_here
from tests.helpers.planted import END, SHAPES, YY

each_shape = pytest.mark.parametrize("shape", SHAPES)

BY_CHANCE = {"equivalence", "independence"}
ASK_FOR_A_NODE = {
    "faithfulness", "by_sentence", "likeliest", "complement", "completeness", "counterfactual", *BY_CHANCE
}  # fmt: skip
ASK_WHETHER_ALL_ARE_NEEDED = {"minimality", "minimality_links", "random_links"}
CAUGHT = {  # the bars that have to see what is wrong, in every shape; others may
    "planted": set(),
    "too few": ASK_FOR_A_NODE,
    "too many": ASK_WHETHER_ALL_ARE_NEEDED,
    "swapped": {*ASK_FOR_A_NODE, *ASK_WHETHER_ALL_ARE_NEEDED, "consensus"},
}
CAUGHT_OF = {  # of shapes in which a node that is missing is hard to see
    ("chain", "swapped"): CAUGHT["swapped"] - {"random_links"},  # its model has too few other circuits
    # One of two heads does all that both do, so that F is 1. Only what is left without it, all, tells the two apart.
    ("backup", "too few"): {"complement", "completeness", "independence"},
    ("backup", "swapped"): {"complement", "completeness", "independence", *ASK_WHETHER_ALL_ARE_NEEDED},
    # Without u/2 and −u/2 the rest is u, as the model's: whatever is asked of effects is the same. A search finds both.
    ("cancelling", "too few"): {"consensus"},
    # u + u/2 − u01/2 and 4/3 u − u01/3 are later than u. The probability difference can hardly be more than it is.
    ("cancelling", "swapped"): {
        "likeliest", "faithfulness", "completeness", *BY_CHANCE, *ASK_WHETHER_ALL_ARE_NEEDED, "consensus"
    },
    ("against", "too few"): {"likeliest", "faithfulness", "completeness", *BY_CHANCE},
    ("against", "swapped"): {"likeliest", "faithfulness", *BY_CHANCE, *ASK_WHETHER_ALL_ARE_NEEDED, "consensus"},
}  # fmt: skip
MAY_SEE = {"planted": set(), "too many": {"consensus"}}  # if the circuit is small; a useless node takes nothing away
ELSEWHERE = {"seeds", "random", "other_loss", "interactions"}  # test 10's own tests plant two abilities in a model
UNJUDGED = {  # of the planted circuit: few others; most have an MLP that matters; a search finds no head of two alike
    "chain": {"random_links"},
    "MLP chains": {"own_loss"},
    "backup": {"own_loss", "stability", "consensus"},
}
PERFECT = {"complement": 0, "divergence": 0, "completeness": 0, "control": 0, "on_curve": 0}  # of others it is 1


@each_shape
@pytest.mark.parametrize("variant", VARIANTS)
def test_each_circuit_is_caught_by_what_should_see_it(shape, variant):
    failed = {verdict.bar for verdict in verdicts(shape, variant) if verdict.passed is False}
    assert failed >= CAUGHT_OF.get((shape, variant), CAUGHT[variant])
    if shape in ("backup", "cancelling", "against") and variant == "too few":
        assert failed == CAUGHT_OF[shape, variant], "the page says what none catches"
    if variant in MAY_SEE:
        assert failed <= CAUGHT[variant] | MAY_SEE[variant]


@each_shape
def test_every_bar_judges_the_planted_circuit_and_finds_it_perfect(shape):
    judged = [verdict for verdict in verdicts(shape, "planted") if verdict.passed is not None]
    assert {verdict.bar for verdict in judged} == {*BARS} - ELSEWHERE - UNJUDGED.get(shape, set())
    for verdict in judged:
        if verdict.bar == "own_loss":  # random circuits take some
            assert any(f"its circuit takes {share} %" in verdict.remark for share in ("100.0", "99.9"))
        else:
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


@pytest.mark.parametrize(("count", "why"), [(1, "1 sentence; give two or more"), (4, "4 YYs; an interval needs 10")])
def test_on_few_sentences_nothing_is_judged(count, why):
    found = of_few(count)
    assert {verdict.bar for verdict in found} == {*BARS} - {
        "seeds",
        "other_loss",
        "interactions",
        "on_curve",
        "stability",
        "consensus",
    }
    assert {verdict.passed for verdict in found} == {None}
    assert all(verdict.remark.startswith(why) for verdict in found)


def test_a_model_with_few_circuits_cannot_judge_by_random_ones():
    """m2 reads a head of layer 2 that reads m0 or m1, or one of layer 1 that reads m0; m1 one of layer 1: 4 + 2 + 2."""
    found = random_verdicts("chain")
    assert [verdict.measured for verdict in found] == [1 / 8, 1 / 8]
    assert [verdict.passed for verdict in found] == [None, None]
    assert all("too few random circuits" in str(verdict) for verdict in found)


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
    beside = beside_random_links(engine, scale, circuit, full, least, YY, END)
    found = [*least.verdicts(), beside.verdict(), *complete.verdicts(), *searches_of(shape).verdicts(circuit)]
    assert {verdict.bar for verdict in found if verdict.passed is None} == UNJUDGED.get(shape, set()) - {"own_loss"}
    for verdict in (each for each in found if each.passed is not None):
        assert verdict.passed
        assert value_of(verdict) == pytest.approx(PERFECT.get(verdict.bar, 1), abs=1e-3), verdict
    assert {verdict.bar for verdict in found} == {
        "minimality", "minimality_links", "random_links", "completeness", "stability", "consensus"
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
    tests = len({*BARS} - ELSEWHERE | {"random", "faithfulness, log odds"})
    assert printed.count("\n") == 2 + tests + 1 + 2 + len(SHAPES) + len(FEW)
    page = (ROOT / "docs" / "validation.md").read_text()
    assert [table for table in printed.strip("\n").split("\n\n") if table not in page] == []


def value_of(verdict: Verdict) -> float:
    """What was measured, without its interval."""
    return verdict.measured.value if isinstance(verdict.measured, Estimate) else verdict.measured
