from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st

from path_patching.circuits.circuit import LOGITS, Circuit
from path_patching.circuits.circuit_file import (
    as_json,
    from_json,
    links_as_json,
    links_from_json,
    read_circuit,
    table,
)
from path_patching.circuits.links import Link
from path_patching.errors import UserError
from path_patching.files import ROOT
from reproduce import show_circuit
from reproduction.paper import PAPER
from tests.helpers.refusals import put_there, unless_refused
from tests.helpers.scripts import error_line, output, run_python

SCRIPT = str(ROOT / "reproduce.py"), "circuit"
BARE = Circuit("bare", (), ("a0.h1",), (LOGITS,), ("embeds",), (), followed=("v",), whole=())


@pytest.mark.parametrize("circuit", [PAPER, replace(PAPER, heads_feed=("m8", "m9")), BARE])
def test_a_circuit_is_the_same_after_a_file(circuit, tmp_path):
    path = tmp_path / "circuit.json"
    path.write_text(json.dumps(as_json(circuit) | {"links": [], "search": {}}))
    assert read_circuit(path) == circuit


def test_fields_with_a_default_may_be_left_out():
    described = as_json(PAPER)
    for name in ("followed", "whole", "studied"):
        del described[name]
    assert from_json(described) == replace(PAPER, studied=())


def test_links_are_the_same_after_a_file():
    effects = {Link("m8@END", "in", "a5.h1@END"): -0.25, Link("a5.h1@END", "q", "everything"): 1e-7}
    assert links_from_json(json.loads(json.dumps(links_as_json(effects)))) == effects


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "is not JSON"),
        ("[1]", "a circuit is a JSON object"),
        ('{"name": "x"}', "'mlps' is missing"),
        (json.dumps(as_json(PAPER) | {"head": []}), "a circuit has no 'head'"),
        (json.dumps(as_json(PAPER) | {"name": 3}), "'name' must be a text"),
        (json.dumps(as_json(PAPER) | {"mlps": "m8"}), "'mlps' must be a list of names"),
        (json.dumps(as_json(PAPER) | {"heads": [9]}), "'heads' must be a list of names"),
        (json.dumps(as_json(PAPER) | {"heads": ["a9.h1", "m4"]}), "m4 cannot be in heads"),
        (json.dumps(as_json(PAPER) | {"heads": ["9.1"]}), "'9.1' is not a node"),
    ],
)
def test_a_file_that_holds_no_circuit_is_one_line(text, complaint, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(UserError, match=complaint) as error:
        read_circuit(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no circuit can be read from .*mine\.json \(No such file"):
        read_circuit(tmp_path / "mine.json")
    with pytest.raises(UserError, match="no circuit can be read from"):
        read_circuit(tmp_path)


def test_the_table_says_what_each_group_reads():
    rows = [line.strip("| ").split(" | ") for line in table(PAPER).splitlines()]
    assert [len(row) for row in rows] == [3, 1, 3, 3, 3, 3]
    assert rows[2] == ["logits", "END", "the MLPs at END and the heads at END"]
    assert rows[3][0] == "m8, m9, m10, m11"
    assert rows[4][2] == "queries: everything; keys and values: m0, m1, m2, m3, a0.h1, a0.h3, a0.h5 at YY"
    assert rows[5] == ["a0.h1, a0.h3, a0.h5, m0, m1, m2, m3", "YY", "m0, m1, m2, m3, a0.h1 before it; embeds"]


def test_the_table_tells_mlps_that_the_heads_feed_from_others():
    rows = [line.strip("| ").split(" | ") for line in table(replace(PAPER, heads_feed=("m8", "m9"))).splitlines()]
    assert rows[2] == ["logits", "END", "the MLPs at END"]
    assert rows[3] == ["m8, m9", "END", "the MLPs at END before it and the heads at END"]
    assert rows[4] == ["m10, m11", "END", "the MLPs at END before it"]


def test_the_table_of_a_circuit_of_heads_alone():
    assert table(BARE).splitlines()[2:] == [
        "| logits | END | the heads at END |",
        "| a0.h1 | END | values: embeds at YY |",
    ]


def test_the_script_prints_the_papers_circuit_as_json():
    assert from_json(json.loads(output(run_python(*SCRIPT, "--json")))) == PAPER


def test_the_script_prints_the_circuit_of_a_file_as_a_table(tmp_path, capsys):
    path = tmp_path / "bare.json"
    path.write_text(json.dumps(as_json(BARE)))
    show_circuit([str(path)])
    assert capsys.readouterr().out == f"bare\n\n{table(BARE)}\n"
    show_circuit([])
    assert table(PAPER) in capsys.readouterr().out


def test_the_script_ends_with_one_line_where_there_is_no_circuit(tmp_path):
    assert "no circuit can be read" in error_line(run_python(*SCRIPT, str(tmp_path / "none.json")))


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_a_circuit_is_read_from_a_file_alone(tmp_path, kind, monkeypatch):
    path = tmp_path / "circuit.json"
    path.touch()
    put_there(path, kind, monkeypatch)
    with pytest.raises(UserError, match=r"no circuit can be read from .* \(it is not a file\)"):
        read_circuit(path)


NAMES = st.sampled_from(["m8", "m1", "a9.h1", "a0.h3", "embeds", "logits", "a9", "m", "x", "a1.h99", ""])
VALUES = st.one_of(st.lists(NAMES, max_size=4), NAMES, st.none(), st.integers(), st.lists(st.sampled_from("qkvx")))


@tried(max_examples=200, deadline=None)
@given(changed=st.dictionaries(st.sampled_from([*as_json(PAPER), "links", "more"]), VALUES, max_size=3))
def test_any_file_is_a_circuit_or_one_line(changed):
    if circuit := unless_refused(lambda: from_json(as_json(PAPER) | changed)):
        assert from_json(as_json(circuit)) == circuit
        assert table(circuit)
