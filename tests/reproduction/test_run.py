"""Runs publish whole or not at all; readers refuse what is damaged, missing or mixed."""

from __future__ import annotations

import json
import math
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as tried
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell

from path_patching.bootstrap import Estimate
from path_patching.circuits.circuit import Circuit
from path_patching.circuits.papers_shape import in_papers_shape, varied
from path_patching.errors import UserError
from path_patching.gpt2.model import Architecture, random_model
from path_patching.paths import Node
from reproduction.figures import titled
from reproduction.paper import GIVEN, PAPER
from reproduction.publication import RECORD_VERSION, intact, read_record, record_path, signed
from reproduction.run import Artifacts, Run, check_alike, model_of, read_artifacts, start_run
from reproduction.settings import Settings
from tests.helpers.refusals import unless_refused
from tests.helpers.scripts import run_python

MODEL = random_model(Architecture(1, 1, 4, 4, 8, 16, 10))


def new_run(folder, script="circuit_discovery") -> Run:
    return start_run(script, Settings(out=folder, seed=3), MODEL, "torch", "cpu", ["a warning"])


def visible(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def published(folder, value=1.0, script="circuit_discovery") -> None:
    run = new_run(folder, script)
    run.save("probs.pt", torch.full((2, 3), value), kind="probabilities", evaluation="clean")
    run.save("deep/probs.pt", {"a": torch.arange(3), "names": ["x"]}, kind="probabilities", evaluation="late_half")
    run.note("answer", 42.0, "the answer")
    run.publish()


def test_a_published_run_is_read_back_with_its_record(tmp_path):
    published(tmp_path)
    artifacts = read_artifacts(tmp_path, "circuit_discovery")
    assert torch.equal(artifacts.load("probs.pt"), torch.ones(2, 3))
    assert artifacts.load("deep/probs.pt")["names"] == ["x"]
    assert artifacts.record["model"]["name"] == MODEL.name
    assert artifacts.record["numbers"] == {"answer": {"words": "the answer", "value": 42.0}}
    assert artifacts.record["settings"]["seed"] == 3
    assert artifacts.record["versions"]["torch"] == torch.__version__
    assert visible(tmp_path) == ["circuit_discovery.json", "deep", "probs.pt"]


SCRIPT = """
# %% Which sentences?
run = new_run(folder)  # as open_run(

# %% Is it so?
run.note("so/far", 1.0, "so far")

# %% And what else?
run.save("else.pt", torch.ones(1), kind="else")

# %% Everything ran: publish it.
path = run.publish()
"""
OPENING, SO, ELSE, LAST = SCRIPT.split("\n\n")


@pytest.fixture
def run_cell(tmp_path, monkeypatch) -> Callable[[str], BaseException | None]:
    """Run a cell of a script in a window; gives the error that it raises."""
    monkeypatch.setattr(sys, "ps1", "In: ", raising=False)
    monkeypatch.setattr("reproduction.cells.ROOT", tmp_path)
    (tmp_path / "circuit_discovery.py").write_text(SCRIPT)
    shell = InteractiveShell(user_ns={"new_run": new_run, "folder": tmp_path / "out", "torch": torch})
    return lambda cell: shell.run_cell(cell, store_history=True).error_in_exec


def test_half_a_run_does_not_replace_a_whole_one(tmp_path, run_cell):
    published(tmp_path / "out")
    before = visible(tmp_path / "out")
    for cell in (OPENING, SO):
        assert run_cell(cell) is None
    refused = "nothing is published, since these cells were not run to their end: And what else? Run them, or give"
    assert str(run_cell(LAST)).startswith(refused)
    assert isinstance(run_cell(f"{ELSE}\nraise KeyboardInterrupt"), KeyboardInterrupt)
    assert str(run_cell(LAST)).startswith(refused)
    assert visible(tmp_path / "out") == before
    assert run_cell(f"{ELSE}\n{LAST}") is None
    assert "partial" not in read_artifacts(tmp_path / "out", "circuit_discovery").record


def test_a_script_that_a_window_runs_as_one_has_all_its_cells(tmp_path, run_cell):
    assert run_cell(f"exec(compile({SCRIPT!r}, 'circuit_discovery.py', 'exec'))") is None
    assert run_cell(SO) is None
    assert run_cell(LAST) is None


def test_a_part_that_is_published_as_one_says_so_to_every_reader(tmp_path, capsys, run_cell):
    for cell in (OPENING, "run.publish(partial=True)"):
        assert run_cell(cell) is None
    capsys.readouterr()
    artifacts = read_artifacts(tmp_path / "out", "circuit_discovery")
    said = "a part of circuit_discovery.py, without: Is it so? And what else?"
    assert capsys.readouterr().out == f"note: {tmp_path / 'out' / 'circuit_discovery.json'} is of {said}\n"
    assert artifacts.record["partial"] == ["Is it so?", "And what else?"]
    assert artifacts.record["warnings"] == ["a warning", said]
    made = artifacts.load_all()
    assert made.get("else.pt") is None
    with pytest.raises(
        UserError, match=r"else\.pt is not among what circuit_discovery made in part; run python circuit"
    ):
        made["else.pt"]


def test_a_cell_that_is_run_again_after_the_last_one_replaces_what_it_had_published(tmp_path):
    run = new_run(tmp_path)
    for value in (1.0, 2.0):
        run.save("probs.pt", torch.full((2,), value), kind="probabilities")
        run.save(f"only_{value:.0f}.pt", torch.ones(1), kind="once")
        run.note("answer", value, "the answer")
        run.publish()
    artifacts = read_artifacts(tmp_path, "circuit_discovery")
    assert artifacts.number("answer") == 2.0
    assert {name: each.tolist() for name, each in artifacts.load_all().items()} == {
        "probs.pt": [2.0, 2.0],
        "only_1.pt": [1.0],
        "only_2.pt": [1.0],
    }


@pytest.mark.parametrize(
    "key",
    ["a", "late_half/probability_difference/share_of_clean", "attention/a7.h10/end_to_yy", "m10.n5/x", "task_2/y"],
)
@pytest.mark.parametrize(
    "value",
    [
        0.5, 3, "words", ["m8", "m9"], {"m8": 0.1}, Estimate(0.5, 0.4, 0.6, 97),
        Estimate(0.5, 0.4, 0.6, 97, plain_low=0.45, plain_high=0.55),
    ],
)  # fmt: skip
def test_a_number_is_read_back_by_its_key(tmp_path, capsys, key, value):
    run = new_run(tmp_path)
    run.note(key, value, "what it is: in words")
    assert capsys.readouterr().out.startswith("what it is: in words: ")
    run.publish()
    artifacts = read_artifacts(tmp_path, "circuit_discovery")
    assert artifacts.number(key) == value
    assert artifacts.number("another") is None
    assert artifacts.record["numbers"][key]["words"] == "what it is: in words"


@pytest.mark.parametrize(
    "key",
    ["", "Late/half", "late half", "late-half", "/late", "late/", "a//b", "late_", "_late", "a..b", "ä", "a\n", "a:b"],
)
def test_a_bad_key_is_refused(tmp_path, key):
    run = new_run(tmp_path)
    with pytest.raises(ValueError, match="is no key"):
        run.note(key, 1.0, "words")
    assert run.numbers == {}


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("clean/probability_difference", 0.817, "81.7 points"),
        ("m10/direct_effect", Estimate(-0.019, -0.025, -0.014, 9), "−1.9 points [−2.5, −1.4]"),
        ("late_half/probability_difference/share_of_clean", 0.895, "89.5 %"),
        ("sweeps/logits/strongest", {"m10": -0.17, "a9.h1": -0.0004}, "m10 −17.0 points, a9.h1 0.0 points"),
        ("pca/m8/share_of_variance", [0.5, 0.25], "50.0 %, 25.0 %"),
        ("faithfulness/late_half/cutoff_sharpness", 0.9734, "97.3 %"),  # of F, a share of the span
        ("faithfulness/late_half/kl_divergence", 0.9734, "0.97"),
        ("likeliest_token/count", {"70": 3}, "70 3"),
    ],
)
def test_numbers_are_printed_with_their_units(tmp_path, capsys, key, value, line):
    new_run(tmp_path).note(key, value, "words")
    assert capsys.readouterr().out == f"words: {line}\n"


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor([1.0, NAN]),
        torch.tensor([-INF], dtype=torch.float64),
        {"a": torch.tensor(INF), "names": ["x"]},
        {"a": [1.0, {"b": NAN}]},
        pd.DataFrame({"noun": ["war"], "share": [NAN]}),
        pd.DataFrame({"share": pd.Series([INF], dtype="float32")}),
    ],
)
def test_what_is_not_finite_is_refused_by_name_before_anything_is_published(tmp_path, value):
    published(tmp_path)
    run = new_run(tmp_path)
    with pytest.raises(UserError, match=r"^wrong\.\w+ is not finite, so nothing is published"):
        run.save_table("wrong.csv", [value], kind="t") if isinstance(value, pd.DataFrame) else run.save(
            "wrong.pt", value, kind="t"
        )
    if isinstance(value, dict) and "names" not in value:
        with pytest.raises(UserError, match=r"wrong\.json is not finite"):
            run.save_json("wrong.json", value, kind="t")
    assert run.index == {}
    assert not [path for path in run.publication.staging.rglob("*") if path.is_file()]
    read_artifacts(tmp_path, run.script).check_all()


