"""What is special to the torch engine: exactness, shared work, batches. Agreement of engines: `test_engines.py`."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from torch.overrides import TorchFunctionMode

from path_patching.direct_effects import is_cheaper
from path_patching.engine import Request, Sentences
from path_patching.gpt2.model import Architecture, random_model
from path_patching.paths import Node, PathSet, layer_nodes
from path_patching.prefixes import distinct_prefixes
from path_patching.sweeps import remembered_effects
from path_patching.torch_engine.engine import TorchEngine
from path_patching.torch_engine.forward import Transformer
from path_patching.unembedding import vocabulary_pieces
from tests.helpers.setups import SETUPS, Setup, late_half, path_sets

EXACT = 1e-11  # in float64 the engine and the reference may differ by rounding alone


def in_float64(setup: Setup) -> TorchEngine:
    tensors = {name: tensor.double() for name, tensor in setup.model.tensors.items()}
    return TorchEngine(replace(setup.model, tensors=tensors), setup.sentences)


@pytest.mark.parametrize("setup_name", SETUPS)
def test_exact_but_for_rounding(setup_name):
    setup = SETUPS[setup_name]()
    engine = in_float64(setup)
    for name, paths in path_sets(setup).items():
        requests = [
            Request.patch(paths),
            Request.patch(paths, "mean"),
            Request.isolate(paths, "mean"),
            Request.isolate(paths, "zero"),
            Request.patch(paths, strength=0.5),
        ]
        for request, found in zip(requests, engine.evaluate(requests), strict=True):
            difference = found - setup.reference.probabilities(paths, *request.data)
            assert difference.abs().max() < EXACT, (name, request.data)


def recomputed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The layers of the MLPs that are recomputed from now on."""
    seen, write = [], Transformer.mlp_write

    def counted(self, layer, neurons):
        seen.append(layer)
        return write(self, layer, neurons)

    monkeypatch.setattr(Transformer, "mlp_write", counted)
    return seen


def test_equal_parts_of_requests_on_the_same_data_are_computed_once(monkeypatch):
    setup = SETUPS["with eos"]()
    engine, end = TorchEngine(setup.model, setup.sentences), setup.end
    logits, head = PathSet.at(Node.logits(end)), [Node.head(0, 1, end)]
    through_m1, through_both = (
        logits.through(*chain).extend(head) for chain in ([Node.mlp(1, end)], [Node.mlp(2, end), Node.mlp(1, end)])
    )
    engine.clean()
    layers = recomputed(monkeypatch)
    engine.evaluate([Request.patch(through_m1), Request.isolate(through_m1), Request.patch(through_both)])
    assert sorted(layers) == [1, 1, 2]  # m1 once for each kind of data
    layers.clear()
    apart = [engine.patch(paths) for paths in (through_m1, through_both)]
    assert sorted(layers) == [1, 1, 2]
    tight = TorchEngine(setup.model, setup.sentences.rows(slice(1)), memory_gb=1e-9)
    layers.clear()
    found = tight.evaluate([Request.patch(through_m1), Request.patch(through_both)])
    assert sorted(layers[-3:]) == [1, 1, 2]  # there is no room to remember the first
    assert (found - torch.stack(apart)[:, :1]).abs().max() < 1e-6


def many_sentences(n: int = 60) -> tuple[TorchEngine, PathSet, list[Node]]:
    """Enough sentences that a head's direct effect is cheaper along its directions, and the senders of a sweep."""
    sizes = Architecture(n_layers=2, n_heads=4, d_model=16, d_head=4, d_mlp=20, n_positions=6, vocab_size=300)
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(0, 300, (n, 6), generator=generator)
    corrupted = torch.randint(0, 300, (n, 6), generator=generator)
    engine = TorchEngine(random_model(sizes, std=0.3), Sentences(clean, corrupted, torch.arange(40)))
    senders = [node for layer in range(2) for node in layer_nodes(layer, 4, 5)]
    return engine, PathSet.at(Node.logits(5)), [*senders, *(Node.neuron(1, index, 5) for index in range(20))]


