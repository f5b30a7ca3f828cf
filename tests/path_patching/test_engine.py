"""What all engines share: the sentences, and the checks before anything is evaluated."""

from __future__ import annotations

import copy
import pickle
import sys
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from path_patching import paths as paths_module
from path_patching.engine import Data, Engine, Request, Sentences
from path_patching.errors import UserError
from path_patching.gpt2.model import Architecture, Model, random_model
from path_patching.paths import Node, PathSet, PathSetError
from tests.helpers.engines import make_engine

SIZES = Architecture(n_layers=2, n_heads=2, d_model=8, d_head=4, d_mlp=8, n_positions=6, vocab_size=30)
TOKENS = torch.arange(12).reshape(3, 4)
ANSWERS = torch.tensor([3, 5, 7, 11])
END = 3


def test_sentences_know_their_length_and_end():
    sentences = Sentences(TOKENS, TOKENS + 1, ANSWERS)
    assert (len(sentences), sentences.end) == (3, END)
    assert torch.equal(sentences.of("clean"), TOKENS)
    assert torch.equal(sentences.of("corrupted"), TOKENS + 1)


@pytest.mark.parametrize(
    ("clean", "corrupted"),
    [(TOKENS, TOKENS[:2]), (TOKENS, TOKENS[:, :2]), (TOKENS[0], TOKENS[0]), (TOKENS[:0], TOKENS[:0])],
)
def test_sentences_come_in_pairs(clean, corrupted):
    with pytest.raises(UserError, match=r"both be \(N, T\)"):
        Sentences(clean, corrupted, ANSWERS)


@pytest.mark.parametrize("rows", [torch.tensor([len(TOKENS)]), torch.ones(len(TOKENS) + 1, dtype=torch.bool), 1.5])
def test_rows_that_there_are_not_are_one_line(rows):
    with pytest.raises(UserError, match=rf"^rows of {len(TOKENS)} sentences are a slice, or a tensor of rows"):
        Sentences(TOKENS, TOKENS, TOKENS[0]).rows(rows)


@pytest.mark.parametrize("wrong", [TOKENS.tolist(), TOKENS.numpy(), None, TOKENS.to("meta"), TOKENS.to_sparse()])
def test_sentences_are_tensors(wrong):
    for name in ("clean", "corrupted", "answers"):
        given = {"clean": TOKENS, "corrupted": TOKENS, "answers": ANSWERS} | {name: wrong}
        with pytest.raises(UserError, match=f"^{name} tokens must be a tensor of token ids, not ") as error:
            Sentences(**given)
        assert "\n" not in str(error.value)


BYTES_A_PAIR = 1000
BYTES_A_RESULT = 8 * len(ANSWERS)


class Recording(Engine):
    """Computes no model: a sentence pair's result is the sum of its clean tokens, plus something for what was asked."""

    name = "recording"

    def __init__(self, model: Model, sentences: Sentences, memory_gb: float = 4.0) -> None:
        super().__init__(model, sentences, memory_gb=memory_gb)
        self.evaluated: list[int] = []  # how many requests at once
        self.batches: list[torch.Tensor] = []  # the clean tokens of each

    def _bytes_needed(self, pairs):
        return BYTES_A_PAIR * len(pairs)

    def _activations(self, clean, corrupted):
        self.batches.append(clean)
        return clean.sum(1, keepdim=True).expand(-1, 4).double()  # (B, A)

    def _weighted(self, batch, weights, neurons):
        return {"sum": weights @ batch}

    def _evaluate(self, batch, requests):
        self.evaluated.append(len(requests))
        for each in requests:
            mean = self._means["sum"] if each.outside == "mean" else 0
            yield batch + (100 * len(each.paths) if each.paths else 0) + 0.5 * (each.outside == "corrupted") + mean

    def _sweep(self, batch, receivers, senders, via, inside):
        return torch.stack([batch + 1000 * (1 + sender.layer) for sender in senders])

    def _mixed_values(self, batch, heads, data):
        return torch.stack([batch + 10 * head.layer + head.index for head in heads])

    def _writes(self, batch, nodes, data):
        return torch.stack([batch + node.position for node in nodes])

    def _residual(self, batch, reader, data):
        return batch + reader.layer

    def _attention(self, batch, heads, data):
        return torch.stack([batch + 10 * layer + head for layer, head in heads])


