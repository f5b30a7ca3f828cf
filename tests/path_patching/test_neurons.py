"""Direct effects of single neurons: the definition in float64, the engines' sweep, and a softmax written out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import layer_norm

from benchmarks import neurons as benchmark
from benchmarks.subjects import SHAPES
from path_patching import neurons as module
from path_patching.errors import UserError
from path_patching.files import ROOT
from path_patching.gpt2.model import GPT2_SMALL, LAYER_NORM_EPSILON, Architecture, random_model
from path_patching.neurons import Neurons, neuron_effects, read_neurons
from path_patching.paths import Node, PathSet
from path_patching.sweeps import Metric
from path_patching.torch_engine.engine import TorchEngine
from path_patching.unembedding import Unembedding, answer_probabilities
from reproduction.settings import chosen_layer, layer_folder
from tests.helpers.benchmarks import run_here
from tests.helpers.engines import each_engine, make_engine
from tests.helpers.setups import SETUPS, Setup
from utils import greater_than, prob_diff

FLOAT32_STREAMS = 2e-7  # what rounding the streams, which engines give in float32, may do to a probability difference
SERIES = 1e-9  # and what a series of short moves may, with its rounding and with what it leaves out
FLOAT64 = 1e-13
EVERYTHING_IN_FLOAT64 = -1.0


@pytest.fixture(params=SETUPS)
def setup(request: pytest.FixtureRequest) -> Setup:
    return SETUPS[request.param]()


def logits(setup: Setup) -> PathSet:
    return PathSet.at(Node.logits(setup.end))


def senders(setup: Setup, layer: int) -> list[Node]:
    return [Node.neuron(layer, index, setup.end) for index in range(setup.model.architecture.d_mlp)]


def exact_neurons(setup: Setup, layer: int) -> Neurons:
    """The neurons with activations and streams of the float64 reference."""
    reference, mlp = setup.reference, Node.mlp(layer, setup.end)
    return replace(
        read_neurons(TorchEngine(setup.model, setup.sentences), layer),
        clean=reference.activations(mlp, None, "clean"),
        corrupted=reference.activations(mlp, None, "corrupted"),
        stream=reference.residual(Node.logits(setup.end), "in", setup.end, None, "clean"),
    )


def reference_effects(setup: Setup, layer: int) -> torch.Tensor:
    """By definition: each neuron's path patched, minus clean, (M, N)."""
    patched = [setup.reference.probabilities(logits(setup).extend([node])) for node in senders(setup, layer)]
    return setup.difference(torch.stack(patched)) - setup.difference(setup.reference.probabilities())


def random_neurons(n: int = 5, n_neurons: int = 9, width: int = 12, vocabulary: int = 3000) -> Neurons:
    """Neurons of no model, and more of a vocabulary than is worked on at once."""
    sizes = Architecture(1, 1, width, width, n_neurons, 4, vocabulary)
    model = random_model(sizes, std=0.5, seed=3)
    generator = torch.Generator().manual_seed(4)
    clean, corrupted = torch.randn(2, n, n_neurons, dtype=torch.float64, generator=generator)
    return Neurons(
        layer=0,
        clean=clean,
        corrupted=corrupted,
        directions=model.tensors["m0.w.proj_out_arr"].T.double(),
        stream=3 * torch.randn(n, width, dtype=torch.float64, generator=generator),
        scale=model.tensors["final.ln.w.scale_arr"].double(),
        bias=model.tensors["final.ln.w.bias_arr"].double(),
        unembedding=Unembedding(model, torch.randperm(vocabulary, generator=generator)[:100], "cpu"),
    )


def written_out(neurons: Neurons, years: torch.Tensor) -> torch.Tensor:
    """Every patched stream normalized and unembedded as a whole, (M, N)."""
    change = neurons.corrupted - neurons.clean
    patched = neurons.stream + change.T[:, :, None] * neurons.directions[:, None]
    normed = layer_norm(
        torch.cat([neurons.stream[None], patched]), neurons.scale.shape, neurons.scale, neurons.bias, LAYER_NORM_EPSILON
    )
    rows, answers = neurons.unembedding.rows.double(), neurons.unembedding.answers
    clean, *others = (prob_diff(answer_probabilities(x @ rows.T, answers), years) for x in normed)
    return torch.stack(others) - clean