def test_direct_effects_along_directions_equal_whole_rows(monkeypatch):
    engine, logits, senders = many_sentences()
    along = {node.kind for node in senders if is_cheaper(node, engine.model.architecture, len(engine.sentences))}
    assert along == {"head", "neuron"}
    factored = engine.sweep(logits, senders)
    monkeypatch.setattr("path_patching.direct_effects.is_cheaper", lambda *_: False)
    whole = engine.sweep(logits, senders)
    assert (whole - engine.clean()).abs().amax((1, 2)).min() > 1e-4
    assert (factored - whole).abs().max() < 2e-7
    assert not torch.equal(factored, whole), "the second sweep went the same way as the first"


def test_along_directions_is_cheaper_from_some_70_sentences_on():
    """GPT-2 small: 64 (768 + N) products a vocabulary entry against 768 N."""
    small = Architecture(12, 12, 768, 64, 3072, 1024, 50257)
    assert [is_cheaper(Node.head(0, 0, 0), small, n) for n in (69, 70, 490)] == [False, True, True]
    assert [is_cheaper(Node.neuron(0, 0, 0), small, n) for n in (1, 2)] == [False, True]
    assert not is_cheaper(Node.mlp(0, 0), small, 10**6)


def test_prefixes_are_the_distinct_beginnings():
    sentences = torch.tensor([[5, 1, 2, 3], [5, 1, 2, 4], [5, 0, 2, 3], [5, 1, 2, 3]])
    prefixes = distinct_prefixes(sentences)
    assert prefixes.positions.tolist() == [0, 1, 1, 2, 2, 3, 3, 3]
    assert torch.equal(prefixes.tokens[prefixes.of_sentence], sentences)
    assert torch.equal(prefixes.positions[prefixes.of_sentence], torch.arange(4).expand(4, 4))
    assert torch.equal(prefixes.of_sentence.flatten()[prefixes.example], torch.arange(8))
    alike = {
        tuple(sentences[row, : at + 1].tolist()): int(prefixes.of_sentence[row, at])
        for row in range(4)
        for at in range(4)
    }
    assert sorted(alike.values()) == list(range(8))