MODEL = random_model(SIZES)
LOGITS = PathSet.at(Node.logits(END))
HEAD = LOGITS.extend([Node.head(1, 0, END)])
SUMS = TOKENS.sum(1).double()  # (N,)


@pytest.fixture
def engine() -> Recording:
    return Recording(MODEL, Sentences(TOKENS, TOKENS + 1, ANSWERS))


def test_a_sweep_keeps_the_order_of_its_senders_and_fills_in_what_is_out_of_reach(engine):
    senders = [Node.mlp(0, 1), Node.head(1, 1, END), Node.mlp(1, END), Node.residual(0), Node.head(0, 1, 1)]
    swept = engine.sweep(HEAD, [*senders, senders[0]], "v")
    assert swept.shape == (6, 3, 4)
    # Stacked senders get a thousand for a layer; a whole input goes as a path set of its own; the rest is unpatched.
    assert (swept[:, 0, 0] - SUMS[0]).tolist() == [1000, 0, 0, 100, 1000, 1000]


@pytest.mark.parametrize(
    ("ask", "complaint"),
    [
        (lambda engine: engine.patch("a1.h0 → logits"), "'a1.h0 → logits' is no path set; PathSet.parse makes one"),
        (lambda engine: engine.patch(None), "None is no path set"),
        (lambda engine: engine.isolate(Node.mlp(1, END)), "is no path set"),
        (lambda engine: engine.isolate([HEAD]), "is no path set"),
        (lambda engine: engine.evaluate(Request.clean()), "several requests are asked for as a list"),
        (lambda engine: engine.evaluate([HEAD]), "several requests are asked for as a list"),
        (lambda engine: engine.sweep("logits", [Node.mlp(1, END)]), "'logits' is no path set"),
        (lambda engine: engine.sweep(LOGITS, Node.mlp(1, END)), "is no list of nodes"),
        (lambda engine: engine.sweep(LOGITS, "m1"), "'m1' is no list of nodes"),
        (lambda engine: engine.sweep(LOGITS, ["m1"]), "'m1' is no node"),
        (lambda engine: engine.writes(Node.mlp(1, END)), "is no list of nodes"),
        (lambda engine: engine.writes(["m1"]), "'m1' is no node"),
        (lambda engine: engine.writes(3), "3 is no list of nodes"),
        (lambda engine: engine.residual("m1"), "'m1' is no node"),
        (lambda engine: engine.attention("a1.h0"), "heads are given by layer and number"),
        (lambda engine: engine.attention(Node.head(1, 0, END)), "heads are given by layer and number"),
        (lambda engine: engine.attention([Node.head(1, 0, END)]), "heads are given by layer and number"),
        (lambda engine: engine.attention((1, 0)), "heads are given by layer and number"),
        (lambda engine: engine.attention([("1", "0")]), "whole numbers, not '1'"),
    ],
)
def test_what_is_of_another_type_is_one_line_and_never_runs(engine, ask, complaint):
    with pytest.raises(PathSetError, match=complaint) as error:
        ask(engine)
    assert "\n" not in str(error.value)
    assert engine.batches == []


def test_a_sweep_that_reaches_nothing_never_runs(engine):
    for senders in ([Node.mlp(1, END)], [Node.mlp(0, 1)], [Node.residual(1), Node.embeds(1)]):
        with pytest.raises(PathSetError, match=r"cannot be reached from a1\.h0@3"):
            engine.sweep(HEAD, senders, "q")
    with pytest.raises(PathSetError, match="no node is asked for"):
        engine.sweep(HEAD, [])
    assert engine.batches == []


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (Node.mlp(2, END), "2 layers"),
        (Node.head(0, 2, END), "2 heads"),
        (Node.neuron(1, 8, END), "8 neurons"),
    ],
)
def test_nodes_are_checked_before_anything_is_evaluated(engine, node, message):
    with pytest.raises(PathSetError, match=message):
        engine.patch(LOGITS.extend([node]))
    with pytest.raises(PathSetError, match=message):
        engine.sweep(LOGITS, [Node.mlp(0, END), node])
    with pytest.raises(PathSetError, match=message):
        engine.writes([node])
    assert engine.batches == []


