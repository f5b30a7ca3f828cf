from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch

from dataset import NOUNS_FILE, YearDataset, get_valid_years, year_indices
from path_patching.circuits.circuit import LOGITS, Circuit, full_circuit, late_half
from path_patching.circuits.papers_shape import in_papers_shape
from path_patching.circuits.random_circuits import random_circuit
from path_patching.circuits.search import (
    ENOUGH,
    FEW,
    MOST,
    NAME,
    THRESHOLDS,
    Found,
    find_at_end,
    find_circuit,
    find_members,
)
from path_patching.engine import Engine, Request, Sentences
from path_patching.errors import UserError
from path_patching.gpt2.model import Architecture, Model, random_model
from path_patching.gpt2.tensor_cache import load_model
from path_patching.gpt2.tokenizer import load_tokenizer
from path_patching.paths import Node, PathSet
from path_patching.sweeps import remembered_effects
from reproduction.paper import PAPER
from tests.helpers.engines import each_engine, make_engine
from tests.helpers.planted import (
    ANSWER,
    AT_BEFORE_END,
    AT_END,
    AT_YY,
    CHAIN,
    END,
    JUNK,
    LARGE,
    MOVED,
    PREPARED,
    SHIFT,
    SIZES,
    YEAR,
    YEARS,
    YY,
    Tensors,
    constant_head,
    copying_mlp,
    embed,
    first,
    moving_head,
    planted_model,
    planted_sentences,
    unembed,
)
from utils import greater_than, prob_diff


def a_chain_with_decoys(_: Tensors) -> None:
    """m2, a1.h1 through its values, m0: what `planted_model` has."""


def a_head_that_reads_the_embeddings(tensors: Tensors) -> None:
    """embeds@YY ──v──▶ a0.h1@END ──in──▶ logits: no MLP at all."""
    moving_head(tensors, "a0", 1, YEAR, ANSWER, to=AT_END)
    constant_head(tensors, "a0", 0, SHIFT, ANSWER)


def two_nodes_at_yy(tensors: Tensors) -> None:
    """embeds@YY ──▶ a0.h0@YY ──▶ m0@YY ──v──▶ a1.h1@END ──▶ m1@END ──▶ logits."""
    moving_head(tensors, "a0", 0, YEAR, PREPARED, to=AT_YY)
    copying_mlp(tensors, "m0", PREPARED, JUNK)
    moving_head(tensors, "a1", 1, JUNK, MOVED, to=AT_END)
    constant_head(tensors, "a1", 0, SHIFT, MOVED)
    copying_mlp(tensors, "m1", MOVED, ANSWER)


def two_mlps_at_end(tensors: Tensors) -> None:
    """embeds@YY ──v──▶ a0.h1@END ──▶ m0@END ──▶ m2@END ──▶ logits, while the head feeds nothing else."""
    moving_head(tensors, "a0", 1, YEAR, MOVED, to=AT_END)
    copying_mlp(tensors, "m0", MOVED, PREPARED)
    constant_head(tensors, "a1", 0, SHIFT, PREPARED)
    copying_mlp(tensors, "m2", PREPARED, ANSWER)


def one_half_direct_and_one_through_an_mlp(tensors: Tensors) -> None:
    """Half of the year by a0.h1 to the logits, half by a1.h1 through m1; one reads embeddings, the other m0."""
    moving_head(tensors, "a0", 1, YEAR, ANSWER, to=AT_END)
    copying_mlp(tensors, "m0", YEAR, PREPARED)
    moving_head(tensors, "a1", 1, PREPARED, MOVED, to=AT_END)
    copying_mlp(tensors, "m1", MOVED, ANSWER)
    for name in ("a0.w.o_arr", "m1.w.proj_out_arr"):
        tensors[name] /= 2
    constant_head(tensors, "a1", 0, SHIFT, ANSWER)


def by_way_of_another_position(tensors: Tensors) -> None:
    """embeds@YY ──▶ a0.h1@BEFORE_END ──▶ a1.h1@END ──▶ logits."""
    moving_head(tensors, "a0", 1, YEAR, PREPARED, to=AT_BEFORE_END)
    moving_head(tensors, "a1", 1, PREPARED, ANSWER, to=AT_END)
    tensors["a1.w.k_arr"][1, 0] = 0
    tensors["a1.w.k_arr"][1, 0, first(AT_BEFORE_END)] = 1.0
    constant_head(tensors, "a0", 0, SHIFT, ANSWER)


