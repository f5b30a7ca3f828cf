"""Devices by name, a memory that is too small, and a GPU, if only a pretended one, for all that computes on it."""

from __future__ import annotations

import linecache
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache, partial
from itertools import cycle

import pytest
import torch

from path_patching import unembedding as unembedding_module
from path_patching.batches import is_out_of_memory
from path_patching.circuits.search import find_circuit
from path_patching.devices import resolve_device
from path_patching.direct_effects import direct_effects
from path_patching.edits import EditedRuns, activation
from path_patching.engine import Request
from path_patching.engine_choice import check_engine, make_engine
from path_patching.errors import UserError
from path_patching.files import ROOT
from path_patching.gpt2.model import Architecture, to_transformers
from path_patching.neurons import neuron_effects, read_neurons
from path_patching.paths import Node, PathSet, layer_nodes
from path_patching.subspaces import fitted_edits
from path_patching.sweeps import direct_effects_on, effects_on
from path_patching.torch_engine.engine import TorchEngine
from path_patching.torch_engine.forward import Transformer
from path_patching.unembedding import logit_lens
from reproduction.compare import largest_difference
from reproduction.next_token import predict_next
from tests.helpers.pretend_cuda import OnCuda, pretend_cuda
from tests.helpers.setups import VOCABULARY, Setup, full_circuit, late_half, path_sets, random_setup
from utils import greater_than, start_experiment

SIZES = Architecture(n_layers=3, n_heads=3, d_model=24, d_head=8, d_mlp=96, n_positions=16, vocab_size=VOCABULARY)
N = 14  # so many that a head's direct effect is cheaper along its directions
TWO_BATCHES = 1.15e-3  # gigabytes


@cache
def setup() -> Setup:
    return random_setup(SIZES, n=N, length=13, yy_position=8, eos=True, twins=True, seed=1)


def engine_on(device: str, memory_gb: float = 4.0) -> TorchEngine:
    return TorchEngine(setup().model, setup().sentences, device, memory_gb)


def all_requests(engine: TorchEngine) -> torch.Tensor:
    """Every kind of path set, of data and of request."""
    kinds = [
        Request.patch,
        partial(Request.isolate, outside="mean"),
        partial(Request.patch, inside="zero", strength=0.5),
        Request.isolate,
        partial(Request.patch, inside="mean"),
    ]
    requests = [Request.whole(data) for data in ("clean", "corrupted", "mean", "zero")]
    requests += [kind(paths) for kind, paths in zip(cycle(kinds), path_sets(setup()).values(), strict=False)]
    return engine.evaluate(requests)


def all_sweeps(engine: TorchEngine) -> list[torch.Tensor]:
    """Of heads, MLPs, neurons, embeddings and whole streams, on the logits and on heads through each input."""
    end, yy = setup().end, setup().yy_position
    nodes = [node for layer in range(3) for node in layer_nodes(layer, 3, end)]
    nodes += [Node.neuron(2, 5, end), Node.embeds(end), Node.residual(end)]
    direct = [engine.sweep(PathSet.at(Node.logits(end)), nodes, inside=data) for data in ("corrupted", "mean", "zero")]
    below = [*layer_nodes(0, 3, yy), Node.neuron(0, 3, yy), Node.embeds(yy), Node.residual(yy)]
    return [*direct, *(engine.sweep(late_half(setup()), below, via) for via in ("k", "v", "all"))]


def swept_together(engine: TorchEngine) -> list[torch.Tensor]:
    """Heads on the logits, in two data sets at once."""
    metric, fewer = greater_than(setup().years), engine.like(engine.sentences.rows(slice(9)))
    return direct_effects_on([engine, fewer], [metric, greater_than(setup().years[:9])])


def what_is_read_and_written(engine: TorchEngine) -> list[torch.Tensor]:
    end = setup().end
    nodes = [Node.head(1, 0, end), Node.mlp(2, end), Node.neuron(1, 4, end), Node.embeds(end)]
    found = [engine.writes(nodes, data) for data in ("clean", "corrupted", "mean", "zero")]
    found += [engine.residual(Node.mlp(1, end), data) for data in ("clean", "corrupted", "mean", "zero")]
    return [*found, engine.attention([(0, 1), (2, 2)]), logit_lens(found[0], engine.model, engine.sentences.answers)]


