"""Every engine against the slow, obvious reference, on random models where effects are far above rounding."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

import pytest
import torch

from path_patching.direct_effects import direct_effects, is_cheaper
from path_patching.engine import Engine, Sentences
from path_patching.errors import UserError
from path_patching.gpt2.model import Architecture, end_logits, random_model, to_transformers
from path_patching.paths import Node, PathSet, PathSetError, layer_nodes
from path_patching.reference import Reference
from path_patching.sweeps import direct_effects_on, effects_on
from path_patching.unembedding import answer_probabilities
from tests.helpers.engines import each_engine, make_engine, request
from tests.helpers.setups import HEADS, SETUPS, VOCABULARY, Setup, full_circuit, late_half, path_sets

TOLERANCE = 1e-5  # of a probability and of a probability difference, the repository's promise
ROUNDING = 5e-6  # between two ways of asking one engine: only the order of float32 sums may differ

each_setup = pytest.mark.parametrize("setup_name", SETUPS)


@cache
def engine_for(engine_name: str, setup_name: str) -> Engine:
    setup = SETUPS[setup_name]()
    return make_engine(engine_name, setup.model, setup.sentences)


def assert_agree(setup: Setup, got: torch.Tensor, expected: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    """Probabilities (..., N, A) and their probability differences agree."""
    assert got.dtype == torch.float64
    assert got.shape == expected.shape
    assert got.device.type == "cpu"
    assert (got - expected).abs().max() < tolerance
    assert (setup.difference(got) - setup.difference(expected)).abs().max() < tolerance


@pytest.mark.parametrize(
    ("engine_name", "setup_name", "inside"),
    [
        ("torch", "with eos", "corrupted"),
        ("torch", "without eos", "clean"),
        ("torch", "all tokens differ", "corrupted"),
        ("rust_circuit", "without eos", "clean"),
        ("rust_circuit", "all tokens differ", "corrupted"),
    ],
)
@pytest.mark.parametrize("paths_name", path_sets(SETUPS["with eos"]()))
def test_path_sets(engine_name, setup_name, inside, paths_name):
    setup, engine = SETUPS[setup_name](), engine_for(engine_name, setup_name)
    paths = path_sets(setup)[paths_name]
    assert_agree(setup, engine.evaluate([request(paths, inside)])[0], setup.reference.probabilities(paths, inside))


@each_engine
@each_setup
@pytest.mark.parametrize("inside", ["corrupted", "clean"])
@pytest.mark.parametrize("circuit", [late_half, full_circuit])
def test_whole_circuits_suffice_and_are_necessary_as_in_the_reference(engine_name, setup_name, inside, circuit):
    setup, engine = SETUPS[setup_name](), engine_for(engine_name, setup_name)
    paths = circuit(setup)
    expected = setup.reference.probabilities(paths, inside)
    for unlike in (setup.reference.probabilities(), setup.reference.probabilities(None, "clean")):
        assert (setup.difference(expected) - setup.difference(unlike)).abs().max() > 1e-3
    assert_agree(setup, engine.evaluate([request(paths, inside)])[0], expected)


@each_engine
@each_setup
def test_nothing_and_everything_patched(engine_name, setup_name):
    setup, engine = SETUPS[setup_name](), engine_for(engine_name, setup_name)
    clean, corrupted = setup.reference.probabilities(), setup.reference.probabilities(None, "clean")
    everything = PathSet.at(Node.logits(setup.end)).extend([Node.residual(setup.end)])
    assert (setup.difference(clean) - setup.difference(corrupted)).abs().max() > 1e-2
    assert_agree(setup, engine.clean(), clean)
    assert_agree(setup, engine.corrupted(), corrupted)
    assert_agree(setup, engine.patch(everything), corrupted)
    assert_agree(setup, engine.isolate(everything), clean)


def sweeps(setup: Setup) -> dict[str, tuple[PathSet, list[Node], str]]:
    """Receivers, senders and input of sweeps like those of the paper, and a few beyond them."""
    sizes, end, yy = setup.model.architecture, setup.end, setup.yy_position
    at_end, at_yy, before_yy = (
        [node for layer in range(sizes.n_layers) for node in layer_nodes(layer, sizes.n_heads, position)]
        for position in (end, yy, yy + 1)
    )
    logits, heads = PathSet.at(Node.logits(end)), late_half(setup)
    chained = logits.through_chains([Node.mlp(2, end)]).extend([Node.mlp(1, end)])
    return {
        "logits": (logits, at_end, "all"),
        "an mlp through every chain": (chained, at_end, "all"),
        "q": (heads, at_end, "q"),
        "k": (heads, at_yy, "k"),
        "v": (heads, at_yy, "v"),
        "an mlp at YY": (heads.extend([Node.mlp(1, yy)], "v"), at_yy, "all"),
        "every input": (heads, at_end, "all"),
        "head at YY": (heads.extend([Node.head(1, 0, yy)], "v"), at_yy, "all"),
        "another position": (heads, before_yy, "all"),
        "embeddings, and in no order": (heads, [Node.mlp(1, yy), Node.embeds(yy), Node.head(0, 2, yy)], "v"),
        "neurons": (logits, [Node.neuron(1, index, end) for index in range(sizes.d_mlp)], "all"),
        "neurons through an mlp": (chained, [Node.neuron(layer, 3, end) for layer in range(3)], "all"),
        "several positions": (heads, [Node.head(0, 1, at) for at in range(end + 1)], "v"),
        "whole inputs": (heads, [Node.residual(at) for at in range(end + 1)], "k"),
        "a sender that already ends a path": (late_half(setup) | logits.extend([Node.mlp(1, end)]), at_end, "all"),
        "one sender": (heads, [Node.mlp(0, yy)], "v"),
        "a sender twice": (heads, [Node.mlp(0, yy), Node.head(0, 0, yy), Node.mlp(0, yy)], "v"),
    }


def reference_sweep(setup: Setup, receivers: PathSet, senders: list[Node], via: str) -> torch.Tensor:
    """One path set a sender, none where the sender is out of reach: (S, N, A)."""
    sets = [receivers.extend([node], via) if receivers.reachable(node, via) else None for node in senders]
    return torch.stack([setup.reference.probabilities(paths) for paths in sets])


SWEEPS = list(sweeps(SETUPS["with eos"]()))
OF_THE_PAPER = SWEEPS[:6]


@each_engine
@pytest.mark.parametrize(
    ("setup_name", "sweep_name"),
    [
        *(("all tokens differ", name) for name in SWEEPS),
        *((setup_name, name) for setup_name in ("with eos", "without eos") for name in OF_THE_PAPER),
    ],
)
def test_sweeps(engine_name, setup_name, sweep_name):
    setup, engine = SETUPS[setup_name](), engine_for(engine_name, setup_name)
    receivers, senders, via = sweeps(setup)[sweep_name]
    expected = reference_sweep(setup, receivers, senders, via)
    assert (setup.difference(expected) - setup.difference(setup.reference.probabilities())).abs().max() > 1e-4
    assert_agree(setup, engine.sweep(receivers, senders, via), expected)


@each_engine
def test_a_sweep_is_its_path_sets_one_by_one(engine_name):
    setup, engine = SETUPS["with eos"](), engine_for(engine_name, "with eos")
    for receivers, senders, via in (sweeps(setup)[name] for name in ("logits", "v")):
        for sender, swept in zip(senders, engine.sweep(receivers, senders, via), strict=True):
            reachable = receivers.reachable(sender, via)
            alone = engine.patch(receivers.extend([sender], via)) if reachable else engine.clean()
            assert_agree(setup, swept, alone, ROUNDING)


@each_engine
def test_senders_that_reach_no_receiver_change_nothing(engine_name):
    setup, engine = SETUPS["all tokens differ"](), engine_for(engine_name, "all tokens differ")
    heads = PathSet.at(Node.logits(setup.end)).extend([Node.head(1, 2, setup.end)])
    swept = engine.sweep(heads, [Node.mlp(2, setup.yy_position), Node.mlp(0, setup.yy_position)], "v")
    assert_agree(setup, swept[0], engine.clean(), ROUNDING)
    assert (swept[1] - engine.clean()).abs().max() > 1e-4


@each_engine
def test_results_do_not_depend_on_what_was_asked_before(engine_name):
    setup = SETUPS["with eos"]()
    engine = make_engine(engine_name, setup.model, setup.sentences)
    sets = [late_half(setup), full_circuit(setup), PathSet.at(Node.logits(setup.end)).extend([Node.mlp(1, setup.end)])]
    first = [engine.evaluate([request(paths, inside)])[0] for paths in sets for inside in ("clean", "corrupted")]
    again = [engine.evaluate([request(paths, inside)])[0] for paths in sets for inside in ("clean", "corrupted")]
    for before, after in zip(first, again, strict=True):
        assert_agree(setup, after, before, ROUNDING)


def some_rows(setup: Setup, rows: list[int]) -> Setup:
    chosen = torch.tensor(rows)
    sentences = Sentences(setup.sentences.clean[chosen], setup.sentences.corrupted[chosen], setup.sentences.answers)
    return replace(setup, sentences=sentences, years=setup.years[chosen], reference=Reference(setup.model, sentences))


@each_engine
@pytest.mark.parametrize(("setup_name", "memory_gb", "n"), [("with eos", 0.001, 40), ("all tokens differ", 1e-9, 3)])
def test_a_small_memory_budget_changes_nothing(engine_name, setup_name, memory_gb, n):
    base = SETUPS[setup_name]()
    setup = some_rows(base, [row % len(base.sentences) for row in range(n)])
    roomy, tight = (make_engine(engine_name, setup.model, setup.sentences, memory) for memory in (4.0, memory_gb))
    for paths, inside in ((None, "corrupted"), (late_half(setup), "corrupted"), (full_circuit(setup), "clean")):
        assert_agree(
            setup, tight.evaluate([request(paths, inside)])[0], roomy.evaluate([request(paths, inside)])[0], ROUNDING
        )
    for receivers, senders, via in (sweeps(setup)[name] for name in ("logits", "v", "neurons through an mlp")):
        few = senders[::3]
        assert_agree(setup, tight.sweep(receivers, few, via), roomy.sweep(receivers, few, via), ROUNDING)


@each_engine
@pytest.mark.parametrize(
    ("setup_name", "rows"),
    [("with eos", [0]), ("without eos", [2, 2, 2]), ("all tokens differ", [1, 0, 1, 2, 0])],
    ids=["one sentence", "copies", "duplicates"],
)
def test_sentences_may_be_few_or_repeated(engine_name, setup_name, rows):
    setup = some_rows(SETUPS[setup_name](), rows)
    engine = make_engine(engine_name, setup.model, setup.sentences)
    for paths, inside in ((None, "corrupted"), (late_half(setup), "corrupted"), (full_circuit(setup), "clean")):
        assert_agree(setup, engine.evaluate([request(paths, inside)])[0], setup.reference.probabilities(paths, inside))
    sweep = sweeps(setup)["k"]
    assert_agree(setup, engine.sweep(*sweep), reference_sweep(setup, *sweep))


@each_engine
def test_pairs_that_are_alike_have_no_effect(engine_name):
    setup = SETUPS["with eos"]()
    alike = replace(setup.sentences, corrupted=setup.sentences.clean)
    engine = make_engine(engine_name, setup.model, alike)
    for paths in (late_half(setup), full_circuit(setup)):
        assert (engine.patch(paths) - engine.clean()).abs().max() < ROUNDING


@each_engine
def test_twins_may_share_sentences_between_the_data_sets(engine_name):
    """A corrupted sentence may be another row's clean one."""
    base = SETUPS["all tokens differ"]()
    sentences = Sentences(base.sentences.clean, base.sentences.clean.roll(1, 0), base.sentences.answers)
    setup = replace(base, sentences=sentences, reference=Reference(base.model, sentences))
    engine = make_engine(engine_name, setup.model, sentences)
    for paths in (late_half(setup), full_circuit(setup)):
        assert_agree(setup, engine.patch(paths), setup.reference.probabilities(paths))