def test_nodes_of_a_module_that_was_loaded_again_are_one_line(engine, monkeypatch):
    """They equal none of the engine's: it said that a path starts “at logits@3, not at logits@3”."""
    again = ModuleType(paths_module.__name__)
    monkeypatch.setitem(sys.modules, again.__name__, again)
    exec(
        compile(Path(paths_module.__file__).read_text(encoding="utf-8"), paths_module.__file__, "exec"), again.__dict__
    )
    # What a module's functions find once it was loaded again:
    monkeypatch.setattr(paths_module, "Node", again.Node)
    monkeypatch.setattr(paths_module, "PathSet", again.PathSet)
    head = again.PathSet.parse("a1.h0 → logits", end=END)
    for ask in (
        lambda: engine.patch(head),
        lambda: engine.sweep(head, [again.Node.mlp(0, END)]),
        lambda: engine.writes([again.Node.mlp(0, END)]),
    ):
        with pytest.raises(PathSetError, match="is of path_patching as it was loaded again; restart Python"):
            ask()


def test_path_sets_start_at_the_logits_at_end(engine):
    for paths in (PathSet.at(Node.mlp(1, END)), PathSet.at(Node.logits(2)).extend([Node.mlp(1, 2)])):
        with pytest.raises(PathSetError, match=f"starts at the logits, logits@3, not at {paths.node}"):
            engine.patch(paths)


def test_what_writes_and_reads_nothing_is_an_error(engine):
    for node in (Node.residual(END), Node.logits(END)):
        with pytest.raises(PathSetError, match=f"{node} writes nothing"):
            engine.writes([Node.mlp(0, END), node])
    for node in (Node.residual(END), Node.embeds(END), Node.neuron(0, 0, END)):
        with pytest.raises(PathSetError, match=f"{node} reads no residual stream"):
            engine.residual(node)
    for heads in ([(2, 0)], [(0, 0), (0, 2)]):
        with pytest.raises(PathSetError, match="2 layers of 2 heads"):
            engine.attention(heads)


@pytest.mark.parametrize(("pairs_in_half_the_memory", "n_batches"), [(0.1, 4), (1, 4), (2, 2), (3, 2), (4, 1), (50, 1)])
def test_distinct_pairs_are_computed_once_in_batches_that_fit(pairs_in_half_the_memory, n_batches):
    """Rows 0 and 3 are one pair; row 4 shares its clean sentence with another and is a pair of its own."""
    clean = torch.cat([TOKENS.flip(0), TOKENS[2:], TOKENS[:1]])
    corrupted = clean + torch.tensor([1, 1, 1, 1, 2])[:, None]
    memory_gb = 2 * pairs_in_half_the_memory * (BYTES_A_PAIR + BYTES_A_RESULT) / 1e9
    engine = Recording(MODEL, Sentences(clean, corrupted, ANSWERS), memory_gb=memory_gb)
    sums = clean.sum(1).double()
    assert engine.clean()[:, 0].tolist() == sums.tolist()
    assert len(engine.batches) == n_batches
    assert sum(map(len, engine.batches)) == 4
    assert (engine.sweep(HEAD, [Node.mlp(0, 1)], "v")[0, :, 2] - sums).tolist() == [1000] * 5
    assert (engine.writes([Node.mlp(0, 1), Node.mlp(0, 2)])[:, :, 0] - sums).tolist() == [[1] * 5, [2] * 5]
    assert (engine.residual(Node.mlp(1, 2))[:, 0] - sums).tolist() == [1] * 5
    assert (engine.attention([(1, 0), (0, 1)])[:, :, 0] - sums).tolist() == [[10] * 5, [1] * 5]
    assert len(engine.batches) == (1 if n_batches == 1 else 5 * n_batches)  # kept if they all fit


def test_several_requests_share_a_pass(engine):
    engine_of_two = Recording(MODEL, engine.sentences, memory_gb=1e-9)
    both = engine_of_two.evaluate([Request.corrupted(), Request.patch(HEAD)])
    assert (both[:, :, 0] - SUMS).tolist() == [[0.5] * 3, [100] * 3]
    assert len(engine_of_two.batches) == 3