@pytest.mark.parametrize("value", [NAN, -INF, [0.5, NAN], {"m8": INF}])
def test_a_number_that_is_not_finite_is_no_number(tmp_path, value):
    run = new_run(tmp_path)
    with pytest.raises(UserError, match="late_half/share is not finite, so nothing is published"):
        run.note("late_half/share", value, "share")
    assert run.numbers == {}


def test_what_json_cannot_hold_is_refused_when_it_is_given(tmp_path):
    """It was refused when all was published, with a traceback, and then each time."""
    run = new_run(tmp_path)
    for give in (
        lambda: run.note("my/effect", torch.ones(1), "effect"),
        lambda: run.save("my.pt", torch.ones(1), kind="t", head=Node.mlp(0, 1)),
        lambda: run.save_json("my.json", {"head": {1}}, kind="t"),
    ):
        with pytest.raises(UserError, match=r"my[./]\w+ cannot be recorded \(.*\); give numbers, texts"):
            give()
    assert (run.numbers, run.index) == ({}, {})


@pytest.mark.parametrize("value", [Estimate(NAN, NAN, NAN, 9), Estimate(1.0, NAN, NAN, 9), Estimate(1.0, 0.9, INF, 9)])
def test_a_share_of_zero_is_left_out_and_ends_no_run(tmp_path, capsys, value):
    run = new_run(tmp_path)
    run.note("why", 1.0, "share")
    run.note("why", value, "share")
    assert capsys.readouterr().out.splitlines()[-1] == "share: not measured, what it is a share of is zero or may be"
    run.publish()
    assert "why" not in read_artifacts(tmp_path, run.script).keys


