"""The reference is itself checked: against a plain forward pass, and where the unrolled tree differs from others.

As an engine it gives the same in batches, and everything that an engine is asked for.
"""

from __future__ import annotations

import pytest
import torch

from path_patching.edits import activation
from path_patching.engine import Request, Sentences
from path_patching.engine_choice import make_engine
from path_patching.neurons import neuron_effects, read_neurons
from path_patching.paths import Node, PathSet, layer_nodes
from path_patching.reference import Reference, ReferenceEngine
from path_patching.sweeps import direct_effects_on, effects_on
from path_patching.torch_engine.engine import TorchEngine
from tests.helpers import plain_gpt2
from tests.helpers.setups import SETUPS, Setup, late_half, path_sets
from utils import greater_than

each_setup = pytest.mark.parametrize("setup_name", SETUPS)


@each_setup
@pytest.mark.parametrize("data", ["clean", "corrupted"])
def test_unpatched_logits_are_those_of_a_forward_pass_at_every_position(setup_name, data):
    setup = SETUPS[setup_name]()
    expected = plain_gpt2.logits(setup.model, setup.sentences.of(data))
    for position in range(setup.end + 1):
        logits = setup.reference.logits(position, None, data)
        torch.testing.assert_close(logits, expected[:, position], rtol=0, atol=1e-12)


@each_setup
def test_patching_everything_gives_the_other_data(setup_name):
    setup = SETUPS[setup_name]()
    logits, end = PathSet.at(Node.logits(setup.end)), setup.end
    sizes = setup.model.architecture
    writers = [Node.embeds(end), *(Node.mlp(layer, end) for layer in range(sizes.n_layers))]
    writers += [Node.head(layer, head, end) for layer in range(sizes.n_layers) for head in range(sizes.n_heads)]
    corrupted = setup.reference.probabilities(None, "clean")
    for everything in (logits, logits.extend([Node.residual(end)]), logits.extend(writers)):
        torch.testing.assert_close(setup.reference.probabilities(everything), corrupted, rtol=0, atol=1e-12)