def test_equal_requests_are_computed_once_and_all_of_a_batch_together(engine):
    requests = [Request.patch(HEAD), Request.clean(), Request.patch(HEAD), Request.corrupted(), Request.clean()]
    found = engine.evaluate(requests)
    assert (found[:, :, 0] - SUMS).tolist() == [[100] * 3, [0] * 3, [100] * 3, [0.5] * 3, [0] * 3]
    assert engine.evaluated == [3]
    tight = Recording(MODEL, engine.sentences, memory_gb=1e-9)
    assert torch.equal(tight.evaluate(requests), found)
    assert tight.evaluated == [3] * len(engine.sentences)


@pytest.mark.parametrize("memory_gb", [4.0, 1e-9])
def test_means_are_over_all_sentences_however_often_each_occurs(memory_gb):
    tokens = TOKENS[torch.tensor([0, 0, 0, 2])]
    engine = Recording(MODEL, Sentences(tokens, tokens, ANSWERS), memory_gb=memory_gb)
    mean = (3 * SUMS[0] + SUMS[2]) / 4
    assert (engine.evaluate([Request.whole("mean")])[0, :, 0] - tokens.sum(1)).tolist() == [mean] * 4
    passes = len(engine.batches)
    engine.evaluate([Request.isolate(HEAD, "mean")])
    assert len(engine.batches) == passes + (0 if memory_gb == 4.0 else 2)  # the means are known, and activations kept
    fewer = engine.like(engine.sentences.rows(slice(3)))
    assert (fewer.evaluate([Request.whole("mean")])[0, :, 0] - SUMS[0]).tolist() == [SUMS[0]] * 3


def test_requests_say_what_is_inside_and_what_outside():
    assert Request.clean() == Request.whole("clean")
    assert Request.corrupted() == Request.whole("corrupted")
    assert Request.patch(HEAD, "zero", 0.5) == Request(HEAD, "zero", "clean", 0.5)
    assert Request.isolate(HEAD, "mean") == Request(HEAD, "clean", "mean", 1.0)


@pytest.mark.parametrize("data", ["corrupt", "", None, ["clean"], 3, "x" * 1000])
def test_data_of_another_kind_are_one_line(engine, data):
    for ask in (
        lambda: Request.whole(data),
        lambda: Request.patch(HEAD, data),
        lambda: engine.isolate(HEAD, data),
        lambda: engine.sweep(LOGITS, [Node.mlp(1, END)], inside=data),
        lambda: engine.writes([Node.mlp(0, END)], data),
        lambda: engine.residual(Node.mlp(0, END), data),
    ):
        with pytest.raises(UserError, match="data are clean, corrupted, mean, zero, not ") as error:
            ask()
        assert len(str(error.value)) < 200
    with pytest.raises(UserError, match=r"heads attend on sentences, clean or corrupted, not on "):
        engine.attention([(0, 0)], data)
    assert engine.batches == []


@pytest.mark.parametrize("data", ["mean", "zero"])
def test_attention_is_on_sentences(engine, data: Data):
    with pytest.raises(UserError, match=f"clean or corrupted, not on '{data}'"):
        engine.attention([(0, 0)], data)


@pytest.mark.parametrize(
    "strength",
    [float("nan"), float("inf"), -float("inf"), 1e39, -1e7, 10**400, "1", None, 1j, True, np.True_, torch.ones(1)],
)
def test_a_strength_that_is_no_number_of_a_change_is_one_line(engine, strength):
    """1e39 is infinite in float32, and gave NaN for probabilities."""
    for ask in (
        lambda: Request.patch(HEAD, strength=strength),
        lambda: Request.isolate(HEAD, strength=strength),
        lambda: engine.patch(HEAD, strength=strength),
    ):
        with pytest.raises(UserError, match=r"^a strength of .*: give a number of at most 1e\+06, as 0\.5$"):
            ask()
    assert engine.batches == []


@pytest.mark.parametrize("strength", [Fraction(1, 2), np.float32(0.5), np.float64(0.5)])
def test_a_strength_is_the_same_request_however_its_number_is_kept(strength):
    assert Request.patch(HEAD, strength=strength) == Request.patch(HEAD, strength=0.5)
    assert type(Request.patch(HEAD, strength=strength).strength) is float


@pytest.mark.parametrize("strength", [1e6, -1e6])
def test_the_largest_strengths_give_probabilities(strength):
    engine = make_engine("torch", MODEL, Sentences(TOKENS, TOKENS + 1, ANSWERS))
    found = engine.patch(HEAD, strength=strength)
    assert found.isfinite().all()
    assert not torch.allclose(found, engine.patch(HEAD))