def test_a_nan_whose_meaning_is_said_is_kept_and_infinity_has_none(tmp_path):
    run = new_run(tmp_path)
    run.save("rows.pt", torch.tensor([1.0, NAN]), kind="rows", nan="a row that is left out")
    with pytest.raises(UserError, match=r"wrong\.pt is not finite"):
        run.save("wrong.pt", torch.tensor([INF, NAN]), kind="rows", nan="a row that is left out")
    run.publish()
    artifacts = read_artifacts(tmp_path, run.script)
    assert artifacts.find(kind="rows") == {"rows.pt": {"kind": "rows", "nan": "a row that is left out"}}
    assert artifacts.load("rows.pt").isnan().tolist() == [False, True]


def of_circuit(folder, script: str, circuit: Circuit | None) -> Artifacts:
    run = new_run(folder, script)
    if circuit is not None:
        run.note_circuit(circuit)
    run.publish()
    return read_artifacts(folder, script)


def test_runs_of_two_circuits_are_refused_naming_both(tmp_path):
    paper = of_circuit(tmp_path, "big_ds_experiments", PAPER)
    none = of_circuit(tmp_path, "neuron_investigations", None)
    same = of_circuit(tmp_path, "pca_experiments", varied(PAPER, name="the same", heads=PAPER.heads[::-1], studied=()))
    check_alike([none, paper, same])
    assert same.circuit.name == PAPER.name, "whatever it was called"
    assert same.circuit.links == PAPER.links, "whatever the order in which its nodes were given"
    assert none.circuit is None
    edited = of_circuit(tmp_path, "circuit_discovery", varied(PAPER, heads=(*PAPER.heads, "a6.h1")))
    with pytest.raises(
        UserError, match=r"^big_ds_experiments\.json .* another circuit.* they differ in a6\.h1; run one"
    ):
        check_alike([none, paper, edited])
    assert edited.circuit.name == edited.number("circuit/name") == GIVEN
    relinked = of_circuit(tmp_path, "circuit_discovery", varied(PAPER, heads_feed=("m8", "m9")))
    with pytest.raises(UserError, match=r"they differ in links; run one"):
        check_alike([relinked, none, same])