YEARS = torch.tensor([2, 17, 50, 97, 41])


def metric_of(years: torch.Tensor) -> Callable[[torch.Tensor], Metric]:
    return lambda rows: greater_than(years[rows])


def test_effects_are_those_of_the_definition(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    for layer in range(setup.model.architecture.n_layers):
        neurons, expected = exact_neurons(setup, layer), reference_effects(setup, layer)
        assert expected.abs().amax(1).median() > 1000 * SERIES
        assert (neuron_effects(neurons, metric_of(setup.years)) - expected).abs().max() < SERIES
        with monkeypatch.context() as patched:
            patched.setattr(module, "SERIES_REACH", EVERYTHING_IN_FLOAT64)
            assert (neuron_effects(neurons, metric_of(setup.years)) - expected).abs().max() < FLOAT64


def test_the_setups_have_an_unembedding_with_equal_rows_and_one_without() -> None:
    counts = [
        read_neurons(TorchEngine(s.model, s.sentences), 0).unembedding.counts for s in (f() for f in SETUPS.values())
    ]
    assert {each is None for each in counts} == {True, False}


@each_engine
def test_effects_are_those_of_the_engine_s_sweep(setup: Setup, engine_name: str) -> None:
    """The general way, in float32: any receivers, one neuron after the other."""
    engine = make_engine(engine_name, setup.model, setup.sentences)
    layer = setup.model.architecture.n_layers - 1
    swept = setup.difference(engine.sweep(logits(setup), senders(setup, layer))) - setup.difference(engine.clean())
    neurons = read_neurons(engine, layer)
    effects = neuron_effects(neurons, metric_of(setup.years))
    assert (effects - swept).abs().max() < 2e-6
    assert (effects - reference_effects(setup, layer)).abs().max() < FLOAT32_STREAMS


@each_engine
def test_writes_of_all_neurons_add_up_to_the_mlp_s(setup: Setup, engine_name: str) -> None:
    engine = make_engine(engine_name, setup.model, setup.sentences)
    for layer in range(setup.model.architecture.n_layers):
        neurons, bias = read_neurons(engine, layer), setup.model.tensors[f"m{layer}.w.out_bias_arr"]
        for data, activations in (("clean", neurons.clean), ("corrupted", neurons.corrupted)):
            write = engine.writes([Node.mlp(layer, setup.end)], data)[0]
            torch.testing.assert_close((activations @ neurons.directions).float() + bias, write, rtol=1e-5, atol=1e-4)


def test_year_logits_are_those_of_neurons_patched_together(setup: Setup) -> None:
    layer, which = setup.model.architecture.n_layers - 1, [3, 0, 21, 22]
    neurons, answers = exact_neurons(setup, layer), setup.sentences.answers
    together = logits(setup).extend([Node.neuron(layer, index, setup.end) for index in which])
    for paths, patched in ((None, []), (together, which)):
        expected = setup.reference.logits(setup.end, paths, "clean")[:, answers]
        torch.testing.assert_close(neurons.year_logits(patched), expected, rtol=0, atol=1e-12)


def test_the_logit_lens_is_activation_times_unembedded_output_weights(setup: Setup) -> None:
    neurons, answers = exact_neurons(setup, 1), setup.sentences.answers
    rows = setup.model.tensors["t.w.unembed_arr"][answers].double()
    lens = neurons.logit_lens([7, 2])
    assert lens.shape == (2, len(setup.sentences), 100)
    weights = setup.model.tensors["m1.w.proj_out_arr"].double()
    assert lens[0, 1, 40].item() == pytest.approx((neurons.clean[1, 7] * (weights[:, 7] @ rows[40])).item(), abs=1e-12)
    everything = neurons.logit_lens(range(len(neurons))).sum(0)
    write = setup.reference.write(Node.mlp(1, setup.end), None, "clean") - setup.model.tensors["m1.w.out_bias_arr"]
    torch.testing.assert_close(everything, write @ rows.T, rtol=0, atol=1e-10)


def test_neurons_that_move_logits_by_hundreds_neither_overflow_nor_lose_precision() -> None:
    neurons = random_neurons()
    neurons = replace(neurons, corrupted=neurons.corrupted * 300, scale=60 * neurons.scale)
    moved = (neurons.year_logits([0]) - neurons.year_logits()).abs().max()
    assert moved > 300
    effects = neuron_effects(neurons, metric_of(YEARS))
    assert (effects - written_out(neurons, YEARS)).abs().max() < FLOAT64


def test_short_and_long_moves_can_stand_side_by_side() -> None:
    neurons = random_neurons()
    change = torch.logspace(-6, 1, len(neurons), dtype=torch.float64)
    neurons = replace(neurons, corrupted=neurons.clean + change)
    effects, expected = neuron_effects(neurons, metric_of(YEARS)), written_out(neurons, YEARS)
    assert (effects - expected).abs().max() < SERIES
    # A float32 softmax would be off by 1e-7 whatever the effect; this is off by so much of the effect.
    assert (effects - expected)[0].abs().max() < 1e-5 * expected[0].abs().max() < 1e-9


def test_a_neuron_whose_activation_does_not_change_has_no_effect() -> None:
    neurons = random_neurons()
    neurons.corrupted[:, 4] = neurons.clean[:, 4]
    neurons.corrupted[2] = neurons.clean[2]
    effects = neuron_effects(neurons, metric_of(YEARS))
    none = effects == 0
    assert none[4].all()
    assert none[:, 2].all()
    assert none.sum() == len(neurons) + 5 - 1


def test_neither_blocks_nor_batches_nor_threads_change_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    neurons = random_neurons()
    expected = neuron_effects(neurons, metric_of(YEARS))
    threads = torch.get_num_threads()
    monkeypatch.setattr(module, "SENTENCES_AT_ONCE", 2)
    monkeypatch.setattr(module, "SERIES_ROWS_AT_ONCE", 700)
    monkeypatch.setattr(module, "NEURONS_ANSWERED_AT_ONCE", 2)
    torch.set_num_threads(3)
    try:
        torch.testing.assert_close(neuron_effects(neurons, metric_of(YEARS)), expected, rtol=0, atol=1e-8)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(("n_layers", "default"), [(12, 10), (11, 10), (10, 8), (2, 0), (1, 0)])
def test_the_default_layer_is_the_paper_s_or_the_last_but_one(n_layers: int, default: int) -> None:
    model = random_model(Architecture(n_layers, 1, 4, 4, 4, 4, 4))
    assert chosen_layer(model) == default
    assert chosen_layer(model, n_layers - 1) == n_layers - 1
    for missing in (n_layers, -1):
        with pytest.raises(UserError, match=rf"^--layer {missing}: .* layers 0 to {n_layers - 1}$"):
            chosen_layer(model, missing)


def test_files_of_another_layer_than_the_default_lie_apart() -> None:
    assert layer_folder(ROOT, None) == layer_folder(ROOT, 10) == ROOT
    assert layer_folder(ROOT, 8) == ROOT / "m8"


def test_a_neuron_of_gpt2_small_s_shape_in_all_of_its_vocabulary() -> None:
    """The last check against anything that only shows where no two rows are equal and there are 50,257 of them."""
    neurons = random_neurons(n=5, n_neurons=2, width=16, vocabulary=GPT2_SMALL.vocab_size)
    assert neurons.unembedding.counts is None
    effects, expected = neuron_effects(neurons, metric_of(YEARS)), written_out(neurons, YEARS)
    assert (effects - expected).abs().max() < SERIES * expected.abs().max()


def test_the_benchmark_prints_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--model-shape", "tiny", "--n", "3", "--threads", "1")
    printed = run_here(benchmark.main, flags, (benchmark,), capsys)
    header, _, row = (line for line in printed.splitlines() if line.startswith("|"))
    cells = dict(zip(header.split(" | "), row.split(" | "), strict=True))
    assert cells["| neurons"] == f"| {SHAPES['tiny'].d_mlp}"
    assert float(cells["core time ÷ floor"]) > 0