@each_engine
@pytest.mark.parametrize("activation", ["gelu_new", "gelu"])
def test_the_activation_is_the_models(engine_name, activation):
    setup = SETUPS["with eos"]()
    model = setup.model.with_activation(activation)
    engine = make_engine(engine_name, model, setup.sentences)
    other_activation = {"gelu": "gelu_new", "gelu_new": "gelu"}[activation]
    expected = Reference(model, setup.sentences).probabilities(late_half(setup))
    unlike = Reference(model.with_activation(other_activation), setup.sentences).probabilities(late_half(setup))
    assert (expected - unlike).abs().max() > 3 * TOLERANCE
    assert_agree(setup, engine.patch(late_half(setup)), expected)


@each_engine
def test_a_model_of_one_layer_and_one_head(engine_name):
    sizes = Architecture(n_layers=1, n_heads=1, d_model=8, d_head=8, d_mlp=12, n_positions=3, vocab_size=120)
    base = SETUPS["all tokens differ"]()
    clean, corrupted = torch.tensor([[3, 5, 7], [2, 8, 4]]), torch.tensor([[3, 6, 9], [1, 7, 4]])
    sentences, model = Sentences(clean, corrupted, torch.arange(100)), random_model(sizes, std=0.5)
    setup = replace(base, model=model, sentences=sentences, years=torch.tensor([30, 60]))
    engine, logits = make_engine(engine_name, model, sentences), PathSet.at(Node.logits(2))
    for paths in (
        logits.extend([Node.mlp(0, 2)]),
        logits.extend([Node.head(0, 0, 2)]).extend([Node.embeds(0), Node.embeds(1)], "k"),
        logits.extend([Node.mlp(0, 2)]).extend([Node.head(0, 0, 2)]).extend([Node.embeds(2)], "q"),
    ):
        assert_agree(setup, engine.patch(paths), Reference(model, sentences).probabilities(paths))


