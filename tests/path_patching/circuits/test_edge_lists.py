from __future__ import annotations

import json
import random
import re

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as tried
from hypothesis import strategies as st

from path_patching.circuits.circuit import Circuit, Link, full_circuit, on_paths
from path_patching.circuits.circuit_file import read_circuit
from path_patching.circuits.edge_lists import (
    as_graph,
    as_text,
    edge,
    edges_outside,
    from_graph,
    from_text,
    without_places,
)
from path_patching.errors import UserError
from path_patching.gpt2.model import GPT2_SMALL
from reproduction.paper import PAPER
from tests.helpers.edge_patching import all_edges, edges_alone
from tests.helpers.engines import each_engine, make_engine
from tests.helpers.refusals import unless_refused
from tests.helpers.setups import SETUPS

KEYS = Link("a7.h10", "k", "m3")


@pytest.mark.parametrize(
    "text",
    ["m3->a7.h10<k>", "m3 →k a7.h10", "m3 ->k a7.h10", "MLP 3->A7.10.K", " MLP 3 → a7.h10<k> ", "m3 -> A7.10.K"],
)
def test_an_edge_is_the_same_in_every_spelling(text):
    assert edge(text) == (KEYS,)


@pytest.mark.parametrize(
    ("text", "link"),
    [
        ("Resid Start->MLP 0", Link("m0", "in", "embeds")),
        ("input->m0", Link("m0", "in", "embeds")),
        ("A9.1->Resid End", Link("logits", "in", "a9.h1")),
        ("a0.h1->m0", Link("m0", "in", "a0.h1")),
        ("m3@YY →v a9.h1@END", Link("a9.h1@END", "v", "m3@YY")),
        ("everything →q a9.h1@END", Link("a9.h1@END", "q", "everything")),
    ],
)
def test_edges_of_every_kind(text, link):
    assert edge(text) == (link,)
    assert edge(str(link)) == (link,)


def test_a_head_that_is_named_without_an_input_is_read_through_all_three():
    assert edge("m3->a7.h10") == tuple(Link("a7.h10", via, "m3") for via in ("q", "k", "v"))


def test_a_text_has_comments_and_each_edge_once():
    text = "# mine\n\nm3->a7.h10<k>  # by keys\nMLP 3->A7.10.K\na7.h10->m8\n"
    assert from_text(text) == (KEYS, Link("m8", "in", "a7.h10"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "it has no edge"),
        ("# nothing", "it has no edge"),
        ("m3", "'m3' is no edge"),
        ("m3->m4->m5", "'m3->m4->m5' is no edge"),
        ("x->m4", "'x' is no node"),
        ("m03->m4", "'m03' is no node"),
        ("m3.n5->m4", "'m3.n5' is no node"),
        ("m3->m4<k>", "'m4<k>' is no node"),
        ("m3 →k m4", "names an input that its reader does not have"),
        ("m3 →k a7.h10<q>", "names an input that its reader does not have"),
        ("a5.h1<k>->m8", "names an input that its reader does not have"),
        ("m8->m3", "does not lead downstream"),
        ("m8->m8", "does not lead downstream"),
        ("a9.h1->a9.h2", "does not lead downstream"),
        ("m3->input", "does not lead downstream"),
        ("m3->everything", "does not lead downstream"),
        ("logits->m3", "does not lead downstream"),
        ("m3@12->m8@END", "'m3@12' has an unknown place"),
        ("a" * 20_000, "'aaa"),
    ],
)
def test_what_is_no_edge_is_one_short_line(text, complaint):
    with pytest.raises(UserError, match=re.escape(complaint)) as error:
        from_text(text)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_the_graph_of_gpt2_small_is_read_whole_and_is_as_large_as_others_say():
    graph = {"edges": dict.fromkeys(all_edges(GPT2_SMALL), True)}
    links = from_graph(graph)
    assert len(links) == 32_491
    assert on_paths(links) == (links, ())


def test_of_a_graph_the_edges_that_are_in_it_are_read_whatever_the_nodes_say():
    described = {
        "cfg": {"n_layers": 12, "n_heads": 12, "parallel_attn_mlp": False, "d_model": 768},
        "nodes": {"input": {"in_graph": False}, "m8": {"in_graph": False, "score": 0.1}, "a0.h1": False},
        "edges": {
            "m3->a7.h10<k>": {"score": -0.01, "in_graph": True},
            "m3->a7.h10<q>": {"score": 0.5, "in_graph": False},
            "a7.h10->m8": {"score": None, "in_graph": True},
            "m8->logits": {"in_graph": 1.0},
        },
    }
    assert from_graph(described) == from_text("m3->a7.h10<k>\na7.h10->m8\nm8->logits")
    assert edges_outside(described) == 1


