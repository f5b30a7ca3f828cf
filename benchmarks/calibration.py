"""Do the tests of a circuit work? Which pass planted circuits, and which catch a node too few, too many, or swapped?

python benchmarks/calibration.py

In each of some models a circuit was planted by hand (`tests/helpers/planted.py`), so that it is known what is right.
The planted circuit should pass every test; of the wrong ones, each should fail those that ask for what is wrong with
it. The first table says in which of the models that is so, of those in which there is a verdict: a model may be too
small, a patch too weak to judge by. The second says of each model what is concluded: which tests fail. Random circuits
are drawn beside the planted one alone.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path

# This file's folder, where Python looks first, would hide the package `path_patching` behind a file of its own.
sys.path.insert(0, str(Path(__file__).parents[1]))

from reproduction.command_line import prepare

import torch

from benchmarks.tables import table
from path_patching.bootstrap import sentence_weights
from path_patching.circuits.circuit import Circuit, full_circuit, late_half
from path_patching.circuits.validation.completeness import completeness
from path_patching.circuits.validation.counterfactuals import Scheme, compare
from path_patching.circuits.validation.dissociation import Ability, dissociation
from path_patching.circuits.validation.faithfulness import divergence, divergence_scale, faithfulness
from path_patching.circuits.validation.matched import matched
from path_patching.circuits.validation.measuring import Scale
from path_patching.circuits.validation.members import members
from path_patching.circuits.validation.minimality import minimality
from path_patching.circuits.validation.random_links import beside_random_links
from path_patching.circuits.validation.size_curve import halves, on_curve, ranked_nodes
from path_patching.circuits.validation.stability import Stability, stability
from path_patching.circuits.validation.strength import strengths
from path_patching.circuits.validation.verdicts import Verdict
from path_patching.engine import Engine, Sentences
from path_patching.paths import PathSet
from path_patching.sweeps import remembered_effects
from path_patching.torch_engine.engine import TorchEngine
from tests.helpers.planted import END, SHAPES, THE, YEARS, YY, Planted, planted_sentences
from utils import greater_than, log_odds

VARIANTS = ("planted", "too few", "too many", "swapped")
CIRCUITS = 100  # at random; a bar of 0.01 needs 99
OTHER_YEARS = torch.tensor([10, 5, 20, 15])  # early enough for the bell around them to be before YY, in part
NOUN_POSITION = 2
DRAWS, THRESHOLDS = 5, (0.02,)  # of the sentences, and of the search
METRIC = greater_than(YEARS)
LOG_ODDS = "log odds"
MANY = torch.arange(25, 61)  # YYs, for what four sentences cannot tell
FEW = {"chain, one sentence": 1, "chain, four YYs": 4}


@cache
def planted(shape: str) -> Planted:
    """The model of a shape, with the circuit that was planted in it, and wrong ones."""
    return SHAPES[shape]()


@cache
def engine_of(shape: str) -> Engine:
    """That model on the four sentences and their 01 twins."""
    return TorchEngine(planted(shape).model, planted_sentences(), device="cpu")


@cache
def scale_of(shape: str) -> Scale:
    """The scale of the probability difference on them."""
    return Scale.of(engine_of(shape), METRIC)


def full(circuit: Circuit) -> PathSet:
    """A circuit whole, down to the embeddings."""
    return full_circuit(circuit, YY, END)


@cache
def verdicts(shape: str, variant: str) -> tuple[Verdict, ...]:
    """What all tests but those by random circuits say of a circuit of a shape."""
    engine, circuit = engine_of(shape), planted(shape).variants[variant]
    of_searches = searches_of(shape).verdicts(circuit)
    here = asked(engine, scale_of(shape), circuit, YEARS, variant)
    return (*here, *of_many(engine, circuit, variant), *beside_the_curve(engine, circuit), *of_searches)


def asked(engine: Engine, scale: Scale, circuit: Circuit, years: torch.Tensor, variant: str) -> tuple[Verdict, ...]:
    """What those tests say that are asked of all sentences together, whose years are (N,)."""
    paths, late = full(circuit), late_half(circuit, END)
    compared = compare(schemes(engine), scale, circuit, {variant: paths}, END)
    graded = strengths(engine, scale, late, members(late, YY, END), variant)
    own, *_ = dissociation([Ability("years", engine, scale, circuit, END)], random.Random(0)).verdicts()
    needed = minimality(engine, scale, paths, YY, END, variant)
    odds = Scale.of(engine, partial(log_odds, start_yy=years), scale.clusters, scale.kinds)
    return (
        *faithfulness(engine, scale, paths, variant).verdicts(),
        faithfulness(engine, odds, paths, LOG_ODDS).verdict(),
        *divergence(engine, divergence_scale(engine, scale.clusters, scale.kinds), paths, variant).verdicts(),
        *needed.verdicts(),
        beside_random_links(engine, scale, circuit, full, needed, YY, END).verdict(),
        *completeness(engine, scale, paths, YY, END, variant).verdicts(),
        *(verdict for each in compared for verdict in each.verdicts()),
        *(verdict for each in graded for verdict in each.verdicts()),
        own,
    )


def of_many(engine: Engine, circuit: Circuit, variant: str) -> tuple[Verdict, ...]:
    """What is asked sentence by sentence, on a sentence of each of many YYs."""
    engine = engine.like(planted_sentences(MANY))
    every = faithfulness(engine, Scale.of(engine, greater_than(MANY)), full(circuit), variant).verdicts()
    return tuple(verdict for verdict in every if verdict.bar in ("equivalence", "independence"))


@cache
def of_few(count: int) -> tuple[Verdict, ...]:
    """What is said of the chain on its first sentences, each of a YY of its own, which intervals draw again."""
    rows, circuit = slice(count), planted("chain").circuit
    engine = engine_of("chain").like(engine_of("chain").sentences.rows(rows))
    scale = Scale.of(engine, greater_than(YEARS[rows]), [torch.arange(count)], ("YYs",))
    drawn = matched(engine, scale, circuit, full, "any layers", "planted", count=CIRCUITS)
    return (*asked(engine, scale, circuit, YEARS[rows], "planted"), *drawn.verdicts())


@cache
def random_verdicts(shape: str) -> tuple[Verdict, ...]:
    """What random circuits say of the planted one, alone and of its complement."""
    own = planted(shape).circuit
    return matched(engine_of(shape), scale_of(shape), own, full, "any layers", "planted", count=CIRCUITS).verdicts()


def schemes(engine: Engine) -> list[Scheme]:
    """The counterfactuals that ask what the planted circuits answer: which year it is."""
    return [
        Scheme("01", engine),
        Scheme("another YY", with_twins(engine, YY, OTHER_YEARS[: len(engine.sentences)])),
        Scheme("another noun", with_twins(engine, NOUN_POSITION, THE), control=True),
        Scheme("mean ablation", engine, "mean"),
    ]


def with_twins(engine: Engine, position: int, tokens: torch.Tensor | int) -> Engine:
    """The engine on twins that differ from the clean sentences at one position alone."""
    clean, answers = engine.sentences.clean, engine.sentences.answers
    twins = clean.clone()
    twins[:, position] = tokens
    return engine.like(Sentences(clean, twins, answers))


def beside_the_curve(engine: Engine, circuit: Circuit) -> tuple[Verdict, ...]:
    """The circuit beside as many nodes in the order of their effects, ranked on one half of the sentences."""
    ranking, held_out = halves(len(YEARS))
    order = ranked_nodes(engine.like(engine.sentences.rows(ranking)), greater_than(YEARS[ranking]), END)
    evaluated = engine.like(engine.sentences.rows(held_out))
    scale = Scale.of(evaluated, greater_than(YEARS[held_out]))
    return on_curve(evaluated, scale, order, circuit, END).verdicts()


@cache
def searches_of(shape: str) -> Stability:
    """The search by rule in the model of a shape, on draws of the sentences."""
    weights = sentence_weights(len(YEARS), resamples=DRAWS)
    return stability(remembered_effects(engine_of(shape), METRIC), weights, YY, END, THRESHOLDS)


@cache
def columns(shape: str, variant: str) -> dict[str, bool | None]:
    """What became of a circuit by test: passed everything that was judged, or not; None if nothing was."""
    every = verdicts(shape, variant)
    if variant == "planted":  # a hundred circuits of the shape of each take longer than all else
        every += random_verdicts(shape)
    return by_test(every)


def by_test(verdicts: Iterable[Verdict]) -> dict[str, bool | None]:
    """Whether all of a test's verdicts passed that were judged; None if none was."""
    found: dict[str, list[bool]] = {}
    for verdict in verdicts:
        name = f"{verdict.bar}, {LOG_ODDS}" if verdict.subject == LOG_ODDS else verdict.bar
        found.setdefault(name, []).extend([] if verdict.passed is None else [verdict.passed])
    return {name: all(outcomes) if outcomes else None for name, outcomes in found.items()}


