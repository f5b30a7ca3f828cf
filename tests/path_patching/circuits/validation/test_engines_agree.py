"""Both engines give the same numbers, to 1e-5, on a random model whose circuit has no meaning but effects."""

from __future__ import annotations

from functools import cache

import pytest

from path_patching.circuits.circuit import full_circuit, late_half
from path_patching.circuits.papers_shape import in_papers_shape
from path_patching.circuits.validation.completeness import completeness
from path_patching.circuits.validation.faithfulness import divergence, divergence_scale, faithfulness
from path_patching.circuits.validation.matched import matched
from path_patching.circuits.validation.measuring import Scale
from path_patching.circuits.validation.minimality import minimality
from path_patching.engine import Engine
from tests.helpers.engines import CLASSES, make_engine
from tests.helpers.setups import SETUPS

SAME = 1e-5
CIRCUIT = in_papers_shape(
    "random",
    mlps=("m1", "m2"),
    heads=("a1.h2", "a2.h1"),
    heads_feed=("logits", "m1", "m2"),
    first_below=("m0", "a0.h1"),
    further_below=("m0",),
)


@cache
def measured_by(engine_name: str) -> tuple[Engine, Scale]:
    setup = SETUPS["with eos"]()
    engine = make_engine(engine_name, setup.model, setup.sentences)
    clean, corrupted = (setup.reference.probabilities(None, inside) for inside in ("corrupted", "clean"))
    raised = (clean > corrupted).double()  # so that every sentence has a span, and none a metric of 0
    return engine, Scale.of(engine, lambda probs: (probs * raised).sum(1))


def numbers(engine_name: str) -> dict[str, float]:
    """What every test finds of the circuit on an engine, by name."""
    setup = SETUPS["with eos"]()
    yy, end = setup.yy_position, setup.end
    engine, scale = measured_by(engine_name)
    late, full = late_half(CIRCUIT, end), full_circuit(CIRCUIT, yy, end)
    faithful = faithfulness(engine, scale, full, "full")
    apart = divergence(engine, divergence_scale(engine), full, "full")
    needed = minimality(engine, scale, late, yy, end, "late")
    complete = completeness(engine, scale, late, yy, end, "late", random_sets=2)
    random = matched(engine, scale, CIRCUIT, lambda drawn: late_half(drawn, end), "same layers", "late", count=2)
    found = {name: getattr(faithful, name) for name in ("normalized", "complement", "ratio")}
    found |= {f"KL {name}": getattr(apart, name) for name in ("alone", "nothing", "left")}
    found |= {f"without {node.name}": node.alone for node in needed.nodes}
    found |= {f"without the class of {node.name}": node.given_class for node in needed.nodes}
    found |= {f"without {each.link}": each.alone for each in needed.links}
    found |= {f"gap without {gap.nodes}": gap.gap for gap in complete.gaps}
    ends = {f"{name}, {end}": getattr(each, end) for name, each in found.items() for end in ("value", "low", "high")}
    drawn = {f"random {place}": value for place, value in enumerate((*random.alone.tolist(), *random.without.tolist()))}
    return ends | drawn | {"p": random.p_alone, "p of complements": random.p_without}


def test_engines_agree_on_every_number():
    ours, theirs = (numbers(engine_name) for engine_name in CLASSES)
    assert ours == pytest.approx(theirs, abs=SAME)
    assert len(ours) > 90
    assert sum(abs(value) > 100 * SAME for value in ours.values()) > 50, "few are too small to compare"