@pytest.mark.parametrize(
    ("described", "complaint"),
    [
        ({}, "a graph has an object 'edges'"),
        ({"edges": []}, "a graph has an object 'edges'"),
        ({"edges": {"m0->m1": True}, "everything": "a9.h1<q>"}, "a graph has an object 'edges'"),
        ({"edges": {"m0->m1": {"score": 1.0}}}, "its edge 'm0->m1' has no in_graph"),
        ({"edges": {"m0->m1": {"in_graph": "yes"}}}, "its edge 'm0->m1' has no in_graph"),
        ({"edges": {"m0->m1": {"in_graph": False}}}, "none of its 1 edges is in_graph"),
        ({"edges": {"m1->m0": True}}, "'m1->m0' does not lead downstream"),
        ({"edges": {"m0->m1": True}, "everything": [9]}, "'9' is no node"),
        ({"edges": {"m0->m1": True}, "cfg": {"parallel_attn_mlp": True}}, "side by side"),
        ({"edges": {"m0->m1": True}, "nodes": {"m0": {"neurons": [1.0, 0.0]}}}, "it has a part of m0 alone"),
    ],
)
def test_what_is_no_graph_is_one_line(described, complaint):
    with pytest.raises(UserError, match=re.escape(complaint)):
        from_graph(described)


def test_a_graph_is_written_as_eap_ig_reads_it():
    links = from_text("embeds@YY → m0@YY\nm0@YY →v a9.h1@END\na9.h1@END → logits@END\neverything →q a9.h1@END")
    graph = as_graph(links, GPT2_SMALL)
    assert graph["cfg"] == {"n_layers": 12, "n_heads": 12, "parallel_attn_mlp": False, "d_model": 768}
    assert graph["nodes"] == {name: {"in_graph": True} for name in ("a9.h1", "input", "logits", "m0")}
    assert {*graph["edges"]} == {"input->m0", "m0->a9.h1<v>", "a9.h1->logits"} <= {*all_edges(GPT2_SMALL)}
    assert graph["everything"] == ["a9.h1<q>"]
    assert from_graph(json.loads(json.dumps(graph))) == without_places(links)


def test_a_graph_of_nodes_that_its_model_lacks_is_not_written():
    with pytest.raises(UserError, match=r"a model of 12 layers of 12 heads has no a9\.h12"):
        as_graph([Link("logits", "in", "a9.h12")], GPT2_SMALL)


def test_the_papers_circuit_is_the_same_after_a_graph_up_to_positions():
    read = Circuit("read", from_graph(json.loads(json.dumps(as_graph(PAPER.links, GPT2_SMALL)))))
    assert full_circuit(read, 8, 12) == full_circuit(Circuit("bare", without_places(PAPER.links)), 8, 12)