def calibration() -> str:
    """The table: a row a test, and in which models the planted circuit passes it, and each wrong one fails."""
    rows = []
    for name in columns(next(iter(SHAPES)), "planted"):
        by_variant = {variant: {shape: columns(shape, variant).get(name) for shape in SHAPES} for variant in VARIANTS}
        rows.append([f"`{name}`", *(where(found, variant == "planted") for variant, found in by_variant.items())])
    return table(["test", "planted: passed", *(f"{variant}: failed" for variant in VARIANTS[1:])], rows)


def conclusions() -> str:
    """The table: a row a model, and which tests fail of the planted circuit and of each wrong one."""
    rows = [[shape, *(failed(columns(shape, variant)) for variant in VARIANTS)] for shape in SHAPES]
    rows += [[words, failed(by_test(of_few(count))), "", "", ""] for words, count in FEW.items()]
    return table(["model", *VARIANTS], rows)


def failed(outcomes: dict[str, bool | None]) -> str:
    """The tests that fail, or that none does, or that none could be judged."""
    if all(passed is None for passed in outcomes.values()):
        return "nothing is judged"
    return ", ".join(f"`{name}`" for name, passed in outcomes.items() if passed is False) or "nothing"


def where(outcomes: dict[str, bool | None], wanted: bool) -> str:
    """In which models a test said what is wanted, of those in which it could say anything."""
    judged = [shape for shape, passed in outcomes.items() if passed is not None]
    if not judged:
        return "not judged"
    agreed = [shape for shape in judged if outcomes[shape] is wanted]
    if len(agreed) == len(judged):
        return f"all {len(judged)}"
    return ", ".join(agreed) or f"none of {len(judged)}"


def main(arguments: list[str] | None = None) -> None:
    """Print the tables."""
    prepare()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.parse_args(arguments)
    print(calibration())
    print()
    print(conclusions())


if __name__ == "__main__":
    main()