@each_setup
def test_direct_paths_replace_writes_in_the_residual_stream(setup_name):
    """One step can be done by arithmetic: what the logits read, with two writes exchanged."""
    setup, end = SETUPS[setup_name](), SETUPS[setup_name]().end
    reference, senders = setup.reference, [Node.mlp(1, end), Node.head(2, 0, end)]
    logits = Node.logits(end)
    residual = reference.residual(logits, "in", end, None, "clean")
    for sender in senders:
        residual = residual + reference.write(sender, None, "corrupted") - reference.write(sender, None, "clean")
    centred = residual - residual.mean(-1, keepdim=True)
    normal = centred / (centred.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    read = normal * reference.weights["final.ln.w.scale"] + reference.weights["final.ln.w.bias"]
    expected = (read @ reference.weights["t.w.unembed"].T).softmax(-1)[:, setup.sentences.answers]
    paths = PathSet.at(logits).extend(senders)
    torch.testing.assert_close(reference.probabilities(paths), expected, rtol=0, atol=1e-12)


@each_setup
def test_a_query_input_patched_whole_moves_the_attention_alone(setup_name):
    setup = SETUPS[setup_name]()
    head = Node.head(1, 1, setup.end)
    whole = PathSet.at(head).extend([Node.residual(setup.end)], "q")
    attention = setup.reference.attention(head, whole, "clean")
    assert (attention.sum(-1) - 1).abs().max() < 1e-12
    assert (attention - setup.reference.attention(head, None, "clean")).abs().max() > 1e-3
    assert (attention - setup.reference.attention(head, None, "corrupted")).abs().max() > 1e-3


@each_setup
def test_a_node_keeps_its_value_on_every_path_outside_the_set(setup_name):
    """a1.h0 → m1 → logits leaves what m2 reads from m1 clean; patching that too is another path set."""
    setup, end = SETUPS[setup_name](), SETUPS[setup_name]().end
    logits, m1, m2 = PathSet.at(Node.logits(end)), Node.mlp(1, end), Node.mlp(2, end)
    one = logits.extend([m1]).extend([Node.head(1, 0, end)])
    both = one | logits.extend([m2]).extend([m1]).extend([Node.head(1, 0, end)])
    apart = (setup.reference.probabilities(one) - setup.reference.probabilities(both)).abs().max()
    assert apart > 1e-4


@each_setup
def test_effects_are_far_above_rounding(setup_name):
    """Otherwise an engine that patches nothing would pass."""
    setup = SETUPS[setup_name]()
    unpatched = setup.difference(setup.reference.probabilities())
    effects = {
        name: (setup.difference(setup.reference.probabilities(paths)) - unpatched).abs().max().item()
        for name, paths in path_sets(setup).items()
    }
    assert min(effects.values()) > 1e-4, min(effects, key=effects.get)
    assert sum(effect > 1e-3 for effect in effects.values()) > 0.8 * len(effects)


@each_setup
def test_every_path_set_gives_its_own_result(setup_name):
    setup = SETUPS[setup_name]()
    # These end in what they go on through: the shorter path has it all.
    same = dict.fromkeys(
        [
            "nested ends",
            "whole input and a node of it",
            "whole input and a path on through it",
            "neuron of a patched mlp",
        ],
        "mlp",
    )
    results = {name: setup.reference.probabilities(paths) for name, paths in path_sets(setup).items()}
    for first, second in torch.combinations(torch.arange(len(results))).tolist():
        a, b = list(results)[first], list(results)[second]
        apart = (results[a] - results[b]).abs().max()
        assert (apart < 1e-12) == (same.get(a, a) == same.get(b, b)), (a, b)


EXACT = 1e-12  # float64 rounding, where sentences are cut in another way


def repeated() -> tuple[Setup, Sentences]:
    """Sentences of which one stands there twice, so that it counts twice in the means."""
    setup = SETUPS["with eos"]()
    return setup, setup.sentences.rows(torch.tensor([2, 0, 1, 2, 3]))


@pytest.mark.parametrize("memory_gb", [4.0, 1e-3])
def test_as_an_engine_it_gives_the_same_however_sentences_are_cut(memory_gb):
    setup, sentences = repeated()
    engine, reference = ReferenceEngine(setup.model, sentences, memory_gb=memory_gb), Reference(setup.model, sentences)
    sets = path_sets(setup)
    requests = [Request.patch(sets["q"]), Request.isolate(sets["late half"], "mean"), Request.whole("zero")]
    requests += [Request.patch(sets["neuron and its mlp elsewhere"], "mean", 0.5), Request.whole("mean"), requests[0]]
    expected = torch.stack([reference.probabilities(each.paths, *each.data) for each in requests])
    torch.testing.assert_close(engine.evaluate(requests), expected, rtol=0, atol=EXACT)
    senders = [*layer_nodes(0, 3, setup.yy_position), Node.neuron(0, 3, setup.yy_position)]
    for inside in ("corrupted", "mean"):
        patched = [late_half(setup).extend([sender], "v") for sender in senders]
        alone = torch.stack([reference.probabilities(paths, inside) for paths in patched])
        swept = engine.sweep(late_half(setup), senders, "v", inside)
        torch.testing.assert_close(swept, alone, rtol=0, atol=EXACT)


def test_as_an_engine_it_answers_whatever_the_torch_engine_does():
    setup, sentences = repeated()
    end, metric = setup.end, greater_than(setup.years[torch.tensor([2, 0, 1, 2, 3])])
    nodes = [Node.head(1, 0, end), Node.mlp(2, end), Node.neuron(1, 4, end), Node.embeds(end)]

    def everything(engine):
        found = [engine.writes(nodes, data) for data in ("clean", "corrupted", "mean", "zero")]
        found += [engine.mixed_values(nodes[:1], data) for data in ("clean", "corrupted", "mean", "zero")]
        found += [engine.residual(node, "mean") for node in (nodes[0], nodes[1], Node.logits(end))]
        found += [engine.attention([(0, 1), (2, 2)], "corrupted"), activation(engine, nodes[1])]
        found += [effects_on(engine, PathSet.at(Node.logits(end)), metric, end)]
        found += direct_effects_on([engine, engine.like(sentences.rows(slice(3)))], [metric, lambda p: p[:, 3]], "mean")
        return [*found, neuron_effects(read_neurons(engine, 1), lambda rows: lambda probs: probs[:, 50:].sum(1))]

    by_reference, by_torch = (everything(kind(setup.model, sentences)) for kind in (ReferenceEngine, TorchEngine))
    torch.testing.assert_close(by_reference, by_torch, rtol=1e-5, atol=5e-6)


def test_as_an_engine_it_remembers_nothing_of_earlier_path_sets():
    """A run asks for thousands of them, and would keep what each changes."""
    setup, _ = repeated()
    reference = Reference(setup.model, setup.sentences)
    reference.probabilities(late_half(setup))
    after_one = {name: len(known) for name, known in reference.known.items()}
    for _ in range(2):
        reference.probabilities(path_sets(setup)["full circuit"])
        reference.probabilities(late_half(setup))
    assert {name: len(known) for name, known in reference.known.items() if "patched" in name} == {
        name: n for name, n in after_one.items() if "patched" in name
    }


def test_how_slow_it_is_is_said_when_one_is_made(capsys):
    setup, _ = repeated()
    assert isinstance(make_engine("reference", "cpu", setup.model, setup.sentences), ReferenceEngine)
    made, remark = capsys.readouterr().out.splitlines()
    assert made.startswith("reference engine on cpu, ")
    assert "times as slow as torch" in remark
