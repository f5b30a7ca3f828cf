"""The gaps between model and circuit, with the same nodes removed from both."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.calibration import engine_of, planted
from path_patching.bootstrap import Estimate
from path_patching.circuits.circuit import full_circuit
from path_patching.circuits.validation.completeness import Completeness, completeness
from path_patching.circuits.validation.measuring import Scale, magnitude
from path_patching.paths import Node
from tests.helpers.planted import END, YEARS, YY
from utils import greater_than

METRIC = greater_than(YEARS)


@pytest.mark.parametrize(
    ("signed", "size"),
    [((0.3, 0.2, 0.4), (0.3, 0.2, 0.4)), ((-0.3, -0.4, -0.2), (0.3, 0.2, 0.4)), ((-0.1, -0.4, 0.2), (0.1, 0.0, 0.4))],
)
def test_the_size_of_a_gap(signed, size):
    assert magnitude(Estimate(*signed, 4)) == Estimate(*size, 4)
    assert magnitude(Estimate(0.1, -0.1, 0.3, 4, *signed[1:])) == Estimate(0.1, 0.0, 0.3, 4, *size[1:])


def test_each_gap_is_between_the_same_nodes_removed():
    engine = engine_of("heads alone")
    scale, paths = Scale.of(engine, METRIC), full_circuit(planted("heads alone").too_few, YY, END)
    found = completeness(engine, scale, paths, YY, END, "two heads", random_sets=0)
    assert [gap.removed for gap in found.gaps] == ["nothing", "heads", "a1.h1@END", "a2.h0@END"]
    assert [gap.nodes for gap in found.gaps][1:] == [("a1.h1@END", "a2.h0@END"), ("a1.h1@END",), ("a2.h0@END",)]

    def f(probabilities) -> float:
        return scale.of_means(METRIC(probabilities)).item()

    one, other = ([Node.head(1, 1, END)], [Node.head(2, 0, END)])
    passing, rest = paths.passing(one), paths.passing(other)
    models = [f(engine.clean()), f(engine.patch(paths)), f(engine.patch(passing)), f(engine.patch(rest))]
    circuits = [f(engine.isolate(paths)), 0.0, f(engine.isolate(rest)), f(engine.isolate(passing))]
    assert [gap.model for gap in found.gaps] == pytest.approx(models, abs=1e-5)
    assert [gap.circuit for gap in found.gaps] == pytest.approx(circuits, abs=1e-5)
    gaps = [model - circuit for model, circuit in zip(models, circuits, strict=True)]
    assert [gap.gap.value for gap in found.gaps] == pytest.approx(gaps, abs=1e-5)
    assert found.largest.gap.value == pytest.approx(max(gaps), abs=1e-5)


def test_random_sets_repeat_with_their_seed_and_are_none_that_was_there():
    engine = engine_of("MLP chains")
    scale, paths = Scale.of(engine, METRIC), full_circuit(planted("MLP chains").circuit, YY, END)
    first, again, other = (
        [gap.nodes for gap in completeness(engine, scale, paths, YY, END, "", seed, random_sets=4).gaps]
        for seed in (1, 1, 2)
    )
    assert first == again != other
    assert all(len(set(sets)) == len(sets) for sets in (first, other))
    assert 1 + 5 < len(first) <= 1 + 5 + 4  # nothing, the MLPs and four nodes (of which one is all heads), random sets


def test_the_verdict_names_the_largest_gap():
    engine = engine_of("heads alone")
    scale, paths = Scale.of(engine, METRIC), full_circuit(planted("heads alone").too_few, YY, END)
    found = completeness(engine, scale, paths, YY, END, "two heads")
    (verdict,) = found.verdicts()
    assert verdict.passed is False
    assert verdict.remark == "without nothing"
    assert verdict.measured == magnitude(found.largest.gap)
    several = replace(found.gaps[0], removed="2 nodes at random", nodes=("m0@YY", "m1@END"))
    assert Completeness("", (several,)).verdicts()[0].remark == "without 2 nodes at random: m0@YY, m1@END"
