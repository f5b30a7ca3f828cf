from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as tried
from hypothesis import strategies as st

from path_patching.circuits.circuit import LOGITS, Circuit, Link, full_circuit, late_half
from path_patching.circuits.circuit_file import (
    as_json,
    from_json,
    links_as_json,
    links_from_json,
    read_circuit,
    table,
)
from path_patching.circuits.edge_lists import as_text
from path_patching.circuits.papers_shape import in_papers_shape, varied
from path_patching.errors import UserError
from path_patching.files import ROOT
from reproduce import show_circuits
from reproduction.paper import PAPER
from reproduction.subcommands import circuit as circuit_asked
from tests.helpers.refusals import put_there, unless_refused
from tests.helpers.scripts import error_line, output, run_script

SCRIPT = ROOT / "reproduce.py", "circuit"
REQUIRED = ("name", "mlps", "heads", "heads_feed", "first_below", "further_below")
SMALL = varied(
    PAPER, mlps=("m8", "m9"), heads=("a7.h10",), heads_feed=("m8",), first_below=("m0", "m1"), further_below=("m0",),
    studied=("a7.h10",),
)  # fmt: skip
BARE = in_papers_shape("bare", (), ("a0.h1",), (LOGITS,), ("embeds",), (), followed=("v",), whole=())


@pytest.mark.parametrize("circuit", [PAPER, varied(PAPER, heads_feed=("m8", "m9")), BARE])
def test_a_circuit_is_the_same_after_a_file(circuit, tmp_path):
    path = tmp_path / "circuit.json"
    path.write_text(json.dumps(as_json(circuit) | {"links": [], "search": {}}))
    assert read_circuit(path) == read_circuit(str(path)) == circuit


def test_fields_with_a_default_may_be_left_out():
    described = as_json(PAPER)
    for name in ("followed", "whole", "studied"):
        del described[name]
    assert from_json(described) == replace(PAPER, studied=())


OF_LINKS = Circuit("of links", tuple(map(Link.parse, ("a1.h0 → m1", "m1 → logits", "m0 →v a1.h0", "embeds → m0"))))
PLACED = Circuit(
    "placed",
    tuple(
        map(
            Link.parse,
            ("a1.h0@END → logits@END", "m0@YY →v a1.h0@END", "everything →q a1.h0@END", "m0@END →k a1.h0@END",
             "embeds@YY → m0@YY", "embeds@END → m0@END"),
        )
    ),
    studied=("a1.h0",),
)  # fmt: skip


@pytest.mark.parametrize("circuit", [OF_LINKS, PLACED])
def test_a_circuit_of_another_shape_is_its_links_in_a_file(circuit, tmp_path):
    described = as_json(circuit)
    assert described == {
        "name": circuit.name,
        "links": [str(link) for link in circuit.links],
        "studied": [*circuit.studied],
    }
    path = tmp_path / "circuit.json"
    path.write_text(json.dumps(described))
    assert read_circuit(path) == circuit
    with_effects = described | {"links": links_as_json(dict.fromkeys(circuit.links, -0.5)), "search": {}}
    assert from_json(json.loads(json.dumps(with_effects))) == circuit


def test_lists_say_more_easily_what_links_say():
    described = {"name": PAPER.name, "links": [str(link).replace("→", "->") for link in PAPER.links]}
    assert as_json(from_json(described)) == as_json(PAPER) | {"studied": []}


@pytest.mark.parametrize(
    ("links", "complaint"),
    [
        ("m0 → logits", "'links' must be a list of links"),
        (["m0"], "'m0' is no link; write one like"),
        (["m0 → m1 → logits"], "is no link"),
        ([3], "3 is no link"),
        ([{"reader": "logits", "sender": "m0"}], "is no link"),
        ([], "no path of it leads from the logits down"),
    ],
)
def test_links_of_a_file_that_are_none_are_one_line(links, complaint):
    with pytest.raises(UserError, match=complaint) as error:
        from_json({"name": "x", "links": links})
    assert "\n" not in str(error.value)