def found(mlps: str, heads: str, heads_feed: str, first_below: str, further_below: str = "") -> Circuit:
    parts = (tuple(names.split()) for names in (mlps, heads, heads_feed, first_below, further_below))
    return in_papers_shape(NAME, *parts, followed=("v",), whole=(), studied=tuple(heads.split()))


PLANTED: dict[Callable[[Tensors], None], Circuit] = {
    a_chain_with_decoys: found("m2", "a1.h1", "m2", "m0"),
    a_head_that_reads_the_embeddings: found("", "a0.h1", LOGITS, "embeds"),
    two_nodes_at_yy: found("m1", "a1.h1", "m1", "m0", "a0.h0"),
    two_mlps_at_end: found("m0 m2", "a0.h1", "m0", "embeds"),
    one_half_direct_and_one_through_an_mlp: found("m1", "a0.h1 a1.h1", "m1 logits", "embeds m0"),
}


@cache
def model_of(plant: Callable[[Tensors], None]) -> Model:
    if plant is a_chain_with_decoys:
        return planted_model()
    tensors = {name: torch.zeros(shape) for name, shape in SIZES.tensor_shapes().items()}
    for name, tensor in tensors.items():
        if name.endswith("ln.w.scale_arr"):
            tensor.fill_(LARGE / 3)
    embed(tensors)
    plant(tensors)
    unembed(tensors)
    return Model(plant.__name__, SIZES, tensors, plant.__name__)


def engine_of(engine_name: str, plant: Callable[[Tensors], None]) -> Engine:
    return make_engine(engine_name, model_of(plant), planted_sentences())


def difference(engine: Engine, start_yy: torch.Tensor, asked: Request = Request.clean()) -> float:  # noqa: B008
    return prob_diff(engine.evaluate([asked])[0], start_yy).mean().item()


@each_engine
@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_circuit_is_found_exactly(engine_name, plant):
    engine = engine_of(engine_name, plant)
    assert difference(engine, YEARS) > 0.9
    result = find_circuit(engine, greater_than(YEARS), YY, END)
    expected = PLANTED[plant]
    assert set(result.circuit.studied) == set(expected.studied)
    assert result.circuit == replace(expected, studied=result.circuit.studied)
    assert result.recovered == pytest.approx(1, abs=1e-3)
    without = difference(engine, YEARS, Request.patch(full_circuit(result.circuit, YY, END)))
    assert without == pytest.approx(difference(engine, YEARS, Request.corrupted()), abs=1e-3)


def test_the_planted_chain_is_found_path_by_path():
    m2, head, m0, embeds = CHAIN
    chain = PathSet.at(Node.logits(END)).extend([m2]).extend([head]).extend([m0], "v").extend([embeds])
    result = find_circuit(engine_of("torch", a_chain_with_decoys), greater_than(YEARS), YY, END)
    assert full_circuit(result.circuit, YY, END) == chain


@pytest.mark.parametrize("threshold", [0.2, 0.01, 1e-4])
def test_the_planted_chain_does_not_depend_on_the_threshold(threshold):
    result = find_circuit(engine_of("torch", a_chain_with_decoys), greater_than(YEARS), YY, END, threshold)
    assert result.circuit == PLANTED[a_chain_with_decoys]
    assert result.tried == {threshold: pytest.approx(1, abs=1e-3)}
    assert result.threshold == pytest.approx(threshold * result.clean)


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_metric_whose_clean_value_is_negative_finds_the_same(plant):
    """A share of a negative value is a negative threshold, which every effect reaches."""
    engine = engine_of("torch", plant)

    def negative(probs: torch.Tensor) -> torch.Tensor:
        return -greater_than(YEARS)(probs)

    expected, found = (find_circuit(engine, metric, YY, END) for metric in (greater_than(YEARS), negative))
    assert found.clean == -expected.clean < 0
    assert (found.circuit, found.threshold, found.recovered) == (
        expected.circuit,
        expected.threshold,
        pytest.approx(expected.recovered),
    )
    positive, effects = (remembered_effects(engine, metric) for metric in (greater_than(YEARS), negative))
    assert find_members(effects, YY, END, 0.02) == find_members(positive, YY, END, 0.02)
    assert find_at_end(effects, YY, END, 0.02) == find_at_end(positive, YY, END, 0.02)