@each_engine
@each_setup
@pytest.mark.parametrize("data", ["clean", "corrupted"])
def test_writes_residuals_and_attention(engine_name, setup_name, data):
    setup, engine = SETUPS[setup_name](), engine_for(engine_name, setup_name)
    reference, sizes, end = setup.reference, setup.model.architecture, setup.end
    nodes = [
        *(node for layer in range(sizes.n_layers) for node in layer_nodes(layer, sizes.n_heads, end)),
        Node.embeds(end), Node.embeds(setup.yy_position), Node.head(1, 0, setup.yy_position), Node.mlp(0, 1),
    ]  # fmt: skip
    expected = torch.stack([reference.write(node, None, data) for node in nodes])
    writes = engine.writes(nodes, data)
    assert writes.dtype == torch.float32
    torch.testing.assert_close(writes.double(), expected, rtol=0, atol=1e-4)
    for reader in (Node.logits(end), Node.head(2, 1, end), Node.mlp(1, setup.yy_position), Node.head(0, 0, 1)):
        residual = engine.residual(reader, data)
        via = "q" if reader.kind == "head" else "in"
        assert residual.dtype == torch.float32
        torch.testing.assert_close(
            residual.double(), reference.residual(reader, via, reader.position, None, data), rtol=0, atol=1e-4
        )
    heads = [*HEADS, (0, 0)]
    attention = engine.attention(heads, data)
    assert attention.shape == (len(heads), len(setup.sentences), end + 1, end + 1)
    assert attention.dtype == torch.float32
    for (layer, head), pattern in zip(heads, attention.double(), strict=True):
        for query in range(end + 1):
            seen = reference.attention(Node.head(layer, head, query), None, data)
            torch.testing.assert_close(pattern[:, query, : query + 1], seen, rtol=0, atol=1e-5)
            assert (pattern[:, query, query + 1 :] == 0).all()


