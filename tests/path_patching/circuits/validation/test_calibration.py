"""Do the tests themselves work? Planted circuits pass each; a wrong one fails those that should see what is wrong."""

from __future__ import annotations

import pytest

from path_patching.bootstrap import Estimate
from path_patching.circuits.circuit import is_same, late_half
from path_patching.circuits.validation.faithfulness import faithfulness
from path_patching.circuits.validation.measuring import Scale
from tests.helpers.calibration import VARIANTS, engine_of, planted, random_verdicts, verdicts
from tests.helpers.planted import END, SHAPES, YEARS
from utils import greater_than

each_shape = pytest.mark.parametrize("shape", SHAPES)

CAUGHT = {  # the bars that have to see what is wrong; others may
    "planted": set(),
    "too few": {"faithfulness", "completeness"},
    "too many": {"minimality", "minimality_links"},
    "swapped": {"faithfulness", "completeness", "minimality", "minimality_links"},
}


@each_shape
@pytest.mark.parametrize("variant", VARIANTS)
def test_each_circuit_is_caught_by_what_should_see_it(shape, variant):
    failed = {verdict.bar for verdict in verdicts(shape, variant) if verdict.passed is False}
    assert failed >= CAUGHT[variant]
    if variant in ("planted", "too many"):  # a useless node takes nothing away
        assert failed == CAUGHT[variant]


@each_shape
def test_the_planted_circuit_is_all_there_is(shape):
    found = {verdict.bar: verdict.measured for verdict in verdicts(shape, "planted")}
    numbers = {bar: each.value if isinstance(each, Estimate) else each for bar, each in found.items()}
    assert numbers == pytest.approx(
        {
            "faithfulness": 1,
            "complement": 0,
            "divergence": 0,
            "minimality": 1,
            "minimality_links": 1,
            "completeness": 0,
        },
        abs=1e-4,
    )
    engine = engine_of(shape)
    late = faithfulness(engine, Scale.of(engine, greater_than(YEARS)), late_half(planted(shape).circuit, END), "late")
    assert late.normalized.value == pytest.approx(1, abs=1e-4)
    assert late.complement.value == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "chain"])
def test_no_random_circuit_does_what_the_planted_one_does(shape):
    found = random_verdicts(shape, "planted")
    assert [verdict.measured for verdict in found] == pytest.approx([1 / 111] * 2)
    assert all(verdict.passed for verdict in found)


def test_a_model_with_few_circuits_cannot_judge_by_random_ones():
    """m2 reads a head of layer 2 that reads m0 or m1, or one of layer 1 that reads m0; m1 one of layer 1: 4 + 2 + 2."""
    found = random_verdicts("chain", "planted")
    assert [verdict.measured for verdict in found] == [1 / 8, 1 / 8]
    assert [verdict.passed for verdict in found] == [None, None]
    assert all("7 drawn, too few to judge by" in str(verdict) for verdict in found)


@each_shape
def test_the_wrong_circuits_are_other_circuits(shape):
    circuits = [*planted(shape).variants.values()]
    assert [*planted(shape).variants] == [*VARIANTS]
    assert not any(is_same(one, other) for place, one in enumerate(circuits) for other in circuits[:place])