def test_a_threshold_may_be_any_real_number():
    """A fraction could not be printed."""
    engine, metric = engine_of("torch", a_chain_with_decoys), greater_than(YEARS)
    expected = find_circuit(engine, metric, YY, END, 0.125)
    assert find_circuit(engine, metric, YY, END, Fraction(1, 8)) == expected
    assert find_circuit(engine, metric, YY, END, np.float32(0.125)) == expected


@pytest.mark.parametrize(
    "threshold", [0, 0.0, -1, float("nan"), float("inf"), 10**400, True, "0.02", torch.tensor(0.02)]
)
def test_a_threshold_that_is_no_share_is_one_line(threshold):
    engine = engine_of("torch", a_chain_with_decoys)
    effects = remembered_effects(engine, greater_than(YEARS))
    for ask in (
        lambda: find_circuit(engine, greater_than(YEARS), YY, END, threshold),
        lambda: find_members(effects, YY, END, threshold),
        lambda: find_at_end(effects, YY, END, threshold),
    ):
        with pytest.raises(UserError, match=r"^a threshold of .*: give a share of the clean value, as 0\.02$"):
            ask()


def test_every_decision_is_recorded_with_the_effect_behind_it(capsys):
    engine = engine_of("torch", a_chain_with_decoys)
    described = json.loads(json.dumps(find_circuit(engine, greater_than(YEARS), YY, END).as_json()))
    assert re.search(
        r" recover [\d.]+ % of clean; with their inputs followed to YY, [\d.]+ %$", capsys.readouterr().out
    )
    threshold = described["threshold"]
    for step in described["steps"]:
        assert all(abs(effect) >= threshold for effect in step["kept"].values())
        assert all(abs(effect) < threshold for effect in step["left out"].values())
    kept = {step["asked"]: list(step["kept"]) for step in described["steps"]}
    assert kept == {
        "nodes at END → logits": ["m2"],
        "nodes at END → m2": ["a1.h1"],
        "the kept heads → each of their readers": ["m2"],
        "everything → each input of the heads": ["v"],
        "nodes at YY → v of the heads": ["m0"],
        "nodes at YY → m0 at YY": ["embeds"],
    }
    candidates = {step["asked"]: set(step["kept"]) | set(step["left out"]) for step in described["steps"]}
    everything = {f"a{layer}.h{head}" for layer in range(3) for head in range(2)} | {"m0", "m1", "m2"}
    assert candidates["nodes at END → logits"] == everything
    assert candidates["nodes at END → m2"] == everything - {"m2"}
    assert candidates["nodes at YY → m0 at YY"] == {"a0.h0", "a0.h1", "embeds"}
    effect = described["steps"][1]["kept"]["a1.h1"]
    paths = PathSet.at(Node.logits(END)).extend([Node.mlp(2, END)]).extend([Node.head(1, 1, END)])
    clean = difference(engine, YEARS)
    assert effect == pytest.approx(difference(engine, YEARS, Request.patch(paths)) - clean, abs=1e-6)
    assert described["clean"] == pytest.approx(clean)


def test_inputs_that_come_from_no_node_at_yy_are_taken_whole(capsys):
    """The head reads the year where another head has moved it to: the position before END."""
    engine = engine_of("torch", by_way_of_another_position)
    circuit = find_circuit(engine, greater_than(YEARS), YY, END).circuit
    assert (circuit.heads, circuit.mlps) == (("a1.h1",), ())
    assert [str(link) for link in circuit.links] == ["everything →v a1.h1@END", "a1.h1@END → logits@END"]
    assert "; none of their inputs reads YY, so all are taken whole: " in capsys.readouterr().out
    alone = difference(engine, YEARS, Request.isolate(full_circuit(circuit, YY, END)))
    assert alone == pytest.approx(difference(engine, YEARS), abs=1e-3)


def test_a_model_in_which_no_head_matters_is_one_line():
    tensors = {name: torch.zeros(shape) for name, shape in SIZES.tensor_shapes().items()}
    embed(tensors)
    unembed(tensors)
    engine = make_engine("torch", Model("mute", SIZES, tensors, "mute"), planted_sentences())
    with pytest.raises(UserError, match=r"no head of mute at END .* give a lower threshold") as error:
        find_circuit(engine, greater_than(YEARS), YY, END)
    assert "\n" not in str(error.value)