@each_engine
@each_setup
def test_the_writes_at_a_position_add_up_to_the_residual_stream(engine_name, setup_name):
    setup, engine = SETUPS[setup_name](), engine_for(engine_name, setup_name)
    sizes, end = setup.model.architecture, setup.end
    nodes = [node for layer in range(sizes.n_layers) for node in layer_nodes(layer, sizes.n_heads, end)]
    biases = sum(setup.model.tensors[f"a{layer}.w.o_bias_arr"] for layer in range(sizes.n_layers))
    total = engine.writes([Node.embeds(end), *nodes]).sum(0) + biases
    residual = engine.residual(Node.logits(end))
    assert residual.abs().mean() > 0.5
    torch.testing.assert_close(total, residual, rtol=0, atol=2e-5)


@each_engine
def test_a_node_may_be_asked_for_twice(engine_name):
    engine = engine_for(engine_name, "with eos")
    end = engine.sentences.end
    nodes = [Node.embeds(end), Node.mlp(1, end), Node.head(0, 1, end), Node.neuron(1, 3, end)]
    once = engine.writes(nodes)
    assert torch.equal(engine.writes([*nodes, *nodes[::-1]]), torch.cat([once, once.flip(0)]))
    receivers = PathSet.at(Node.logits(end))
    swept = engine.sweep(receivers, nodes[1:3])
    assert torch.equal(engine.sweep(receivers, [*nodes[1:3], *nodes[1:3]]), torch.cat([swept, swept]))
    assert torch.equal(*engine.attention([(0, 1), (0, 1)]))