def neurons_of_a_layer(engine: TorchEngine) -> list[torch.Tensor]:
    neurons = read_neurons(engine, 1)
    effects = neuron_effects(neurons, lambda rows: greater_than(setup().years[rows]))
    return [effects, neurons.year_logits([2, 3]).cpu(), neurons.logit_lens([1, 5]).cpu()]


def edited_runs(engine: TorchEngine) -> list[torch.Tensor]:
    """PCA and LEACE fitted and put back, at an MLP, a head and the embedding."""
    runs = EditedRuns(engine.model, engine.sentences.clean, engine.sentences.answers, engine.device)
    found = []
    for node in (Node.mlp(1, setup().end), Node.head(0, 1, setup().end), Node.embeds(setup().yy_position)):
        clean = activation(engine, node)
        edits = fitted_edits(clean, setup().years % 4, (1, 2), 1, torch.Generator().manual_seed(0))
        changes = torch.stack([edit(clean) - clean for versions in edits.values() for edit in versions])
        found.append(runs.probabilities(node, changes))
    return found


def next_tokens(engine: TorchEngine) -> list[torch.Tensor]:
    hf_model = to_transformers(engine.model)
    said = predict_next(hf_model, engine.sentences.clean, engine.sentences.answers, 5, engine.device)
    return [said.answers, said.top, said.top_tokens, said.mean]


def searched_circuit(engine: TorchEngine) -> list[object]:
    metric = greater_than(setup().years)
    found = find_circuit(engine, metric, setup().yy_position, setup().end, threshold=0.15)
    effects = effects_on(engine, late_half(setup()), metric, setup().yy_position, "v")
    return [effects, *(dict(step.effects) for step in found.steps)]


def self_check(engine: TorchEngine) -> torch.Tensor:
    check_engine(engine)
    return engine.isolate(full_circuit(setup()))


ASKED = (
    all_requests, all_sweeps, swept_together, what_is_read_and_written, neurons_of_a_layer, edited_runs, next_tokens,
    searched_circuit, self_check,
)  # fmt: skip


@pytest.fixture
def _same_blocks(monkeypatch):
    """A GPU computes in larger blocks than a CPU; in equal ones all operations are the same, and so is each bit."""
    for sizes in (
        unembedding_module.ROWS_AT_ONCE,
        unembedding_module.ENTRIES_AT_ONCE,
        unembedding_module.LARGEST_PIECE,
    ):
        monkeypatch.setitem(sizes, "cuda", sizes["cpu"])


def tensors_in(found: object) -> Iterator[torch.Tensor]:
    if isinstance(found, torch.Tensor):
        yield found
    elif isinstance(found, list):
        for each in found:
            yield from tensors_in(each)


@pytest.mark.usefixtures("_same_blocks")
@pytest.mark.parametrize("ask", ASKED)
def test_all_that_computes_on_a_gpu_gives_on_the_cpu_what_the_cpu_gives(ask):
    expected = ask(engine_on("cpu", TWO_BATCHES))
    with pretend_cuda(count=2) as gpus:
        engine = engine_on("cuda:1", TWO_BATCHES)
        found = ask(engine)
        assert gpus.held[1] > gpus.held[0] == 0
    assert {type(each) for each in tensors_in(found)} == {torch.Tensor}
    assert largest_difference(found, expected) == 0