def test_the_table_of_links_has_a_row_for_nodes_that_read_the_same():
    assert table(PLACED).splitlines()[2:] == [
        "| logits | END | a1.h0 |",
        "| a1.h0 | END | queries: everything; keys: m0; values: m0 at YY |",
        "| m0 | END | embeds |",
        "| m0 | YY | embeds |",
    ]
    assert table(OF_LINKS).splitlines()[2:] == [
        "| logits | END | m1 |",
        "| m1 | every position | a1.h0 |",
        "| a1.h0 | every position | values: m0 |",
        "| m0 | every position | embeds |",
    ]


def test_links_are_the_same_after_a_file():
    effects = {Link("m8@END", "in", "a5.h1@END"): -0.25, Link("a5.h1@END", "q", "everything"): 1e-7}
    assert links_from_json(json.loads(json.dumps(links_as_json(effects)))) == effects


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON .*nested too deep"),
        ('{"name":' * 100_000, "is not JSON .*nested too deep"),
        (json.dumps(as_json(PAPER))[:-1] + ', "links": NaN}', "is not JSON .*NaN"),
        (json.dumps(as_json(PAPER))[:-1] + f', "links": {"9" * 5000}' + "}", "is not JSON"),
        (json.dumps(as_json(PAPER))[:-1] + ', "mlps": ["m8"]}', "is not JSON .*a key twice"),
        (json.dumps(as_json(PAPER) | {"a" * 20_000: 1}), "a circuit has no 'aaa"),
        (json.dumps(as_json(PAPER) | {"name": ["x"]}), "its name has to be a text"),
        (json.dumps(as_json(PAPER) | {"name": "\u0007"}), "its name has to be a text"),
        (json.dumps(as_json(PAPER) | {"mlps": [["m8"]]}), "'mlps' must be a list of names"),
        (json.dumps(as_json(PAPER) | {"heads": ["a9.h1", "a09.h1"]}), "'a09.h1' is not a node"),
        (json.dumps(as_json(PAPER) | {"heads_feed": ["m8"]}), "a9.h1@END is on no path"),
        ("[1]", "a circuit is a JSON object"),
        ('{"name": "x"}', "'mlps' is missing"),
        (json.dumps(as_json(PAPER) | {"head": []}), "a circuit has no 'head'"),
        (json.dumps(as_json(PAPER) | {"name": 3}), "its name has to be a text of 1 to 100 letters"),
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
    assert len(str(error.value)) < 500


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no circuit can be read from .*mine\.json \(No such file"):
        read_circuit(tmp_path / "mine.json")
    with pytest.raises(UserError, match="no circuit can be read from"):
        read_circuit(tmp_path)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("text", [json.dumps(as_json(OF_LINKS)), as_text(OF_LINKS.links)])
def test_a_file_may_begin_with_a_mark_and_have_lines_of_any_end(mark, text, tmp_path):
    path = tmp_path / "of links.txt"
    path.write_bytes(f"{mark}{text}".replace("\n", "\r\n").encode())
    assert read_circuit(path) == OF_LINKS


def test_a_file_in_another_encoding_is_one_line(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_bytes(as_text(OF_LINKS.links).encode("utf-16"))
    with pytest.raises(UserError, match=r"mine\.txt is not a text in UTF-8"):
        read_circuit(path)


def test_the_table_says_what_each_group_reads():
    rows = [line.strip("| ").split(" | ") for line in table(PAPER).splitlines()]
    assert [len(row) for row in rows] == [3, 1, 3, 3, 3, 3]
    assert rows[2] == ["logits", "END", "the MLPs at END and the heads at END"]
    assert rows[3][0] == "m8, m9, m10, m11"
    assert rows[4][2] == "queries: everything; keys and values: a0.h1, a0.h3, a0.h5, m0, m1, m2, m3 at YY"
    assert rows[5] == ["a0.h1, a0.h3, a0.h5, m0, m1, m2, m3", "YY", "a0.h1, m0, m1, m2 before it; embeds"]


def test_the_table_tells_mlps_that_the_heads_feed_from_others():
    rows = [line.strip("| ").split(" | ") for line in table(varied(PAPER, heads_feed=("m8", "m9"))).splitlines()]
    assert rows[2] == ["logits", "END", "the MLPs at END"]
    assert rows[3] == ["m8, m9", "END", "the MLPs at END before it and the heads at END"]
    assert rows[4] == ["m10, m11", "END", "the MLPs at END before it"]


def test_the_table_of_a_circuit_of_heads_alone():
    assert table(BARE).splitlines()[2:] == [
        "| logits | END | the heads at END |",
        "| a0.h1 | END | values: embeds at YY |",
    ]


def test_the_script_prints_the_papers_circuit_as_json():
    assert from_json(json.loads(output(run_script(*SCRIPT, "--json")))) == PAPER


def test_the_script_prints_the_circuit_of_a_file_as_a_table(tmp_path, capsys):
    path = tmp_path / "bare.json"
    path.write_text(json.dumps(as_json(BARE)))
    show_circuits(circuit_asked([str(path)]))
    assert capsys.readouterr().out == f"bare\n\n{table(BARE)}\n"
    show_circuits(circuit_asked([]))
    assert table(PAPER) in capsys.readouterr().out
    path.write_text(json.dumps(as_json(varied(PAPER, heads_feed=("m8", "m9")))))
    show_circuits(circuit_asked([str(path)]))
    assert PAPER.name not in capsys.readouterr().out, "an edited one has lost the name"


def test_the_script_ends_with_one_line_where_there_is_no_circuit(tmp_path):
    assert "no circuit can be read" in error_line(run_script(*SCRIPT, str(tmp_path / "none.json")))


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_a_circuit_is_read_from_a_file_alone(tmp_path, kind, monkeypatch):
    path = tmp_path / "circuit.json"
    path.touch()
    put_there(path, kind, monkeypatch)
    with pytest.raises(UserError, match=r"no circuit can be read from .* \(it is not a file\)"):
        read_circuit(path)


NAMES = st.sampled_from(
    ["m8", "m9", "m1", "a9.h1", "a0.h3", "a7.h10", "embeds", "logits", "a9", "m08", "m", "x", "a1.h99", "\ud800", ""]
)
FEW = st.lists(NAMES, max_size=4)
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), NAMES),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=4,
)
FITTING = {
    "mlps": ["m8", "m9"], "heads": ["a7.h10", "a9.h1", "a0.h1"], "heads_feed": ["m8", "m9", "logits"],
    "first_below": ["m0", "m1", "embeds"], "further_below": ["m0", "m1", "a0.h1"], "followed": "kv", "whole": "qkv",
}  # fmt: skip
VALUES = st.one_of(FEW, FEW, ANYTHING, st.lists(st.sampled_from("qkvx"), max_size=3))
SPLICED = st.sampled_from(
    ["{", "}", "[", "]", '"', ",", ":", "[" * 5000, "9" * 5000, "NaN", "1e999", "\\ud800", "\x00", "m8"]
)