@each_engine
def test_a_neuron_writes_its_activation_times_its_column(engine_name):
    setup, engine = SETUPS["without eos"](), engine_for(engine_name, "without eos")
    mlp = Node.mlp(1, setup.end)
    neurons = [Node.neuron(1, index, setup.end) for index in range(setup.model.architecture.d_mlp)]
    writes = engine.writes(neurons).double()
    columns = setup.reference.weights["m1.w.proj_out"].T  # (d_mlp, D)
    expected = setup.reference.activations(mlp, None, "clean").T[:, :, None] * columns[:, None]
    torch.testing.assert_close(writes, expected, rtol=0, atol=1e-5)
    bias = setup.model.tensors["m1.w.out_bias_arr"]
    torch.testing.assert_close(writes.sum(0).float() + bias, engine.writes([mlp])[0], rtol=0, atol=2e-5)


@each_engine
def test_sentences_must_fit_the_model(engine_name):
    setup = SETUPS["without eos"]()
    answers, fine = setup.sentences.answers, setup.sentences.clean
    positions, vocabulary = setup.model.architecture.n_positions, setup.model.architecture.vocab_size
    too_long = torch.ones(2, positions + 1, dtype=torch.int64)
    unknown, negative = fine.clone(), fine.clone()
    unknown[1, 3], negative[0, 0] = vocabulary, -1
    with pytest.raises(UserError, match=f"{positions + 1} tokens"):
        make_engine(engine_name, setup.model, Sentences(too_long, too_long, answers))
    for clean, corrupted, asked in (
        (unknown, fine, answers),
        (fine, negative, answers),
        (fine, fine, answers + vocabulary),
    ):
        with pytest.raises(UserError, match="outside the vocabulary"):
            make_engine(engine_name, setup.model, Sentences(clean, corrupted, asked))


@each_engine
def test_path_sets_must_fit_the_model_and_start_at_the_logits(engine_name):
    setup, engine = SETUPS["with eos"](), engine_for(engine_name, "with eos")
    end = setup.end
    logits = PathSet.at(Node.logits(end))
    for paths, message in (
        (logits.extend([Node.mlp(3, end)]), "3 layers"),
        (logits.extend([Node.head(0, 3, end)]), "3 heads"),
        (PathSet.at(Node.logits(end + 1)), "positions 0 to"),
        (PathSet.at(Node.mlp(1, end)), "starts at the logits"),
    ):
        with pytest.raises(PathSetError, match=message):
            engine.patch(paths)
    with pytest.raises(PathSetError, match="3 layers"):
        engine.sweep(logits, [Node.mlp(0, end), Node.mlp(7, end)])


@each_engine
def test_a_sweep_that_can_reach_nothing_is_an_error(engine_name):
    """The published sweep of query inputs: at YY, which no query at END reads."""
    setup, engine = SETUPS["with eos"](), engine_for(engine_name, "with eos")
    at_yy = layer_nodes(0, 3, setup.yy_position)
    with pytest.raises(PathSetError, match="cannot be reached"):
        engine.sweep(late_half(setup), at_yy, "q")
    with pytest.raises(PathSetError):
        engine.sweep(late_half(setup), [], "q")


