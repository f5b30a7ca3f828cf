from __future__ import annotations

import pytest
import torch

from path_patching import edits
from path_patching.edits import EditedRuns, activation
from path_patching.errors import UserError
from path_patching.gpt2.model import to_transformers
from path_patching.paths import Node, PathSet, layer_nodes
from path_patching.unembedding import answer_probabilities
from tests.helpers.engines import each_engine, make_engine
from tests.helpers.setups import SETUPS, Setup

TOLERANCE = 5e-6  # of two float32 passes, whose rounding depends on the processor


@pytest.fixture(params=["with eos", "without eos"])
def setup(request) -> Setup:
    return SETUPS[request.param]()


def edited_runs(setup: Setup) -> EditedRuns:
    return EditedRuns(setup.model, setup.sentences.clean, setup.sentences.answers)


def places(setup: Setup) -> dict[str, Node]:
    last = setup.model.architecture.n_layers - 1
    return {
        "input of an MLP": Node.mlp(1, setup.end),
        "input of the last MLP": Node.mlp(last, setup.end),
        "output of a head": Node.head(1, 2, setup.end),
        "output of a first head": Node.head(0, 1, setup.end),
        "output of a last head": Node.head(last, 0, setup.end),
    }


def reading(setup: Setup, place: Node) -> PathSet:
    """All paths at END from the logits to what an edit of `place` replaces."""
    sizes = setup.model.architecture
    every = [n for layer in range(sizes.n_layers) for n in layer_nodes(layer, sizes.n_heads, setup.end)]
    if place.kind == "head":
        replaced, later = [place], [n for n in every if n.depth > place.depth]
    else:
        replaced = [Node.embeds(setup.end), *(n for n in every if n.depth < place.depth)]
        later = [n for n in every if n.depth >= place.depth]
    return PathSet.at(Node.logits(setup.end)).through_chains(later).extend(replaced).ending_at(replaced)


@each_engine
def test_no_change_is_the_clean_run(engine_name, setup):
    clean = make_engine(engine_name, setup.model, setup.sentences).clean()
    runs = edited_runs(setup)
    for place in (*places(setup).values(), Node.embeds(setup.yy_position)):
        nothing = torch.zeros(1, *clean.shape[:1], setup.model.architecture.d_model)
        found = runs.probabilities(place, nothing)
        assert found.dtype == torch.float64
        torch.testing.assert_close(found[0], clean, atol=TOLERANCE, rtol=0)


@each_engine
@pytest.mark.parametrize("name", places(SETUPS["with eos"]()))
def test_01_data_put_in_is_path_patching_through_all_that_reads_it(engine_name, name, setup):
    engine, place = make_engine(engine_name, setup.model, setup.sentences), places(setup)[name]
    change = activation(engine, place, "corrupted") - activation(engine, place)
    found = edited_runs(setup).probabilities(place, change[None])[0]
    expected = engine.patch(reading(setup, place))
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)
    assert (found - engine.clean()).abs().max() > 100 * TOLERANCE, "the change must show"


@each_engine
def test_01_embedding_put_in_is_the_corrupted_run(engine_name, setup):
    engine, place = make_engine(engine_name, setup.model, setup.sentences), Node.embeds(setup.yy_position)
    change = activation(engine, place, "corrupted") - activation(engine, place)
    found = edited_runs(setup).probabilities(place, change[None])[0]
    torch.testing.assert_close(found, engine.corrupted(), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("before_end", [0, 1, 3])
def test_a_changed_embedding_is_what_transformers_make_of_it(setup, before_end):
    place = Node.embeds(setup.end - before_end)
    hf_model, tokens = to_transformers(setup.model), setup.sentences.clean
    change = torch.randn(len(tokens), setup.model.architecture.d_model, generator=torch.Generator().manual_seed(0))
    embedded = hf_model.transformer.wte(tokens).detach()
    embedded[:, place.position] += change
    with torch.inference_mode():
        logits = hf_model(inputs_embeds=embedded).logits[:, -1]
    found = edited_runs(setup).probabilities(place, change[None])[0]
    expected = answer_probabilities(logits, setup.sentences.answers)
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


def test_changes_do_not_disturb_each_other(setup, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    place = Node.head(1, 2, setup.end)
    shape = (3, len(setup.sentences), setup.model.architecture.d_model)
    changes = torch.randn(shape, generator=generator)
    runs = edited_runs(setup)
    together = runs.probabilities(place, changes)
    for change, expected in zip(changes.flip(0), together.flip(0), strict=True):
        torch.testing.assert_close(runs.probabilities(place, change[None])[0], expected, atol=TOLERANCE, rtol=0)
    monkeypatch.setattr(edits, "SENTENCES_AT_ONCE", 2)
    monkeypatch.setattr(edits, "ROWS_AT_ONCE", {"cpu": 1})
    torch.testing.assert_close(runs.probabilities(place, changes), together, atol=TOLERANCE, rtol=0)
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_several_nodes_are_edited_as_each_alone(setup):
    generator = torch.Generator().manual_seed(0)
    n, width = len(setup.sentences), setup.model.architecture.d_model
    places = [Node.head(1, 2, setup.end), Node.mlp(0, setup.end), Node.embeds(0)]
    changes = {place: torch.randn(2 + i, n, width, generator=generator) for i, place in enumerate(places)}
    runs = edited_runs(setup)
    together = runs.probabilities_of_each(changes)
    assert [*together] == places
    for place in places:
        torch.testing.assert_close(together[place], runs.probabilities(place, changes[place]), atol=0, rtol=0)
    assert (together[places[0]][0] - together[places[1]][0]).abs().max() > 1e-3


def test_the_first_position_can_be_edited(setup):
    place = Node.embeds(0)
    changes = torch.zeros(2, len(setup.sentences), setup.model.architecture.d_model)
    changes[1] = 1.0 + torch.arange(changes.shape[-1])
    clean, edited = edited_runs(setup).probabilities(place, changes)
    expected = make_engine("torch", setup.model, setup.sentences).clean()
    torch.testing.assert_close(clean, expected, atol=TOLERANCE, rtol=0)
    assert (edited - clean).abs().max() > 100 * TOLERANCE


@each_engine
def test_activations_are_what_an_mlp_reads_and_what_others_write(engine_name, setup):
    engine = make_engine(engine_name, setup.model, setup.sentences)
    mlp, head = Node.mlp(1, setup.end), Node.head(1, 2, setup.end)
    assert torch.equal(activation(engine, mlp), engine.residual(mlp))
    assert torch.equal(activation(engine, head, "corrupted"), engine.writes([head], "corrupted")[0])
    tokens = setup.sentences.clean[:, setup.yy_position]
    embedded = setup.model.tensors["t.w.tok_embeds"][tokens] + setup.model.tensors["t.w.pos_embeds"][setup.yy_position]
    torch.testing.assert_close(activation(engine, Node.embeds(setup.yy_position)), embedded)
    with pytest.raises(UserError, match=r"logits@.* has no activation to edit; give an MLP"):
        activation(engine, Node.logits(setup.end))