def test_artifacts_are_found_by_what_they_are(tmp_path):
    published(tmp_path)
    artifacts = read_artifacts(tmp_path, "circuit_discovery")
    assert [*artifacts.find(kind="probabilities")] == ["probs.pt", "deep/probs.pt"]
    late = {"kind": "probabilities", "evaluation": "late_half"}
    assert artifacts.find(evaluation="late_half") == {"deep/probs.pt": late}
    assert artifacts.find(kind="sweep") == artifacts.find(kind="probabilities", task=3) == {}
    assert set(artifacts.record["index"]) == set(artifacts.record["artifacts"])


def test_a_table_is_read_back_in_full(tmp_path):
    table = pd.DataFrame(
        {"noun": ["war", "plan"], "YY": [2, 98], "share": [1 / 3, 0.1 + 0.2], "other": [math.nan, 1e-300]}
    )
    run = new_run(tmp_path)
    run.save_table("sentences.csv", [table], kind="sentences_evaluated", nan="not measured")
    run.publish()
    pd.testing.assert_frame_equal(read_artifacts(tmp_path, run.script).load("sentences.csv"), table, check_exact=True)


def test_a_slice_is_stored_without_what_it_was_sliced_from(tmp_path):
    run = new_run(tmp_path)
    run.save("slice.pt", torch.zeros(1000, 1000)[:1], kind="test")
    run.publish()
    assert (tmp_path / "slice.pt").stat().st_size < 10_000


def test_a_run_that_does_not_publish_leaves_earlier_artifacts_as_they_were(tmp_path):
    published(tmp_path, value=1.0)
    run = new_run(tmp_path)
    run.save("probs.pt", torch.zeros(2, 3), kind="probabilities")
    assert torch.equal(read_artifacts(tmp_path, "circuit_discovery").load("probs.pt"), torch.ones(2, 3))


def test_what_is_not_there_damaged_or_of_another_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"run python circuit_discovery\.py first"):
        read_artifacts(tmp_path, "circuit_discovery")
    published(tmp_path)
    artifacts = read_artifacts(tmp_path, "circuit_discovery")
    with pytest.raises(UserError, match="is not among what"):
        artifacts.load("attn_q.pt")
    published(tmp_path, value=2.0)
    with pytest.raises(UserError, match="of another run"):
        artifacts.load("probs.pt")
    (tmp_path / "probs.pt").write_bytes(b"half a file")
    with pytest.raises(UserError, match="damaged"):
        read_artifacts(tmp_path, "circuit_discovery").load("probs.pt")


