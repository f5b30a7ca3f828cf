"""Which validation test passes the planted circuits, and which catches a node too few, one too many, one swapped.

    python -m tests.helpers.calibration

prints the table. A cell says what became of the test's verdict; a dash, that the model is too small to judge by.
"""

from __future__ import annotations

from functools import cache

from benchmarks.tables import table
from path_patching.circuits.circuit import Circuit, full_circuit
from path_patching.circuits.validation.completeness import completeness
from path_patching.circuits.validation.faithfulness import divergence, divergence_scale, faithfulness
from path_patching.circuits.validation.matched import matched
from path_patching.circuits.validation.measuring import Scale
from path_patching.circuits.validation.minimality import minimality
from path_patching.circuits.validation.verdicts import Verdict
from path_patching.engine import Engine
from path_patching.paths import PathSet
from tests.helpers.engines import make_engine
from tests.helpers.planted import END, SHAPES, YEARS, YY, Planted, planted_sentences
from utils import greater_than

VARIANTS = ("planted", "too few", "too many", "swapped")
CIRCUITS = 110  # at random; a bar of 0.01 needs 99
WORDS = {True: "passed", False: "failed", None: "–"}


@cache
def planted(shape: str) -> Planted:
    return SHAPES[shape]()


@cache
def engine_of(shape: str, engine_name: str = "torch") -> Engine:
    return make_engine(engine_name, planted(shape).model, planted_sentences())


def full(circuit: Circuit) -> PathSet:
    return full_circuit(circuit, YY, END)


@cache
def verdicts(shape: str, variant: str, engine_name: str = "torch") -> tuple[Verdict, ...]:
    """What the tests say of a circuit alone, each bar once."""
    engine, paths = engine_of(shape, engine_name), full(planted(shape).variants[variant])
    scale = Scale.of(engine, greater_than(YEARS))
    return (
        *faithfulness(engine, scale, paths, variant).verdicts(),
        *divergence(engine, divergence_scale(engine), paths, variant).verdicts(),
        *minimality(engine, scale, paths, YY, END, variant).verdicts(),
        *completeness(engine, scale, paths, YY, END, variant).verdicts(),
    )


@cache
def random_verdicts(shape: str, variant: str) -> tuple[Verdict, ...]:
    """What random circuits of its shape say of a circuit, alone and of its complement."""
    engine = engine_of(shape)
    scale = Scale.of(engine, greater_than(YEARS))
    circuit = planted(shape).variants[variant]
    return matched(engine, scale, circuit, full, "any layers", variant, count=CIRCUITS).verdicts()


def calibration() -> str:
    """The table, a row a circuit and a column a bar."""
    found = {(shape, variant): verdicts(shape, variant) for shape in SHAPES for variant in VARIANTS}
    bars = [verdict.bar for verdict in next(iter(found.values()))]
    rows = [
        [
            shape,
            variant,
            *(WORDS[each.passed] for each in verdicts(shape, variant)),
            *(WORDS[each.passed] for each in random_verdicts(shape, variant)),
        ]
        for shape, variant in found
    ]
    return table(["planted shape", "circuit", *bars, "random, alone", "random, complement"], rows)


if __name__ == "__main__":
    print(calibration())
