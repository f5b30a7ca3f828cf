"""What random links add to a circuit is what their heads carry, worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.calibration import engine_of, full, planted, scale_of
from path_patching.bootstrap import Estimate
from path_patching.circuits.circuit import Link
from path_patching.circuits.validation.minimality import LinkLoss, minimality
from path_patching.circuits.validation.random_links import FEWEST, BesideRandom, beside_random_links, binomial_p
from tests.helpers.planted import END, SMALL_SHIFT, YEARS, YY, scaled
from tests.path_patching.circuits.validation.test_faithfulness import bell

ONE, OTHER = (Link("logits@END", "in", f"a1.h{head}@END") for head in (1, 4))


@pytest.mark.parametrize("redundant", [False, True])
def test_a_random_link_adds_what_its_head_carries(redundant):
    """Each of three heads has a third of u. The circuit lacks a1.h4: all other heads add nothing, that one a third.

    It adds it to the circuit, or for links that others stand in for to what is left without all of its own heads.
    """
    engine, scale, circuit = engine_of("heads alone"), scale_of("heads alone"), planted("heads alone").too_few
    needed = minimality(engine, scale, full(circuit), YY, END, "two heads")
    if redundant:
        nothing = Estimate(0, 0, 0, 4)
        needed = replace(needed, links=tuple(LinkLoss(each.link, nothing, each.alone) for each in needed.links))
    found = beside_random_links(engine, scale, circuit, full, needed, YY, END, draws=60)
    u, u01 = scaled(YEARS), scaled(torch.ones(4))
    means = [bell(u * k / 3 + u01 * (3 - k) / 3 + SMALL_SHIFT).mean().item() for k in range(4)]
    one, two, three = ((each - means[0]) / (means[3] - means[0]) for each in means[1:])
    a_third = one if redundant else three - two
    assert [*found.own.values()] == pytest.approx([two - one] * 4, abs=1e-4)
    for link, others in found.others.items():
        added = [each for each in others if each > 1e-4]
        assert added == pytest.approx([a_third] * len(added), abs=1e-4)
        assert len(others) == 60
        assert 0 < len(added) < 10
        assert found.less(link) == 60 - len(added) * (a_third > two - one)


def test_random_links_are_none_of_the_circuit():
    """Of the chain's seven other circuits one has a1.h1 read m0 as well, for m1; two have m1, and two have m1 at YY."""
    engine, scale, circuit = engine_of("chain"), scale_of("chain"), planted("chain").circuit
    needed = minimality(engine, scale, full(circuit), YY, END, "")
    found = beside_random_links(engine, scale, circuit, full, needed, YY, END)
    drawn = {str(link): len(others) for link, others in found.others.items()}
    assert drawn == {
        "m0@YY →v a1.h1@END": 6,
        "a1.h1@END → m2@END": 7,
        "m2@END → logits@END": 2,
        "embeds@YY → m0@YY": 2,
    }


def test_p_is_the_chance_of_so_few_that_matter_less_and_is_corrected_for_the_links():
    assert [binomial_p(less, 2) for less in range(3)] == pytest.approx([0.01, 0.19, 1])
    ten = (0.0,) * 6 + (0.5,) * 4
    verdict = BesideRandom("late half", {ONE: 0.2, OTHER: 0.6}, {ONE: ten, OTHER: ten}).verdict()
    assert verdict.measured == pytest.approx(2 * binomial_p(6, 10))
    assert verdict.passed is False
    assert verdict.remark == "no more than random links (cut one at a time): a1.h1@END → logits@END"


def test_links_with_few_random_ones_of_their_kind_are_not_judged():
    enough, few = (0.0,) * FEWEST, (1.0,) * (FEWEST - 1)
    some = BesideRandom("late half", {ONE: 1, OTHER: 0}, {ONE: enough, OTHER: few}).verdict()
    assert (some.passed, some.remark) == (True, "1 of 2 links have too few random links of their kind")
    none = BesideRandom("late half", {OTHER: 0}, {OTHER: few}).verdict()
    assert none.passed is None
    assert none.remark.startswith("too few random links")