def test_parts_are_the_whole_and_no_larger_than_the_memory(engine):
    few = Recording(MODEL, Sentences(*(TOKENS[:2].repeat(50, 1),) * 2, ANSWERS), memory_gb=1e-6)
    requests = [Request.corrupted(), Request.patch(HEAD)]
    parts = [*few.evaluate_in_parts(requests)]
    assert sorted(torch.cat([rows for rows, _ in parts]).tolist()) == [*range(100)]
    assert max(found.numel() * found.element_size() for _, found in parts) <= 1000 / 8
    whole = few.evaluate(requests)
    assert all(torch.equal(whole[:, rows], found) for rows, found in parts)


def test_activations_are_kept_for_what_needs_them_whole_alone():
    """Results of many requests take several batches where the activations alone fit in one."""
    few = Recording(MODEL, Sentences(TOKENS, TOKENS, ANSWERS), memory_gb=2 * (3 * BYTES_A_PAIR + 100) / 1e9)
    clean = few.clean()
    assert torch.equal(few.evaluate([Request.clean()] * 20), clean.expand(20, -1, -1))
    assert torch.equal(few.clean(), clean)
    assert len(few.batches) == 3


def test_engines_that_share_a_model_keep_together_what_fits():
    """Half of the memory is for activations: those of two of three engines, of which each works on three pairs."""
    first = Recording(MODEL, Sentences(TOKENS, TOKENS, ANSWERS), memory_gb=2 * 7 * BYTES_A_PAIR / 1e9)
    second, third = first.like(first.sentences), first.like(first.sentences)

    def computes(engine):
        before = len(engine.batches)
        engine.clean()
        return len(engine.batches) > before

    assert [computes(engine) for engine in (first, second, first)] == [True, True, False]
    assert [computes(engine) for engine in (third, first, second)] == [True, False, True]  # second was asked before


@pytest.mark.parametrize("memory_gb", [0.0, -1.0, 1e-320, 1e308, float("nan"), float("inf")])
def test_a_memory_that_is_none_is_refused(memory_gb):
    with pytest.raises(UserError, match="gigabytes of memory"):
        Recording(MODEL, Sentences(TOKENS, TOKENS, ANSWERS), memory_gb=memory_gb)


def test_sentences_are_checked_against_the_model():
    long, short = torch.zeros(2, 7, dtype=torch.int64), torch.zeros(2, 6, dtype=torch.int64)
    assert Recording(MODEL, Sentences(short, short, ANSWERS)).sentences.end == 5
    with pytest.raises(UserError, match=r"sentences of 7 tokens; random .* takes at most 6"):
        Recording(MODEL, Sentences(long, long, ANSWERS))
    for clean, corrupted, answers in (
        (short + 30, short, ANSWERS),
        (short, short - 1, ANSWERS),
        (short, short, ANSWERS + 20),
    ):
        with pytest.raises(UserError, match=r"outside the vocabulary of random .* \(0 to 29\)"):
            Recording(MODEL, Sentences(clean, corrupted, answers))
    with pytest.raises(UserError, match="None are no sentences; give Sentences"):
        Recording(MODEL, None)


def test_requests_that_make_no_sense_are_one_line(engine):
    for request, message in (
        (lambda: engine.writes([]), "no node is asked for"),
        (lambda: engine.attention([]), "no node is asked for"),
        (lambda: engine.evaluate([]), "no probabilities"),
        (lambda: engine.writes([Node.mlp(0, END)], "corrupt"), "not 'corrupt'"),
        (lambda: engine.sweep(LOGITS, [Node.mlp(0, END), Node.mlp(40, 0)]), "m40@0"),
        (lambda: Sentences(TOKENS, TOKENS, ANSWERS[:0]), "answer tokens"),
        (lambda: Sentences(TOKENS.float(), TOKENS.float(), ANSWERS), "int64"),
    ):
        with pytest.raises(UserError, match=message):
            request()


@pytest.mark.parametrize("how", [pickle.dumps, copy.copy, copy.deepcopy])
def test_an_engine_that_is_pickled_or_copied_is_one_line(engine, how):
    with pytest.raises(UserError, match="the recording engine cannot be pickled or copied; make another") as error:
        how(engine)
    assert "\n" not in str(error.value)