@each_engine
@pytest.mark.parametrize("seed", [0, 1])
def test_edges_alone_are_edge_patching_in_a_graph(engine_name, seed):
    """All three ways: an engine, the reference on the paths, and a graph in which nothing is known of paths."""
    setup = SETUPS["all tokens differ"]()
    edges = all_edges(setup.model.architecture)
    some = random.Random(seed).sample(edges, len(edges) // 3)
    kept, loose = on_paths(from_graph({"edges": {name: {"in_graph": name in some} for name in edges}}))
    assert loose, "edges that lead nowhere change nothing"
    paths = full_circuit(Circuit("some", kept), setup.yy_position, setup.end)
    expected = edges_alone(setup.model, setup.sentences, some)
    whole, nothing = (edges_alone(setup.model, setup.sentences, each) for each in (edges, []))
    assert min((expected - each).abs().max() for each in (whole, nothing)) > 0.1
    torch.testing.assert_close(setup.reference.probabilities(paths, "clean"), expected, rtol=0, atol=1e-12)
    alone = make_engine(engine_name, setup.model, setup.sentences).isolate(paths)
    torch.testing.assert_close(alone, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("text", [as_text(PAPER.links), json.dumps(as_graph(PAPER.links, GPT2_SMALL))])
def test_a_file_of_edges_is_a_circuit_called_as_the_file(text, tmp_path, capsys):
    path = tmp_path / "someone's.txt"
    path.write_text(text)
    circuit = read_circuit(path)
    assert circuit.name == "someone's"
    assert circuit.links == (PAPER.links if circuit.placed else without_places(PAPER.links))
    assert capsys.readouterr().err == ""


def test_a_score_that_is_none_is_no_trouble(tmp_path):
    path = tmp_path / "scored.json"
    about = '{"score": NaN, "in_graph": true}'
    path.write_text(f'{{"nodes": {{"m0": {about}}}, "edges": {{"input->m0": {about}, "m0->logits": {about}}}}}')
    assert read_circuit(path).links == from_text("input->m0\nm0->logits")


def test_a_line_says_which_edges_of_a_file_are_left_out(tmp_path, capsys):
    path = tmp_path / "theirs.json"
    inside = dict.fromkeys(["input->m0", "m0->logits", "m1->m2", "a0.h1->m1"], True)
    path.write_text(json.dumps({"edges": {name: inside.get(name, False) for name in all_edges(GPT2_SMALL)}}))
    assert read_circuit(path).links == from_text("input->m0\nm0->logits")
    said = capsys.readouterr().err
    assert said == (
        "edges left out of theirs.json: 32,487 not in its graph, and 2 on no path from the embeddings to the logits\n"
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("m0->m1", "none of its edges is on a path"),
        ('{"edges": {}}', "none of its edges is on a path"),
        ("m0@YY->a9.h1<k>\na9.h1->logits\ninput->m0", "give all nodes one, or none"),
        ("input->m0\nm0->logits\nm0@YY->a9.h1<k>@END", "a9.h1@END has a place, but embeds has none"),
        ("input@YY->m0@YY\nm0@YY->a9.h1@END<k>", "has an unknown place"),
        ("a9.h1->logits@END\ninput->a9.h1", "give all nodes one, or none"),
        ("input@YY->m0@YY\nm0@YY->logits@END", "or at a position that is not read"),
    ],
)
def test_a_file_whose_edges_are_no_circuit_is_one_line(text, complaint, tmp_path):
    path = tmp_path / "theirs"
    path.write_text(text)
    with pytest.raises(UserError, match=complaint) as error:
        read_circuit(path)
    assert "\n" not in str(error.value)


some_edges = st.lists(st.sampled_from(all_edges(GPT2_SMALL)), min_size=1, max_size=30, unique=True)


@tried(max_examples=60, deadline=None, derandomize=True)
@given(edges=some_edges)
def test_edges_are_the_same_after_a_text_and_after_a_graph(edges):
    links = from_text("\n".join(edges))
    assert len(links) == len(edges)
    assert from_text(as_text(links)) == links
    assert from_graph(as_graph(links, GPT2_SMALL)) == links


ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from(["m0->m1"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=4,
)
ABOUT_EDGES = st.one_of(st.just(True), st.just({"score": 0.5, "in_graph": True}), ANYTHING)
NAMES = st.sampled_from(["input->m0", "m0->logits", "m0->a1.h0<v>", "a1.h0->logits", "m1->m0", "m0", "\ud800->m0", ""])


@st.composite
def graphs(draw) -> object:
    """A graph's JSON, with anything in the place of some of it."""
    described = {"cfg": {"n_layers": 12}, "nodes": {"m0": {"in_graph": True}}, "everything": ["a1.h0<q>"]}
    described |= {"edges": draw(st.dictionaries(NAMES, ABOUT_EDGES, max_size=5))}
    return described | draw(
        st.dictionaries(st.sampled_from(["cfg", "nodes", "edges", "everything"]), ANYTHING, max_size=2)
    )


@tried(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(described=graphs())
def test_any_graph_is_a_circuit_or_refused_in_one_line(tmp_path, described):
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(described))
    if circuit := unless_refused(lambda: read_circuit(path)):
        assert {*circuit.links} <= {*from_graph(described)}
        assert "logits" in {link.reader for link in circuit.links}


PIECES = st.sampled_from(
    ["m3", "a7.h10", "<k>", "->", "→", "→k ", "@", "YY", "END", "MLP ", "A9.1", ".K", "input", "logits", "everything",
     "Resid Start", "#", "\n", " ", "0", "9" * 50, "\ud800", "\x00", "<", ">"]
)  # fmt: skip


@tried(max_examples=80, deadline=None, derandomize=True)
@given(pieces=st.lists(PIECES, max_size=8))
def test_any_text_has_edges_or_is_refused_in_one_line(pieces):
    if links := unless_refused(lambda: from_text("".join(pieces))):
        assert from_text(as_text(links)) == links
