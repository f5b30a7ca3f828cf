from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st

from path_patching.circuits.edge_lists import as_graph, as_text, edge, from_graph, from_text, on_paths, without_places
from path_patching.circuits.links import Link
from path_patching.errors import UserError
from path_patching.gpt2.model import GPT2_SMALL
from tests.helpers.edge_patching import all_edges
from tests.helpers.refusals import unless_refused

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
        ("m3@12->m8@END", "'m3@12' has no place; the places are YY and END"),
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
    assert on_paths(links) == links


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


def test_edges_that_lead_nowhere_are_not_on_paths():
    kept = from_text("input->m0\nm0->a1.h0<v>\na1.h0->m2\nm2->logits")
    loose = from_text("m1->m2\ninput->a1.h1<k>\na1.h1->m3\nm3->m4\na2.h0->a3.h0<q>")
    assert on_paths((*loose, *kept)) == kept
    assert on_paths(loose) == ()


some_edges = st.lists(st.sampled_from(all_edges(GPT2_SMALL)), min_size=1, max_size=30, unique=True)


@tried(max_examples=100, deadline=None, derandomize=True)
@given(edges=some_edges)
def test_edges_are_the_same_after_a_text_and_after_a_graph(edges):
    links = from_text("\n".join(edges))
    assert len(links) == len(edges)
    assert from_text(as_text(links)) == links
    assert from_graph(as_graph(links, GPT2_SMALL)) == links


PIECES = st.sampled_from(
    ["m3", "a7.h10", "<k>", "->", "→", "→k ", "@", "YY", "END", "MLP ", "A9.1", ".K", "input", "logits", "everything",
     "Resid Start", "#", "\n", " ", "0", "9" * 50, "\ud800", "\x00", "<", ">"]
)  # fmt: skip


@tried(max_examples=500, deadline=None, derandomize=True)
@given(pieces=st.lists(PIECES, max_size=8))
def test_any_text_has_edges_or_is_refused_in_one_line(pieces):
    if links := unless_refused(lambda: from_text("".join(pieces))):
        assert from_text(as_text(links)) == links