# What other tools do by default: everything downstream of the patched nodes is recomputed.


def with_writes_replaced(setup: Setup, nodes: list[Node]) -> torch.Tensor:
    """Answer probabilities of `transformers` when what these nodes write is taken from the corrupted run."""
    hf_model = to_transformers(setup.model)
    d_head = setup.model.architecture.d_head
    writes: dict[Node, torch.Tensor] = {}

    def place(node: Node) -> tuple[torch.nn.Module, slice]:
        block = hf_model.transformer.h[node.layer]
        if node.kind == "mlp":
            return block.mlp.c_proj, slice(None)
        return block.attn.c_proj, slice(d_head * node.index, d_head * (node.index + 1))

    def keep(node: Node, module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        writes[node] = given[0][:, node.position, place(node)[1]].clone()

    def replace(node: Node, module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        changed = given[0].clone()
        changed[:, node.position, place(node)[1]] = writes[node]
        return (changed,)

    for tokens, hook in ((setup.sentences.corrupted, keep), (setup.sentences.clean, replace)):
        handles = [place(node)[0].register_forward_pre_hook(partial(hook, node)) for node in nodes]
        logits = end_logits(hf_model, tokens)
        for handle in handles:
            handle.remove()
    return answer_probabilities(logits, setup.sentences.answers)


@each_engine
@pytest.mark.parametrize("which", ["mlp at YY", "head at YY", "both", "at END"])
def test_everything_downstream_recomputed_is_a_forward_pass_with_writes_replaced(engine_name, which):
    setup = SETUPS["with eos"]()
    yy, end = setup.yy_position, setup.end
    mlp, head = Node.mlp(0, yy), Node.head(1, 1, yy)
    nodes = {"mlp at YY": [mlp], "head at YY": [head], "both": [mlp, head], "at END": [Node.head(2, 0, end)]}[which]
    sizes = setup.model.architecture
    paths = PathSet.all_downstream(nodes, end, sizes.n_layers, sizes.n_heads)
    found, expected = engine_for(engine_name, "with eos").patch(paths), with_writes_replaced(setup, nodes)
    assert (expected - setup.reference.probabilities()).abs().max() > 1e-3
    assert_agree(setup, found, expected)


@each_engine
def test_swept_together_as_alone(engine_name, monkeypatch):
    """Ten pairs are too few for a head's output directions to be the shorter way, twenty are not."""
    setup, generator = SETUPS["with eos"](), torch.Generator().manual_seed(0)
    architecture, answers = setup.model.architecture, setup.sentences.answers

    def sentences(n: int, length: int, answers: torch.Tensor = answers) -> Sentences:
        clean, corrupted = torch.randint(1, VOCABULARY, (2, n, length), generator=generator).unbind()
        return Sentences(clean, corrupted, answers)

    def metric(probabilities: torch.Tensor) -> torch.Tensor:
        return probabilities[:, :5] @ torch.arange(5.0).double()

    first = make_engine(engine_name, setup.model, sentences(10, 6), memory_gb=5e-4)  # several batches
    twice = first.like(sentences(10, 9).rows(torch.tensor([9, *range(10), 3])))
    other = first.like(sentences(10, 6, answers[:7]))
    engines = [first, other, twice]
    head = Node.head(0, 0, 0)
    assert [is_cheaper(head, architecture, n) for n in (10, 20)] == [False, True]
    along = []
    monkeypatch.setattr(
        "path_patching.sweeps.direct_effects", lambda *given: along.append(len(given[0])) or direct_effects(*given)
    )
    for inside in ("corrupted", "mean") if engine_name == "torch" else ("mean",):  # the other is slow
        found = direct_effects_on(engines, [metric] * 3, inside)
        for engine, table in zip(engines, found, strict=True):
            end = engine.sentences.end
            alone = effects_on(engine, PathSet.at(Node.logits(end)), metric, end, inside=inside)
            assert alone.abs().max() > 1e-4
            torch.testing.assert_close(table, alone, rtol=0, atol=1e-6)
    assert set(along) == {22}  # `other` has other answers, and goes alone