@st.composite
def files(draw) -> str:
    """The text of a circuit's file: with some of its fields changed, dropped or new, or spoiled anywhere."""
    described = as_json(draw(st.sampled_from([SMALL, BARE])))
    for name in draw(st.lists(st.sampled_from([*FITTING]), max_size=2)):
        described[name] = draw(st.lists(st.sampled_from(FITTING[name]), min_size=1, unique=True))
    if draw(st.booleans()):
        described |= draw(st.dictionaries(st.sampled_from([*described, "links", "more"]), VALUES, max_size=2))
        dropped = draw(st.lists(st.sampled_from([*described]), max_size=1))
        described = {name: value for name, value in described.items() if name not in dropped}
    text = json.dumps(described)
    if draw(st.integers(0, 3)):
        return text
    place = draw(st.integers(0, len(text)))
    return text[:place] + draw(SPLICED) + text[place + draw(st.integers(0, 3)) :]


@tried(max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=files())
def test_any_file_is_a_circuit_as_it_says_or_one_line(tmp_path, text):
    path = tmp_path / "circuit.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    if circuit := unless_refused(lambda: read_circuit(path)):
        given, said = json.loads(text), as_json(circuit)
        assert said["name"] == given["name"]
        assert all({*said[name]} == {*given[name]} for name in REQUIRED[1:-1])
        assert {*said["further_below"]} <= {*given["further_below"]}  # without what none of them could read
        assert from_json(as_json(circuit)) == circuit
        assert table(circuit).count("\n") >= 3
        late, full = late_half(circuit, 1).nodes(), full_circuit(circuit, 0, 1).nodes()
        assert {each.name for each in late} == {LOGITS, *circuit.mlps, *circuit.heads}
        assert {each.name for each in full} >= {*circuit.lower}, "every node is on a path"