def test_a_model_of_which_most_matters_is_one_line_unless_a_threshold_is_given():
    """The clean value of such a model is next to nothing, and so is a share of it, which most of its nodes reach."""
    sizes = Architecture(2, 22, 44, 2, 40, 16, vocab_size=120)
    engine = make_engine("torch", random_model(sizes), planted_sentences())
    clean = difference(engine, YEARS)

    def almost_none(probs: torch.Tensor) -> torch.Tensor:
        return greater_than(YEARS)(probs) - (1 - 1e-4) * clean

    with pytest.raises(
        UserError, match=r"^4\d of the 46 nodes of .* at END .* the model does not do the task, or most"
    ) as error:
        find_circuit(engine, almost_none, YY, END)
    assert "\n" not in str(error.value)
    followed = find_circuit(engine, almost_none, YY, END, threshold=THRESHOLDS[0])
    assert len(followed.circuit.mlps + followed.circuit.heads) > FEW
    assert followed.circuit.lower
    assert followed.tried == {THRESHOLDS[0]: followed.recovered}


def test_sweeps_that_are_there_already_are_not_made_again(monkeypatch):
    engine = engine_of("torch", a_chain_with_decoys)
    sweeps = remembered_effects(engine, greater_than(YEARS))
    result = find_circuit(engine, greater_than(YEARS), YY, END, sweeps=sweeps)
    monkeypatch.setattr(engine, "sweep", None)
    assert find_circuit(engine, greater_than(YEARS), YY, END, sweeps=sweeps) == result


@each_engine
@pytest.mark.parametrize("n_layers", [1, 2])
def test_a_circuit_of_a_random_model_fits_it(engine_name, n_layers):
    sizes = Architecture(n_layers, n_heads=2, d_model=8, d_head=4, d_mlp=16, n_positions=8, vocab_size=120)
    clean = torch.randint(0, 100, (6, 7), generator=torch.Generator().manual_seed(n_layers))
    corrupted = clean.clone()
    corrupted[:, 3] = 1
    engine = make_engine(engine_name, random_model(sizes), Sentences(clean, corrupted, torch.arange(100)))
    result = find_circuit(engine, greater_than(clean[:, 3]), 3, 6)
    assert result.circuit.heads
    engine.isolate(full_circuit(result.circuit, 3, 6))  # raises if a node is not in the model


@cache
def standin() -> tuple[Engine, YearDataset, Found]:
    tokenizer = load_tokenizer()
    dataset = YearDataset(get_valid_years(tokenizer), 97, NOUNS_FILE, tokenizer)
    sentences = Sentences(dataset.good_toks, dataset.bad_toks, year_indices())
    engine = make_engine("torch", load_model("standin"), sentences)
    return engine, dataset, find_circuit(engine, greater_than(dataset.years_YY), dataset.yy_position, dataset.end)


@pytest.mark.slow
def test_the_stand_ins_circuit_is_small_and_suffices():
    engine, dataset, result = standin()
    clean = difference(engine, dataset.years_YY)
    late, full = late_half(result.circuit, dataset.end), full_circuit(result.circuit, dataset.yy_position, dataset.end)
    for paths in (late, full):
        assert difference(engine, dataset.years_YY, Request.isolate(paths)) >= 0.8 * clean
    assert result.recovered == pytest.approx(difference(engine, dataset.years_YY, Request.isolate(full)) / clean)
    n_nodes = engine.model.architecture.n_nodes
    assert len(result.circuit.mlps + result.circuit.heads) <= n_nodes / 3
    assert len(result.circuit.lower) <= n_nodes / 3


@pytest.mark.slow
def test_the_stand_ins_circuit_is_the_one_that_was_trained_in():
    _, _, result = standin()
    found, intended = {*result.circuit.mlps, *result.circuit.heads}, {*PAPER.mlps, *PAPER.heads}
    assert len(found & intended) >= 10
    assert len(found - intended) <= 3


@pytest.mark.slow
def test_the_threshold_is_the_largest_with_which_the_circuit_suffices():
    _, _, result = standin()
    assert list(result.tried) == list(THRESHOLDS[: len(result.tried)])
    assert [recovered >= ENOUGH for recovered in result.tried.values()] == [False] * (len(result.tried) - 1) + [True]
    assert 0 < MOST <= 1 / 3


@pytest.mark.slow
def test_the_stand_ins_circuit_beats_random_ones_of_its_shape():
    engine, dataset, result = standin()
    rng = random.Random(0)
    drawn = [random_circuit(result.circuit, engine.model.architecture, rng) for _ in range(100)]
    own, *others = (
        difference(engine, dataset.years_YY, Request.isolate(late_half(circuit, dataset.end)))
        for circuit in (result.circuit, *drawn)
    )
    assert sum(other < own for other in others) >= 99