def forward_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of prefixes of the forward passes from now on."""
    seen, run = [], Transformer.run

    def counted(self, prefixes):
        seen.append(len(prefixes.tokens))
        return run(self, prefixes)

    monkeypatch.setattr(Transformer, "run", counted)
    return seen


def test_each_distinct_prefix_is_computed_once_and_kept(monkeypatch):
    setup, passes = SETUPS["with eos"](), forward_passes(monkeypatch)
    rows = torch.arange(4).repeat(25)
    engine = TorchEngine(
        setup.model,
        Sentences(setup.sentences.clean[rows], setup.sentences.corrupted[rows], setup.sentences.answers),
    )
    engine.patch(late_half(setup))
    engine.sweep(late_half(setup), [Node.mlp(0, setup.yy_position)], "v")
    engine.writes([Node.mlp(0, setup.end)])
    both = torch.cat([setup.sentences.clean, setup.sentences.corrupted])
    assert passes == [sum(len(both[:, : at + 1].unique(dim=0)) for at in range(setup.end + 1))]
    assert passes[0] < both.numel()  # twins share what lies before YY


def test_batches_that_do_not_fit_together_are_computed_anew(monkeypatch):
    engine, logits, senders = many_sentences()
    tight = TorchEngine(engine.model, engine.sentences, memory_gb=1e-4)
    whole, passes = engine.sweep(logits, senders), forward_passes(monkeypatch)
    assert (tight.sweep(logits, senders) - whole).abs().max() < 1e-6
    batches = len(passes)
    assert 1 < batches < len(engine.sentences)
    assert (tight.clean() - engine.clean()).abs().max() < 1e-6
    assert len(passes) >= 2 * batches
    assert max(passes) < 2 * sum(passes) / len(passes)


def test_senders_that_take_the_same_steps_are_walked_together(monkeypatch):
    setup, walks = SETUPS["with eos"](), []
    evaluate = TorchEngine._evaluate_stack

    def counted(self, batch, receivers, senders, via, inside):
        walks.append(len(senders))
        return evaluate(self, batch, receivers, senders, via, inside)

    monkeypatch.setattr(TorchEngine, "_evaluate_stack", counted)
    engine, yy = TorchEngine(setup.model, setup.sentences), setup.yy_position
    engine.sweep(late_half(setup), [*layer_nodes(0, 3, yy), *layer_nodes(1, 3, yy)], "v")
    assert sorted(walks) == [4, 4]  # layer 0 reaches the heads of layers 1 and 2, layer 1 those of layer 2
    walks.clear()
    TorchEngine(setup.model, setup.sentences, memory_gb=1e-9).sweep(late_half(setup), layer_nodes(0, 3, yy), "v")
    assert walks == [1] * 4 * len(setup.sentences)


@pytest.mark.parametrize("rows", [1, 500, 10_000])
def test_vocabulary_pieces_cover_the_vocabulary(rows):
    parts = vocabulary_pieces(50_257, rows, "cpu")
    assert torch.equal(torch.cat([torch.arange(50_257)[part] for part in parts]), torch.arange(50_257))
    assert max(rows * (part.stop - part.start) for part in parts) <= max(2**19, 128 * rows)


def test_results_are_ordinary_tensors():
    setup = SETUPS["with eos"]()
    engine = TorchEngine(setup.model, setup.sentences)
    for result in (engine.clean(), engine.writes([Node.mlp(0, 3)]), engine.attention([(0, 0)])):
        result += 1  # what `torch.inference_mode` gives refuses this
        assert not result.requires_grad


def test_an_engine_like_another_is_of_its_kind_and_for_other_sentences():
    setup = SETUPS["with eos"]()
    engine = TorchEngine(setup.model, setup.sentences, memory_gb=1.0)
    other = engine.like(setup.sentences.rows(slice(3)))
    assert (type(other), other.memory_gb, len(other.sentences)) == (TorchEngine, 1.0, 3)
    torch.testing.assert_close(other.clean(), engine.clean()[:3], rtol=0, atol=1e-7)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_what_the_cpu_gives():
    setup = SETUPS["with eos"]()
    cpu, gpu = (TorchEngine(setup.model, setup.sentences, device) for device in ("cpu", "cuda"))
    for paths in path_sets(setup).values():
        assert (cpu.patch(paths) - gpu.patch(paths)).abs().max() < 1e-5


PRODUCTS = {"linear", "matmul", "__matmul__", "einsum", "addmm", "tensordot"}


class Stacks(TorchFunctionMode):
    """The stack at each matrix product, from the call that is watched: files and functions, PyTorch's own left out."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[list[tuple[str, str]]] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in PRODUCTS:
            stack, frame = [], sys._getframe(1)
            while frame.f_code.co_name != "watched":
                stack.append((frame.f_code.co_filename, frame.f_code.co_name))
                frame = frame.f_back
            while "/torch/" in stack[0][0]:
                del stack[0]
            self.found.append(stack[::-1])
        return function(*args, **(kwargs or {}))


def test_from_a_sweep_to_its_matrix_products_are_few_frames_and_files():
    """So that a reader can follow a number: from what a script asks to what is multiplied."""
    setup = SETUPS["with eos"]()
    effects = remembered_effects(TorchEngine(setup.model, setup.sentences), setup.difference)
    logits = PathSet.at(Node.logits(setup.end))
    through_mlps = logits.extend([Node.mlp(2, setup.end)]).through_chains([Node.mlp(1, setup.end)])

    def watched(stacks: Stacks) -> None:
        with stacks:
            effects(logits, setup.end)
            effects(through_mlps, setup.end)
            effects(late_half(setup), setup.yy_position, "v")

    stacks = Stacks()
    watched(stacks)
    last = {stack[-1] for stack in stacks.found}
    assert {"neurons", "mlp_write", "head_input", "heads_input", "_of_block"} <= {name for _, name in last}
    assert max(map(len, stacks.found)) <= 12, max(stacks.found, key=len)
    files = [{file for file, _ in stack if "path_patching" in file} for stack in stacks.found]
    assert max(map(len, files)) <= 5, max(files, key=len)