@pytest.mark.parametrize("part", ["script", "command", "model", "read", "settings", "numbers", "index"])
@pytest.mark.parametrize("spoil", ["missing", "of another type"])
def test_a_record_without_one_of_its_parts_is_refused(tmp_path, part, spoil):
    published(tmp_path)
    path = tmp_path / "circuit_discovery.json"
    record = json.loads(path.read_text())
    record.pop(part) if spoil == "missing" else record.update({part: 3})
    path.write_text(json.dumps(signed(record)))
    with pytest.raises(UserError, match=r"is not a run's record .*; run python circuit_discovery.py"):
        read_artifacts(tmp_path, "circuit_discovery")


def test_a_record_under_another_script_s_name_is_refused(tmp_path):
    published(tmp_path)
    (tmp_path / "circuit_discovery.json").rename(tmp_path / "topk_years.json")
    with pytest.raises(UserError, match=r"topk_years\.json is a record of circuit_discovery"):
        read_artifacts(tmp_path, "topk_years")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"script": "x"}'])
def test_a_damaged_record_is_refused(tmp_path, text):
    (tmp_path / "circuit_discovery.json").write_text(text)
    with pytest.raises(UserError, match="is not a run"):
        read_artifacts(tmp_path, "circuit_discovery")


def test_a_record_of_a_future_version_is_refused(tmp_path):
    published(tmp_path)
    path = tmp_path / "circuit_discovery.json"
    record = json.loads(path.read_text()) | {"record_version": RECORD_VERSION + 1}
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=f"record version {RECORD_VERSION + 1}"):
        read_artifacts(tmp_path, "circuit_discovery")


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write to"):
        new_run(tmp_path / "file" / "below")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this platform")
def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path):
    published(tmp_path)
    run = new_run(tmp_path)
    (run.publication.staging / "probs.pt").symlink_to("/dev/full")
    with pytest.raises(UserError, match="No space left"):
        run.save("probs.pt", torch.zeros(2, 3), kind="probabilities")
    assert torch.equal(read_artifacts(tmp_path, "circuit_discovery").load("probs.pt"), torch.ones(2, 3))


@tried(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    file=st.sampled_from(["probs.pt", "deep/probs.pt", "circuit_discovery.json"]),
    kept=st.floats(0, 1),
    inserted=st.binary(max_size=20),
    rest=st.booleans(),
)
def test_a_damaged_file_is_refused_or_harmless(tmp_path, file, kept, inserted, rest):
    """Truncated, overwritten in the middle, or longer: what is read is what was written, or one line says why not."""
    published(tmp_path)
    path = tmp_path / file
    whole = path.read_bytes()
    place = int(kept * len(whole))
    path.write_bytes(whole[:place] + inserted + (whole[place + len(inserted) :] if rest else b""))

    def read() -> tuple[torch.Tensor, dict]:
        artifacts = read_artifacts(tmp_path, "circuit_discovery")
        return artifacts.load("probs.pt"), artifacts.load("deep/probs.pt")

    if found := unless_refused(read):
        assert torch.equal(found[0], torch.ones(2, 3))
        assert torch.equal(found[1]["a"], torch.arange(3))


@pytest.fixture(scope="module")
def a_record(tmp_path_factory) -> Path:
    """The record of a run with a circuit, in a folder of its own."""
    folder = tmp_path_factory.mktemp("run")
    run = new_run(folder)
    run.note_circuit(in_papers_shape("bare", (), ("a0.h1",), ("logits",), ("embeds",), (), followed=("v",), whole=()))
    run.note("late_half/share", Estimate(0.5, 0.4, 0.6, 97), "share")
    run.save_json("found.json", {"a": 1}, kind="test")
    run.note_read("circuit.json", None)
    run.publish()
    return record_path(run.folder, run.script)


