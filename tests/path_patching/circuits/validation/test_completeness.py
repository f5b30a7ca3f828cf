"""The gaps between model and circuit, with the same nodes removed from both."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.calibration import engine_of, planted
from path_patching.bootstrap import Estimate
from path_patching.circuits.circuit import full_circuit
from path_patching.circuits.validation.completeness import Completeness, Gap, _grown, completeness
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
    assert found.largest.gap.high == pytest.approx(max(gap.gap.high for gap in found.gaps))


def test_random_sets_repeat_with_their_seed_and_are_none_that_was_there():
    engine = engine_of("MLP chains")
    scale, paths = Scale.of(engine, METRIC), full_circuit(planted("MLP chains").circuit, YY, END)
    first, again, other = (
        [
            gap.nodes
            for gap in completeness(engine, scale, paths, YY, END, "", seed, random_sets=4).gaps
            if "greedily" not in gap.removed
        ]
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
    assert verdict.remark == (
        "without nothing; the model keeps more: nodes outside do it, too, or links between the circuit's own nodes are "
        "missing"
    )
    assert verdict.measured == magnitude(found.largest.gap)
    several = replace(found.gaps[0], removed="2 nodes at random", nodes=("m0@YY", "m1@END"))
    remark = Completeness("", (several,)).verdicts()[0].remark
    assert remark.startswith("without 2 nodes at random: m0@YY, m1@END; the model keeps more")


def test_the_gap_that_reaches_furthest_is_judged_not_the_largest_number():
    """Of 0.25 ± 0.01 and −0.2 ± 0.15 the second may be 0.35 in size, which is over the bar of 0.3."""
    sure = Gap("m1@END", ("m1@END",), 0.5, 0.25, Estimate(0.25, 0.24, 0.26, 97))
    wide = Gap("m2@END", ("m2@END",), 0.3, 0.5, Estimate(-0.2, -0.35, -0.05, 97))
    found = Completeness("full circuit", (sure, wide))
    (verdict,) = found.verdicts()
    assert found.largest is wide
    assert verdict.measured == Estimate(0.2, 0.05, 0.35, 97)
    assert verdict.passed is False
    assert verdict.remark.startswith("the number is within the bar, its interval is not")
    assert [each.passed for each in Completeness("", (sure,)).verdicts()] == [True]
    narrower = Gap("m2@END", ("m2@END",), 0.3, 0.5, Estimate(-0.2, -0.22, -0.18, 97, plain_low=-0.35, plain_high=-0.05))
    assert Completeness("", (sure, narrower)).largest is narrower, "the wider of two intervals is held to the bar"


def test_the_model_of_a_backup_keeps_what_half_of_the_circuit_loses():
    """The circuit lacks one of two heads, each of which does all. Alone it does all, too: 1 − 1 = 0. Without its own
    head C∖K does nothing, while M∖K has the other: 1 − 0. So the heads, here one, open a gap of 1."""
    engine = engine_of("backup")
    scale, paths = Scale.of(engine, METRIC), full_circuit(planted("backup").too_few, YY, END)
    found = completeness(engine, scale, paths, YY, END, "one of two", random_sets=0)
    gaps = {gap.removed: gap.gap.value for gap in found.gaps}
    assert gaps["nothing"] == pytest.approx(0, abs=1e-3)
    assert gaps["heads"] == pytest.approx(1, abs=1e-3)
    assert [verdict.passed for verdict in found.verdicts()] == [False]


def test_a_greedy_set_grows_by_the_node_that_widens_the_gap_most_and_stops_where_none_does(monkeypatch):
    """Gaps: x 0.1, y 0.05, z 0; from the widest, x: with y 0.2, with z −0.4, which is wider; with all three 0.3."""
    x, y, z = (frozenset({Node.mlp(layer, END)}) for layer in (1, 2, 3))
    gaps = {x: 0.1, y: 0.05, z: 0.0, x | y: 0.2, x | z: -0.4, x | y | z: 0.3}

    def scores(engine, scale, paths, sets):
        return [torch.tensor([[gaps[each]] * 4, [0.0] * 4]) for each in sets]

    monkeypatch.setattr("path_patching.circuits.validation.completeness._scores", scores)
    known = dict(zip([x, y, z], scores(None, None, None, [x, y, z]), strict=True))
    assert [*_grown(None, None, None, {"x": x, "y": y, "z": z}, known)] == [x | z]
    gaps[x | y | z] = 0.5
    assert [*_grown(None, None, None, {"x": x, "y": y, "z": z}, known)] == [x | z, x | y | z]
