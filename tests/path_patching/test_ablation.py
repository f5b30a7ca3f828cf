"""Mean and zero data and graded strength: engines against the float64 reference, and what follows by arithmetic."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch

from path_patching.engine import Data, Engine, Request, Sentences
from path_patching.paths import Node, PathSet
from path_patching.reference import Reference
from tests.helpers.engines import each_engine, make_engine
from tests.helpers.setups import SETUPS, Setup, full_circuit, late_half, path_sets

TOLERANCE = 1e-5  # of a probability: between an engine in float32 and the reference
ROUNDING = 5e-6  # between two ways of asking one engine
REGROUPED = 1e-6  # between results computed in other company: logits of some 20 in float32, by sums in another order

each_setup = pytest.mark.parametrize("setup_name", SETUPS)

# What is inside, what outside, how strong.
CASES: dict[str, tuple[Data, Data, float]] = {
    "patch mean": ("mean", "clean", 1.0),
    "patch zero": ("zero", "clean", 1.0),
    "isolate mean": ("clean", "mean", 1.0),
    "isolate zero": ("clean", "zero", 1.0),
    "half": ("corrupted", "clean", 0.5),
    "overdone": ("corrupted", "clean", 1.25),
}
ODD: dict[str, tuple[Data, Data, float]] = {
    "isolate overdone from the mean": ("clean", "mean", 1.5),
    "corrupted in zero": ("corrupted", "zero", -0.5),
    "mean in mean": ("mean", "mean", 1.0),
    "zero in mean": ("zero", "mean", 0.0),
}
FEW_SETS = ("late half", "neuron of an mlp on the way")  # what rust_circuit is asked many times for


@cache
def engine_for(engine_name: str, setup_name: str) -> Engine:
    setup = SETUPS[setup_name]()
    return make_engine(engine_name, setup.model, setup.sentences)


@cache
def all_path_sets(engine_name: str, setup_name: str) -> torch.Tensor:
    """Answer probabilities (cases, path sets, N, A)."""
    sets = path_sets(SETUPS[setup_name]()).values()
    found = engine_for(engine_name, setup_name).evaluate(
        [Request(paths, *CASES[case]) for case in CASES for paths in sets]
    )
    return found.unflatten(0, (len(CASES), len(sets)))


@pytest.mark.parametrize(
    ("engine_name", "setup_name"),
    [("torch", "with eos"), ("torch", "all tokens differ"), ("rust_circuit", "all tokens differ")],
)
@pytest.mark.parametrize("case", CASES)
def test_every_path_set(engine_name: str, setup_name: str, case: str) -> None:
    setup = SETUPS[setup_name]()
    found = all_path_sets(engine_name, setup_name)[[*CASES].index(case)]
    for (name, paths), probabilities in zip(path_sets(setup).items(), found, strict=True):
        expected = setup.reference.probabilities(paths, *CASES[case])
        assert (probabilities - expected).abs().max() < TOLERANCE, name
        assert (setup.difference(probabilities) - setup.difference(expected)).abs().max() < TOLERANCE, name


@each_engine
@pytest.mark.parametrize("case", ODD)
def test_any_data_inside_of_any(engine_name: str, case: str) -> None:
    setup, engine = SETUPS["without eos"](), engine_for(engine_name, "without eos")
    requests = [Request(path_sets(setup)[name], *ODD[case]) for name in (*FEW_SETS, "full circuit")]
    for request, found in zip(requests, engine.evaluate(requests), strict=True):
        assert (found - setup.reference.probabilities(request.paths, *request.data)).abs().max() < TOLERANCE


@each_setup
@pytest.mark.parametrize("case", CASES)
def test_cases_are_far_from_each_other(setup_name: str, case: str) -> None:
    """Otherwise an engine that takes one kind of data for another would pass."""
    setup = SETUPS[setup_name]()
    for paths in (late_half(setup), full_circuit(setup)):
        asked = setup.reference.probabilities(paths, *CASES[case])
        others = [setup.reference.probabilities(paths, *CASES[each]) for each in CASES if each != case]
        assert min((asked - each).abs().max() for each in others) > 1e-3


@each_engine
@each_setup
@pytest.mark.parametrize("inside", ["mean", "zero"])
def test_sweeps(engine_name: str, setup_name: str, inside: Data) -> None:
    setup, engine = SETUPS[setup_name](), engine_for(engine_name, setup_name)
    end, yy, logits = setup.end, setup.yy_position, PathSet.at(Node.logits(setup.end))
    everything = [Node.embeds(end), *(Node.head(1, head, end) for head in range(3)), Node.mlp(1, end)]
    neurons = [Node.neuron(layer, 3, end) for layer in range(3)]
    early = [Node.mlp(0, yy), Node.head(0, 1, yy), Node.embeds(yy), Node.residual(yy), Node.mlp(2, yy)]
    for receivers, senders, via in (
        (logits, everything + neurons, "all"),
        (logits.through_chains([Node.mlp(2, end)]).extend([Node.mlp(1, end)]), neurons, "all"),
        (late_half(setup), everything, "q"),
        (late_half(setup), early, "v"),
    ):
        for sender, found in zip(senders, engine.sweep(receivers, senders, via, inside), strict=True):
            paths = receivers.extend([sender], via) if receivers.reachable(sender, via) else None
            assert (found - setup.reference.probabilities(paths, inside)).abs().max() < TOLERANCE, sender


@each_engine
@pytest.mark.parametrize("inside", ["mean", "zero"])
def test_direct_effects_of_many_sentences(engine_name: str, inside: Data) -> None:
    """So many that heads and neurons go along their directions."""
    base = SETUPS["all tokens differ"]()
    setup = resampled(base, [*range(5)] * 12, shuffled=True)
    engine, logits = make_engine(engine_name, setup.model, setup.sentences), PathSet.at(Node.logits(setup.end))
    senders = [Node.head(2, 1, setup.end), Node.neuron(1, 7, setup.end), Node.mlp(1, setup.end)]
    for sender, found in zip(senders, engine.sweep(logits, senders, inside=inside), strict=True):
        expected = setup.reference.probabilities(logits.extend([sender]), inside)
        assert (expected - setup.reference.probabilities()).abs().max() > 1e-4
        assert (found - expected).abs().max() < TOLERANCE


def resampled(base: Setup, rows: list[int], shuffled: bool = False) -> Setup:
    """Some sentences of a setup, as often as they are named; shuffled, each gets tokens of the others."""
    clean, corrupted = base.sentences.clean[rows], base.sentences.corrupted[rows]
    if shuffled:
        generator = torch.Generator().manual_seed(0)
        columns = clean.clone()
        for at in range(clean.shape[1]):
            columns[:, at] = clean[torch.randperm(len(rows), generator=generator), at]
        clean = columns
    sentences = Sentences(clean, corrupted, base.sentences.answers)
    return replace(base, sentences=sentences, years=base.years[rows], reference=Reference(base.model, sentences))


@each_engine
def test_a_sentence_given_twice_counts_twice_in_the_mean_whatever_the_batches(engine_name: str) -> None:
    base = SETUPS["all tokens differ"]()
    setup = resampled(base, [0, 3, 3, 3])
    once = Reference(base.model, base.sentences.rows(torch.tensor([0, 3])))
    roomy, tight = (make_engine(engine_name, setup.model, setup.sentences, memory) for memory in (4.0, 1e-9))
    neuron = PathSet.at(Node.logits(setup.end)).extend([Node.neuron(1, 3, setup.end)])
    requests = [Request.whole("mean"), Request.isolate(late_half(setup), "mean")]
    for asked in (requests, [Request.patch(neuron, "mean")]):  # the neuron's mean when the others are known already
        expected = torch.stack([setup.reference.probabilities(each.paths, *each.data) for each in asked])
        uncounted = torch.stack([once.probabilities(each.paths, *each.data) for each in asked])
        assert (expected[:, :2] - uncounted).abs().amax((1, 2)).min() > 1e-5
        for engine in (roomy, tight):
            assert (engine.evaluate(asked) - expected).abs().max() < TOLERANCE
    for data in ("mean", "zero"):
        kept = [engine.writes([Node.mlp(1, 2), Node.neuron(0, 5, 3)], data) for engine in (roomy, tight)]
        torch.testing.assert_close(*kept, rtol=0, atol=ROUNDING)


@each_engine
@each_setup
def test_the_mean_is_the_mean_of_writes_and_streams(engine_name: str, setup_name: str) -> None:
    engine, end = engine_for(engine_name, setup_name), SETUPS[setup_name]().end
    nodes = [Node.embeds(end), Node.head(1, 2, end), Node.mlp(2, 3), Node.neuron(0, 7, end)]
    of_clean = engine.writes(nodes)
    torch.testing.assert_close(engine.writes(nodes, "mean"), of_clean.mean(1, keepdim=True).expand_as(of_clean))
    stream = engine.residual(Node.logits(end))
    torch.testing.assert_close(engine.residual(Node.logits(end), "mean"), stream.mean(0).expand_as(stream))


@each_engine
@each_setup
def test_on_zero_data_embeddings_and_shared_biases_are_all_that_is_written(engine_name: str, setup_name: str) -> None:
    setup, engine = SETUPS[setup_name](), engine_for(engine_name, setup_name)
    end, n_layers = setup.end, setup.model.architecture.n_layers
    nodes = [Node.embeds(end), Node.head(1, 2, end), Node.mlp(n_layers - 1, end), Node.neuron(0, 7, end)]
    embeddings, *rest = engine.writes(nodes, "zero")
    assert torch.equal(embeddings, engine.writes(nodes[:1])[0])
    assert all((each == 0).all() for each in rest)
    biases = [setup.model.tensors[f"a{layer}.w.o_bias_arr"] for layer in range(n_layers)]
    assert sum(biases).abs().max() > 1e-2
    for reader, layers in ((Node.logits(end), n_layers), (Node.head(2, 1, end), 2), (Node.mlp(2, end), 3)):
        expected = embeddings + sum(biases[:layers])
        torch.testing.assert_close(engine.residual(reader, "zero"), expected, rtol=0, atol=1e-6)


@each_engine
@each_setup
def test_everything_on_one_kind_of_data(engine_name: str, setup_name: str) -> None:
    """Of the mean and of nothing too the logits are those of the stream, which is the same for all sentences then."""
    setup, engine = SETUPS[setup_name](), engine_for(engine_name, setup_name)
    logits = PathSet.at(Node.logits(setup.end))
    kinds: tuple[Data, ...] = ("clean", "corrupted", "mean", "zero")
    found = engine.evaluate([Request.whole(data) for data in kinds])
    for data, probabilities in zip(kinds, found, strict=True):
        expected = setup.reference.logits(setup.end, None, data).softmax(-1)[:, setup.sentences.answers]
        assert (probabilities - expected).abs().max() < TOLERANCE
        assert (engine.patch(logits, data) - expected).abs().max() < TOLERANCE
    assert (found[2] - found[2][0]).abs().max() < 1e-12
    assert min((found[a] - found[b]).abs().max() for a in range(4) for b in range(a)) > 1e-3


@each_engine
@pytest.mark.parametrize("setup_name", ["with eos", "all tokens differ"])
@pytest.mark.parametrize("paths_name", ["full circuit", "neuron of an mlp on the way"])
def test_no_strength_is_the_outside_run_and_full_strength_the_plain_one(engine_name, setup_name, paths_name) -> None:
    setup, engine = SETUPS[setup_name](), engine_for(engine_name, setup_name)
    paths = path_sets(setup)[paths_name]
    for none, outside in ((engine.patch(paths, strength=0), "clean"), (engine.isolate(paths, strength=0), "corrupted")):
        assert (none - getattr(engine, outside)()).abs().max() < ROUNDING
    assert (engine.patch(paths, strength=1) - engine.patch(paths)).abs().max() < REGROUPED
    assert (engine.patch(paths, "mean", strength=0) - engine.clean()).abs().max() < ROUNDING


@each_engine
@pytest.mark.parametrize("setup_name", ["all tokens differ"])
def test_results_do_not_depend_on_their_company(engine_name: str, setup_name: str) -> None:
    setup, engine = SETUPS[setup_name](), engine_for(engine_name, setup_name)
    names = [*FEW_SETS, *(["full circuit", "a tree below the late half"] if engine_name == "torch" else [])]
    cases = [CASES[case] for case in ("half", "isolate mean", "patch zero")]
    requests = [Request(path_sets(setup)[name], *case) for name in names for case in cases]
    requests += [Request.whole("zero"), requests[0], Request.corrupted()]
    together = engine.evaluate(requests)
    assert (engine.evaluate(requests[::-1]).flip(0) - together).abs().max() < REGROUPED
    assert (torch.cat([engine.evaluate([each]) for each in requests]) - together).abs().max() < REGROUPED
    assert torch.equal(together[-2], together[0])
    tight = make_engine(engine_name, setup.model, setup.sentences, 1e-9)
    assert (tight.evaluate(requests) - together).abs().max() < ROUNDING