WORDS = st.sampled_from(["", "probs.pt", "../x", "/etc/passwd", "a/b", "\n", "\ud800", "m8", "a" * 300])
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), WORDS),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(WORDS, inner, max_size=2)),
    max_leaves=2,
)
SPLICED = st.sampled_from(
    ["{", "}", "[", "]", '"', ",", ":", "[" * 5000, "9" * 5000, "NaN", "1e999", "\\ud800", "\x00"]
)


def change_somewhere(part: dict, draw) -> None:
    """Replace, drop or add a value, somewhere in a record."""
    name = draw(st.sampled_from([*part, "more"]))
    if isinstance(part.get(name), dict) and part[name] and draw(st.booleans()):
        change_somewhere(part[name], draw)
    elif name in part and draw(st.integers(0, 3)) == 0:
        del part[name]
    else:
        part[draw(st.sampled_from([name, name, "../x"]))] = draw(VALUES)


@tried(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_record_is_read_as_it_was_written_or_refused_in_one_line(a_record, data):
    """Edited, spoiled, or written by a run of ours that went astray (`signed`)."""
    whole = a_record.read_bytes()
    record, draw = json.loads(whole), data.draw
    change_somewhere(record, draw)
    is_signed = draw(st.booleans())
    text = json.dumps(signed(record) if is_signed else record)
    if not draw(st.integers(0, 3)):
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(SPLICED) + text[place + draw(st.integers(0, 3)) :]
    try:
        a_record.write_text(text)
        assert intact(a_record) in (True, False)
        if artifacts := unless_refused(lambda: read_artifacts(a_record.parent, "circuit_discovery")):
            assert is_signed or signed(record) == json.loads(text) == json.loads(whole)
            assert read_record(a_record) == artifacts.record
            assert artifacts.find(kind="test").keys() <= {*artifacts.record["index"]}
            assert [artifacts.number(key) for key in artifacts.keys if artifacts.is_ranking(key)] == []
            assert artifacts.record["model"]["name"] in model_of(artifacts)
            assert titled("what", artifacts.record).startswith("what, ")
            unless_refused(lambda: artifacts.circuit)
            unless_refused(artifacts.load_all)
            unless_refused(lambda: check_alike([artifacts, artifacts]))
    finally:
        a_record.write_bytes(whole)


def test_artifacts_that_were_swapped_are_refused(tmp_path):
    published(tmp_path)
    one, other = tmp_path / "probs.pt", tmp_path / "deep" / "probs.pt"
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    for name in ("probs.pt", "deep/probs.pt"):
        with pytest.raises(UserError, match="of another run"):
            read_artifacts(tmp_path, "circuit_discovery").load(name)


def test_what_is_no_plain_tensor_is_never_unpickled(tmp_path):
    """Even under a record that fits: reading never runs code."""
    run = new_run(tmp_path)
    content = pickle.dumps(SystemExit("code was run"), protocol=2)  # the one that torch.load takes for its own
    run.publication.stage("probs.pt", content)
    run.publish()
    with pytest.raises(UserError, match="cannot be read"):
        read_artifacts(tmp_path, "circuit_discovery").load("probs.pt")


def test_an_interrupted_run_publishes_nothing_and_says_so(tmp_path):
    """Ctrl-C in the middle of a script."""
    code = f"""
import os, signal, sys, time
from pathlib import Path
from reproduction.publication import open_publication
from reproduction.terminal import exit_on_user_error
sys.excepthook = exit_on_user_error
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
publication = open_publication("circuit_discovery", Path({str(tmp_path)!r}))
publication.stage("probs.pt", b"half of it")
os.kill(os.getpid(), signal.SIGINT)
time.sleep(10)
publication.publish({{}})
"""
    interrupted = run_python("-c", code)
    assert interrupted.returncode not in (0, 1)
    assert interrupted.stderr == "interrupted: what was published before is as it was\n"
    assert visible(tmp_path) == []
    assert not list(tmp_path.glob(".*.staged"))
