"""On a random model, in which everything acts on everything, both engines measure the same numbers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch

from path_patching.bootstrap import Estimate
from path_patching.circuits.circuit import LOGITS, full_circuit, late_half
from path_patching.circuits.papers_shape import in_papers_shape
from path_patching.circuits.validation.counterfactuals import Scheme, compare
from path_patching.circuits.validation.dissociation import Ability, dissociation, disturbance
from path_patching.circuits.validation.faithfulness import divergence_scale
from path_patching.circuits.validation.interactions import interactions, mlp_shares
from path_patching.circuits.validation.measuring import Scale
from path_patching.circuits.validation.size_curve import on_curve, ranked_nodes, size_curve
from path_patching.circuits.validation.strength import strengths
from path_patching.engine import Engine
from path_patching.paths import Node
from tests.helpers.engines import CLASSES, make_engine
from tests.helpers.setups import SETUPS

SETUP = SETUPS["with eos"]()
YY, END = SETUP.yy_position, SETUP.end
MINE = in_papers_shape("mine", ("m1", "m2"), ("a0.h1", "a1.h0"), (LOGITS, "m1", "m2"), ("m0",), (), ("k", "v"), ("q",))
MEMBERS = {f"{name}@END": Node.named(name, END) for name in ("a0.h1", "a1.h0", "m1", "m2")}


@cache
def engine_of(name: str) -> Engine:
    return make_engine(name, SETUP.model, SETUP.sentences)


@cache
def signs() -> torch.Tensor:
    """1 for the answers that are more probable after the clean sentence than after its twin, else −1."""
    engine = engine_of("torch")
    return (engine.clean() - engine.corrupted()).sign()  # (N, A)


def metric(probs: torch.Tensor) -> torch.Tensor:
    """The probability of those answers minus that of the others, (N, A) to (N,): as far apart as twins are."""
    return (probs * signs()).sum(1)


def values(found: object) -> Iterator[float]:
    """Every number of what a test measured, but for the ends of intervals."""
    if isinstance(found, Estimate):
        yield found.value
    elif isinstance(found, torch.Tensor):
        yield from found.flatten().tolist()
    elif isinstance(found, (int, float)):
        yield float(found)
    elif isinstance(found, dict):
        for each in found.values():
            yield from values(each)
    elif isinstance(found, tuple | list):
        for each in found:
            yield from values(each)
    elif hasattr(found, "__dataclass_fields__"):
        yield from values(vars(found))


def counterfactuals(engine: Engine, scale: Scale) -> object:
    parts = {"late half": late_half(MINE, END), "full circuit": full_circuit(MINE, YY, END)}
    schemes = [Scheme("01", engine), Scheme("mean", engine, "mean"), Scheme("zero", engine, "zero")]
    return compare(schemes, scale, MINE, parts, END)


def curve(engine: Engine, scale: Scale) -> object:
    order = ranked_nodes(engine, metric, END)
    return size_curve(engine, scale, order, END), on_curve(engine, scale, order, MINE, END)


def abilities(engine: Engine, scale: Scale) -> object:
    table = dissociation([Ability("mine", engine, scale, MINE, END)], random.Random(0), draws=2)
    return table, disturbance(engine, divergence_scale(engine), {"mine": MINE}, END)


TESTS: dict[str, Callable[[Engine, Scale], object]] = {
    "counterfactuals": counterfactuals,
    "size curve": curve,
    "strength": lambda engine, scale: strengths(engine, scale, late_half(MINE, END), MEMBERS, "late half"),
    "dissociation": abilities,
    "interactions": lambda engine, scale: interactions(engine, scale, late_half(MINE, END), MEMBERS),
    "shares of MLPs": lambda engine, scale: mlp_shares(engine, scale, MINE, END),
}


@pytest.mark.parametrize("test", TESTS)
def test_engines_agree_on_every_number(test):
    one, other = ([*values(TESTS[test](engine, Scale.of(engine, metric)))] for engine in map(engine_of, CLASSES))
    assert len(one) >= 2
    assert one == pytest.approx(other, abs=1e-5)