def forget(monkeypatch: pytest.MonkeyPatch, files: str, forgotten: str | None = None) -> set[str]:
    """Let lines of `files` that read so leave a tensor where it is. Gives those that move one, as they are met."""
    met: set[str] = set()
    move = torch.Tensor.to

    def to(self: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        caller, moved = sys._getframe(1), move(self, *args, **kwargs)
        name, line = caller.f_code.co_filename, linecache.getline(caller.f_code.co_filename, caller.f_lineno).strip()
        if moved.device == self.device or not re.fullmatch(f"{ROOT}/({files})", name):
            return moved
        met.add(line)
        return move(self, moved.dtype) if line == forgotten else moved

    monkeypatch.setattr(torch.Tensor, "to", to)
    return met


def patched_and_swept(engine: TorchEngine) -> list[torch.Tensor]:
    end = setup().end
    logits = PathSet.at(Node.logits(end))
    patched = engine.patch(logits.through(Node.mlp(2, end)).extend([Node.neuron(1, 3, end)]), "mean")
    return [patched, engine.sweep(logits, [Node.head(1, 0, end), Node.mlp(0, end)])]


def one_edited_run(engine: TorchEngine) -> torch.Tensor:
    runs = EditedRuns(engine.model, engine.sentences.clean, engine.sentences.answers, engine.device)
    return runs.probabilities(Node.mlp(1, setup().end), torch.ones(1, N, SIZES.d_model))


def found_without(ask: Callable[[TorchEngine], object], files: str, line: str) -> object:
    """What is found while a line leaves its tensor on the CPU; None if that raises as on a GPU."""
    with pretend_cuda(), pytest.MonkeyPatch.context() as patched:
        forget(patched, files, line)
        try:
            return ask(engine_on("cuda"))
        except RuntimeError as error:
            if "Expected all tensors to be on the same device" not in str(error):
                raise
            return None


INDICES = ("answers.to(", "which.to(")  # those of the CPU may index a CUDA tensor


@pytest.mark.parametrize(
    ("ask", "files", "at_least"),
    [
        (patched_and_swept, "path_patching/(torch_engine/.*|unembedding).py", 5),
        (neurons_of_a_layer, "path_patching/neurons.py", 1),
        (one_edited_run, "path_patching/edits.py", 2),
        (next_tokens, "reproduction/next_token.py", 1),
    ],
)
def test_a_tensor_forgotten_on_the_cpu_is_an_error_wherever_it_is_no_index(ask, files, at_least):
    with pretend_cuda(), pytest.MonkeyPatch.context() as patched:
        lines = forget(patched, files)
        expected = ask(engine_on("cuda"))
    found = {line: found_without(ask, files, line) for line in lines}
    indices = {line for line in lines if any(index in line for index in INDICES)}
    assert len(lines - indices) >= at_least
    assert {line for line in lines - indices if found[line] is not None} == set()
    assert all(found[line] is None or largest_difference(found[line], expected) == 0 for line in indices)


def test_a_tensor_made_on_the_cpu_is_an_error(monkeypatch):
    ones = torch.ones
    with pretend_cuda(), monkeypatch.context() as patched:
        patched.setattr(torch, "ones", lambda *sizes, device, **more: ones(*sizes, **more))
        engine = engine_on("cuda")
        with pytest.raises(RuntimeError, match="masked_fill: Expected all tensors to be on the same device"):
            engine.clean()


RULES: dict[str, tuple[Callable[[torch.Tensor, torch.Tensor], object], type[Exception] | None]] = {
    "two devices": (lambda gpu, cpu: gpu + cpu, RuntimeError),
    "a number of the CPU": (lambda gpu, cpu: gpu + cpu[0, 0], None),
    "a number of the GPU": (lambda gpu, cpu: cpu + gpu[0, 0], RuntimeError),
    "in place": (lambda gpu, cpu: cpu[0, 0].add_(gpu[0, 0]), RuntimeError),
    "out": (lambda gpu, cpu: torch.add(gpu, gpu, out=cpu), RuntimeError),
    "stack": (lambda gpu, cpu: torch.stack([gpu[0, 0], cpu[0, 0]]), RuntimeError),
    "equal": (lambda gpu, cpu: torch.equal(gpu, cpu), RuntimeError),
    "equal there": (lambda gpu, cpu: torch.equal(gpu, cpu.to(gpu)), None),
    "matrix product": (lambda gpu, cpu: gpu @ cpu, RuntimeError),
    "CPU indices": (lambda gpu, cpu: gpu[cpu.argsort()[0]], None),
    "GPU indices": (lambda gpu, cpu: cpu[gpu.argsort()[0]], RuntimeError),
    "a slice written": (lambda gpu, cpu: gpu.clone().__setitem__(slice(1), cpu[:1]), None),
    "rows written": (lambda gpu, cpu: gpu.clone().__setitem__(torch.tensor([0]), cpu[:1]), RuntimeError),
    "numpy": (lambda gpu, cpu: gpu.numpy(), TypeError),
    "numpy of the CPU": (lambda gpu, cpu: gpu.cpu().numpy(), None),
    "a generator": (lambda gpu, cpu: torch.randn(2, generator=torch.Generator(), device="cuda"), RuntimeError),
    "a device that is not there": (lambda gpu, cpu: cpu.to("cuda:1"), RuntimeError),
    "a parameter": (lambda gpu, cpu: torch.nn.Linear(2, 2)(gpu), RuntimeError),
    "a parameter moved": (lambda gpu, cpu: torch.nn.Linear(2, 2).to("cuda")(gpu), None),
}


@pytest.mark.parametrize("rule", RULES)
def test_the_pretended_gpu_holds_to_the_rules_of_pytorch(rule):
    compute, error = RULES[rule]
    cpu = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    with pretend_cuda():
        gpu = cpu.to("cuda")
        with pytest.raises(error) if error else nullcontext():
            compute(gpu, cpu)


def test_a_copy_to_the_pretended_gpu_is_a_copy_and_what_is_made_of_it_is_there():
    cpu = torch.zeros(3)
    with pretend_cuda() as gpus:
        gpu = cpu.to("cuda")
        gpu += 1
        made = [
            gpu.new_zeros(2),
            torch.zeros_like(gpu),
            gpu[:2].neg(),
            *gpu,
            torch.arange(3, device="cuda"),
            gpu.max(0)[0],
        ]
        assert {str(each.device) for each in made} == {"cuda:0"}
        assert all(isinstance(each, OnCuda) for each in made)
        assert gpus.held[0] > 3 * 4
        del gpu, made
        assert gpus.held[0] == 0
    assert cpu.tolist() == [0, 0, 0]


@pytest.mark.parametrize(("count", "current"), [(1, 0), (2, 0), (2, 1)])
def test_cuda_is_the_current_device_and_results_say_which(count, current, capsys):
    with pretend_cuda(count):
        torch.cuda.set_device(current)
        named = {name: resolve_device(name) for name in ("auto", "cuda", "cpu", "cuda:0", torch.device("cuda:0"))}
        assert [*named.values()] == [f"cuda:{current}", f"cuda:{current}", "cpu", "cuda:0", "cuda:0"]
        engine = make_engine("torch", "cuda", setup().model, setup().sentences, check=False)
        torch.cuda.set_device(0)  # what the current one is later does not matter
        assert engine.device == f"cuda:{current}"
        assert len(engine.clean()) == N
    assert f"torch engine on cuda:{current}, " in capsys.readouterr().out


@pytest.mark.parametrize("device", ["tpu", "mps", "cpu:1", "cuda:x", "cuda:", "cuda:²", f"cuda:{'9' * 500}"])
def test_a_device_that_is_none_is_one_line(device):
    with pytest.raises(UserError, match=f"device {device}: give auto, cpu, cuda or cuda:i"):
        resolve_device(device)


@pytest.mark.parametrize(("count", "seen"), [(1, "cuda:0 alone"), (2, "cuda:0 to cuda:1")])
def test_a_gpu_that_is_not_there_is_one_line(count, seen):
    with pretend_cuda(count), pytest.raises(UserError, match=f"device cuda:{count}: PyTorch sees {seen}"):
        engine_on(f"cuda:{count}")


def test_no_gpu_is_one_line_and_auto_is_then_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == "cpu"
    with pytest.raises(UserError, match="device cuda: PyTorch sees no CUDA device; give cpu"):
        engine_on("cuda")


def test_another_default_device_is_one_line():
    """Sentences were put on the GPU, and met what is on the CPU."""
    for ask in (lambda: start_experiment(model="standin", n=1), lambda: engine_on("cpu")):
        with torch.device("meta"), pytest.raises(UserError, match=r"PyTorch makes new tensors on meta, .* leave out"):
            ask()


def halvings(printed: str) -> list[int]:
    """How many sentences, or pairs of them, were tried next, line by line."""
    lines = [line for line in printed.splitlines() if line.startswith("out of memory on cuda:0 with ")]
    return [int(re.search(r"trying (\d+)", line)[1]) for line in lines]


def memory_used(ask: Callable[[TorchEngine], object]) -> tuple[object, int, int]:
    """What is found, the bytes of an engine that has computed nothing, and the most bytes while it computes."""
    with pretend_cuda() as gpus:
        engine = engine_on("cuda")
        still = gpus.held[0]
        return ask(engine), still, gpus.peak


@pytest.mark.parametrize("ask", [patched_and_swept, one_edited_run, neurons_of_a_layer, next_tokens])
def test_what_does_not_fit_on_a_gpu_is_tried_in_halves_and_a_line_says_so(ask, capsys):
    expected, still, peak = memory_used(ask)
    capsys.readouterr()
    with pretend_cuda(memory=still + (peak - still) * 2 // 3):
        engine = engine_on("cuda")
        found = ask(engine)
        tried = halvings(capsys.readouterr().out)
        assert 1 <= len(tried) <= 3
        assert tried == [N >> times for times in range(1, len(tried) + 1)]
    assert largest_difference(found, expected) < 1e-6


def test_heads_that_do_not_fit_together_are_halved(monkeypatch, capsys):
    expected = swept_together(engine_on("cpu"))

    def small(stream, changes, unembedding):
        if len(changes) > 4:
            raise torch.OutOfMemoryError
        return direct_effects(stream, changes, unembedding)

    monkeypatch.setattr("path_patching.sweeps.direct_effects", small)
    found = swept_together(engine_on("cpu"))
    assert "out of memory on cpu with 9 heads at a time: trying 4" in capsys.readouterr().out
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


def test_a_halved_batch_keeps_nothing_and_is_the_size_from_then_on(capsys):
    _, still, peak = memory_used(patched_and_swept)
    with pretend_cuda(memory=still + (peak - still) // 2) as gpus:
        engine = engine_on("cuda")
        patched_and_swept(engine)
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == len(gpus.held_when_emptied) > 0
        assert set(gpus.held_when_emptied) == {still}
        assert lines[0].startswith(f"out of memory on cuda:0 with {N} pairs of sentences at a time: trying {N // 2}; ")
        assert lines[-1].endswith(f"; memory_gb {engine.memory_gb:.3g} avoids this")
        patched_and_swept(engine)
        patched_and_swept(engine.like(setup().sentences))
        memory_gb = engine.memory_gb
        del engine
        patched_and_swept(engine_on("cuda", memory_gb))
        assert capsys.readouterr().out == ""


def many_neurons(engine: TorchEngine) -> torch.Tensor:
    neurons = [Node.neuron(0, index, setup().yy_position) for index in range(0, SIZES.d_mlp, 2)]
    return engine.sweep(late_half(setup()), neurons, "v")


def test_activations_that_leave_no_room_for_a_sweep_are_let_go(capsys):
    """They are kept from the first evaluation, which fits, when the next does not."""
    _, still, room = memory_used(TorchEngine.clean)
    expected, _, peak = memory_used(many_neurons)
    assert peak > 1.5 * room
    with pretend_cuda(memory=room + 1000) as gpus:
        engine = engine_on("cuda")
        engine.clean()
        assert gpus.held[0] > still
        assert capsys.readouterr().out == ""
        assert largest_difference(many_neurons(engine), expected) < 1e-6
        assert halvings(capsys.readouterr().out)[0] == N // 2
        assert gpus.held_when_emptied[0] == still


@pytest.mark.parametrize(
    ("ask", "complaint"),
    [
        (patched_and_swept, "with one pair of sentences"),
        (one_edited_run, "with the weights of random .*"),
        (neurons_of_a_layer, "with the weights of random .*"),
        (next_tokens, "with the model's weights"),
    ],
)
def test_a_gpu_too_small_for_anything_is_one_line(ask, complaint):
    _, still, _ = memory_used(ask)
    with pretend_cuda(memory=still + 1000):
        engine = engine_on("cuda")
        with pytest.raises(UserError, match=f"out of memory on cuda:0 {complaint}: free some of it, or give another"):
            ask(engine)


@pytest.mark.parametrize(("share", "what"), [(0.1, "the unembedding"), (0.9, "the weights")])
def test_a_gpu_too_small_for_the_weights_is_one_line(share, what):
    _, still, _ = memory_used(patched_and_swept)
    with pretend_cuda(memory=int(share * still)), pytest.raises(UserError, match=f"on cuda:0 with {what} of random"):
        engine_on("cuda")


def test_a_cpu_that_is_too_small_is_told_apart_from_other_errors(monkeypatch, capsys):
    with pytest.raises(RuntimeError) as too_much:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(too_much.value)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    run, expected = Transformer.run, engine_on("cpu").clean()

    def limited(self, prefixes):
        if len(prefixes.of_sentence) > N:  # so many sentences, of which half the pairs have two each
            torch.empty(2**60, dtype=torch.uint8)
        return run(self, prefixes)

    monkeypatch.setattr(Transformer, "run", limited)
    assert (engine_on("cpu").clean() - expected).abs().max() < 1e-6
    assert f"out of memory on cpu with {N} pairs of sentences at a time: trying {N // 2};" in capsys.readouterr().out


def test_an_error_of_another_kind_is_not_tried_again(monkeypatch):
    def broken(self, prefixes):
        raise RuntimeError("broken")

    monkeypatch.setattr(Transformer, "run", broken)
    with pytest.raises(RuntimeError, match=r"^broken$"):
        engine_on("cpu").clean()
