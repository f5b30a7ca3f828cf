"""The baselines give what the engines give; the benchmark checks, measures and prints; bad flags get one line."""

from __future__ import annotations

import os
import random
import sys
import time
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch

from benchmarks import floor as floor_module
from benchmarks import growth, many_requests, path_patching, peers, reproduction, start
from benchmarks.floor import Floor, measure_floor
from benchmarks.growth import exponent, parameters
from benchmarks.hook_loop import HookedModel, TransformerLensHooks, TransformersHooks, differences
from benchmarks.measuring import Cost, NotMeasuredError, in_own_process, peak_gb
from benchmarks.needs import Count, counting
from benchmarks.path_patching import check_agreement, differences_from, main
from benchmarks.phases import Point, Sweep
from benchmarks.subjects import SHAPES, spread, subject, wide_standin
from path_patching import sweeps
from path_patching.edits import EditedRuns
from path_patching.engine import Request
from path_patching.errors import UserError
from path_patching.files import ROOT
from path_patching.gpt2.model import GPT2_SMALL, end_logits, to_transformers
from path_patching.gpt2.tensor_cache import load_model
from path_patching.gpt2.tokenizer import load_tokenizer
from path_patching.paths import Node, PathSet, layer_nodes
from path_patching.prefixes import distinct_prefixes
from path_patching.torch_engine.engine import TorchEngine
from tests.helpers.benchmarks import rows_of, run_here
from tests.helpers.scripts import error_line, output, run_python, run_script
from tests.helpers.setups import SETUPS, Setup

COMMAND = ROOT / "benchmarks" / "path_patching.py"
TINY = ("--model-shape", "tiny", "--n", "3", "--threads", "1")
TOLERANCE = 5e-6  # of probability differences in float32, half of what the benchmark itself allows
HAVE_RUST = find_spec("rust_circuit") is not None


@pytest.fixture(params=SETUPS)
def setup(request: pytest.FixtureRequest) -> Setup:
    return SETUPS[request.param]()


def senders(setup: Setup) -> list[Node]:
    sizes = setup.model.architecture
    return [node for layer in range(sizes.n_layers) for node in layer_nodes(layer, sizes.n_heads, setup.end)]


def by_engine(setup: Setup) -> torch.Tensor:
    """Probability differences of the logits sweep, (nodes, N), whose effects are far above the tolerance below."""
    engine = TorchEngine(setup.model, setup.sentences)
    swept = setup.difference(engine.sweep(PathSet.at(Node.logits(setup.end)), senders(setup)))
    assert ((swept - setup.difference(engine.clean())).abs().amax(1) > 1e-4).all()
    return swept


def test_the_release_way_gives_the_engine_s_differences(setup: Setup) -> None:
    pytest.importorskip("rust_circuit", reason="rust_circuit is not installed")
    from benchmarks.release_way import split_by_head_and_position

    split = split_by_head_and_position(setup.model, setup.end + 1)
    found = split.differences(setup.sentences, setup.years, senders(setup))
    assert (found - by_engine(setup)).abs().max() < TOLERANCE


@pytest.mark.parametrize("end_only", [False, True])
def test_hooks_give_the_engine_s_differences(setup: Setup, end_only: bool) -> None:
    assert_same_by_hooks(TransformersHooks(setup.model, "cpu", end_only), setup)


def test_transformer_lens_gives_the_engine_s_differences(setup: Setup) -> None:
    pytest.importorskip("transformer_lens", reason="TransformerLens is not installed (benchmarks/README.md)")
    assert_same_by_hooks(TransformerLensHooks(setup.model, "cpu"), setup)


def assert_same_by_hooks(hooked: HookedModel, setup: Setup) -> None:
    found = differences(hooked, setup.sentences, setup.years, senders(setup))
    assert (found - by_engine(setup)).abs().max() < TOLERANCE


def test_floor_counts_the_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """If every product took a second: four a layer, and a row block a node, or the factored heads' parts."""
    monkeypatch.setattr(floor_module, "median_cost", lambda compute, device: Cost(compute() or 1.0, 2.0))
    on = subject("tiny", 2)
    found, of_cores = measure_floor(on.model.architecture, on.sentences, on.nodes, "cpu")
    assert (found.forward, found.plain_rows) == (12 * 4, 156)
    assert found.factored_rows == (12 + 1) + 144 + 12  # MLPs and the stream, heads, forming each layer's
    assert (found.plain, found.factored) == (48 + 156, 48 + 156)
    assert found.gflops == pytest.approx(2e-9 * 2 * 24 * 50257)
    assert (of_cores.forward, of_cores.plain_rows) == (2 * 12 * 4, 2 * 156)
    assert found.mean_with(Floor(0.0, 0.0, 0.0, 0.0)).plain == 102


def test_sentences_longer_than_the_prompt_differ_from_their_twins_at_yy_alone() -> None:
    on = subject("tiny", 5, length=20)
    assert on.sentences.clean.shape == (5, 20)
    assert (on.sentences.clean != on.sentences.corrupted).nonzero()[:, 1].unique().tolist() == [on.yy_position]
    assert len(on.sentences.clean[:, 1:8].unique(dim=0)) == 5
    with pytest.raises(UserError, match="not 12"):
        subject("tiny", 5, length=12)
    with pytest.raises(UserError, match="give one of tiny"):
        subject("huge", 5)


@pytest.mark.benchmark
def test_the_wide_stand_in_answers_as_the_stand_in_does_and_hardly_any_rows_of_its_unembedding_are_equal() -> None:
    wide, narrow, tokens = wide_standin(), load_model("standin"), subject("tiny", 5).sentences.clean
    assert {name: tuple(each.shape) for name, each in wide.tensors.items()} == GPT2_SMALL.tensor_shapes()
    found, expected = (end_logits(to_transformers(each), tokens).softmax(-1) for each in (wide, narrow))
    torch.testing.assert_close(found, expected, rtol=0.03, atol=1e-7)  # the rows' noise is some thousandths of a logit
    assert len((wide.tensors["t.w.unembed_arr"] @ torch.arange(768.0)).unique()) > 0.9 * GPT2_SMALL.vocab_size


def test_nodes_are_spread_from_the_first_to_the_last() -> None:
    assert spread(range(156), 4) == [0, 52, 103, 155]
    assert spread(range(3), 9) == [0, 1, 2]


def test_exponent_is_the_slope_of_the_logarithms() -> None:
    points = [Point(size, 3 * size**1.5, 0.0) for size in (10, 100, 1000)]
    assert exponent([*points, "over 300 s"]) == "1.50"
    assert exponent([points[0], "over 300 s"]) == ""


def test_shapes_are_gpt2_s() -> None:
    tied = {name: parameters(name) - 50257 * SHAPES[name].d_model for name in ("small", "medium", "large", "xl")}
    # What is published for GPT-2.
    assert tied == {"small": 124_439_808, "medium": 354_823_168, "large": 774_030_080, "xl": 1_557_611_200}


def sweep(differences: list[list[float]], effect: float | None = None) -> Sweep:
    return Sweep("a way", 0.0, Cost(1.0, 1.0), 1, 1.0, 1, 0.0, differences, effect)


def test_ways_that_disagree_get_no_times() -> None:
    reference = sweep([[0.5, 0.25]], effect=0.1)
    assert differences_from(reference, sweep([[0.5, 0.25001]])) == pytest.approx(1e-5)
    check_agreement({"near": 9e-6}, reference)
    with pytest.raises(UserError, match=r"far \(1\.1e-05\)"):
        check_agreement({"near": 9e-6, "far": 1.1e-5}, reference)
    with pytest.raises(UserError, match="no times"):
        check_agreement({"of no effect": 9e-6}, sweep([[0.5]], effect=1e-4))
    with pytest.raises(UserError, match="no times"):
        check_agreement({"not a number": float("nan")}, reference)


def raise_user_error() -> None:
    raise UserError("mend this")


@pytest.mark.benchmark
def test_a_process_of_its_own_has_its_limits_and_passes_errors_on() -> None:
    assert 0.01 < in_own_process(peak_gb, "cpu", threads=1) < 64
    with pytest.raises(NotMeasuredError, match="over 0 s"):
        in_own_process(time.sleep, 60, limit_s=0.01)
    with pytest.raises(NotMeasuredError, match="exit code 3"):
        in_own_process(exit_at_once, 3)
    with pytest.raises(UserError, match="mend this"):
        in_own_process(raise_user_error)


def exit_at_once(code: int) -> None:
    os._exit(code)


@pytest.mark.benchmark
def test_the_command_prints_a_table() -> None:
    printed = output(run_python(str(COMMAND), *TINY, "--nodes", "2", "--baselines", "--engines", "torch"))
    assert rows_of(printed, "how").keys() == {"torch engine"}


@pytest.mark.benchmark
def test_every_way_has_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    baselines = ("release", "hooks") if HAVE_RUST else ("hooks",)
    printed = run_here(main, (*TINY, "--nodes", "2", "--baselines", *baselines), (path_patching,), capsys)
    rows, floors = rows_of(printed, "how"), rows_of(printed, "engine")
    expected = {"transformers, hooks", "torch engine"}
    expected |= {"rust_circuit, the release's way", "rust_circuit engine"} if HAVE_RUST else set()
    assert rows.keys() == expected
    assert floors.keys() == {name for name in expected if name.endswith("engine")}
    assert rows["transformers, hooks"][3].startswith("2 of 156 in ")
    assert rows["torch engine"][3].startswith("all in ")
    assert all(float(cells[-1]) < 1e-5 for cells in rows.values())
    assert all(float(cells[-1]) > 0 for cells in floors.values())


@pytest.mark.benchmark
@pytest.mark.parametrize(
    ("flag", "header", "names"),
    [
        ("--all-sweeps", "sweep", {"ipp_logits", "ipp_m8", "attn_q", "results_m3", "all 12", "peak memory"}),
        ("--big-ds", "engine", {"torch"}),
        ("--growth", "sentences", {"2", "exponent of time"}),
    ],
)
def test_the_other_tables(flag: str, header: str, names: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ("--growth-n", "2", "--growth-lengths", "14", "--growth-shapes", "tiny")
    flags = (*TINY, flag, "--engines", "torch", *sizes)
    rows = rows_of(run_here(main, flags, (path_patching, growth), capsys), header)
    assert names <= rows.keys()
    assert all(any(cells) for name, cells in rows.items() if name != "exponent of time")  # of one point there is none


def test_many_requests_in_one_call_give_what_single_ones_give(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--model", "tiny", "--n", "2", "--requests", "3", "--engines", "torch")
    printed = run_here(many_requests.main, flags, (many_requests,), capsys)
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| torch")]
    assert [(cells[1], cells[2]) for cells in rows] == [(many_requests.RANDOM, "3"), (many_requests.AVOIDING, "3")]
    assert all(float(cells[6]) > 0 and float(cells[-1].strip(" |")) < many_requests.AGREEMENT for cells in rows)


def test_many_requests_that_differ_from_single_ones_get_no_times(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(many_requests, "AGREEMENT", -1.0)
    for flags, said in (
        (("--model", "tiny", "--n", "1", "--requests", "1", "--engines", "torch"), "no times"),
        (("--requests", "0"), "give --requests 1 or more"),
    ):
        with pytest.raises(UserError, match=said):
            run_here(many_requests.main, flags, (many_requests,), capsys)


def test_requests_are_of_random_circuits_and_of_the_paper_s_without_each_node() -> None:
    asked = many_requests.requests_of(many_requests.subject_of("tiny", 1))
    assert {name: len(requests) for name, requests in asked.items()} == {
        many_requests.RANDOM: 60,
        many_requests.AVOIDING: 28,
    }
    assert len({*asked[many_requests.RANDOM]}) == 60


ASKED_OF_PEERS = ("--model-shape", "tiny", "--n", "2", "--nodes", "1", "--edges", "200")


def test_peers_are_rows_or_say_why_not(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(peers, "ENGINES", ("torch",))
    monkeypatch.setattr(peers, "PEERS", {"edges": {"absent": (ask_a_package_that_is_not_there, "nothing")}})
    rows = rows_of_peers(run_here(peers.main, ASKED_OF_PEERS, (peers,), capsys))
    assert float(rows["edges", "torch engine"][2]) == 1
    assert rows["edges", "absent"][4] == "skipped: No module named 'not_there'"


def rows_of_peers(printed: str) -> dict[tuple[str, str], list[str]]:
    """The other cells of each row, by its question and way."""
    lines = [line.strip("|").split("|") for line in printed.splitlines() if line.startswith("|")]
    return {(question.strip(), how.strip()): [cell.strip() for cell in rest] for question, how, *rest in lines}


def ask_a_package_that_is_not_there(_: peers.Asked) -> peers.Found:
    return import_module("not_there").found


def test_an_engine_that_is_not_there_is_a_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "ENGINES", ("torch", "absent"))
    monkeypatch.setattr(peers, "PEERS", {"paths": {}})
    rows = rows_of_peers(run_here(peers.main, ASKED_OF_PEERS, (peers,), capsys))
    assert rows["paths", "absent engine"][4].startswith("skipped: ")


def test_a_peer_that_differs_gets_no_times(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(peers, "ENGINES", ("torch",))
    other = peers.Found([[7.0, 7.0]], Cost(1.0, 1.0))
    monkeypatch.setattr(peers, "PEERS", {"edges": {"other": (lambda _: other, "something else")}})
    with pytest.raises(UserError, match="other differs from the torch engine"):
        run_here(peers.main, ASKED_OF_PEERS, (peers,), capsys)


def test_agreement_within_rounding_of_no_effect_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "ENGINES", ("torch",))
    monkeypatch.setitem(peers.OURS, "paths", lambda engine, *_: engine.clean()[None])
    monkeypatch.setattr(peers, "PEERS", {"paths": {}})
    with pytest.raises(UserError, match="largest effect being 0"):
        run_here(peers.main, ASKED_OF_PEERS, (peers,), capsys)


def test_links_are_those_of_the_whole_circuit_of_a_path() -> None:
    """One link, and all that comes after its reader: what removing its edge from the graph of all edges means."""
    asked = peers.Asked("links", "tiny", 2, 1, 1)
    on = asked.subject()
    engine, end = TorchEngine(on.model, on.sentences), on.sentences.end
    last = asked.links(on)[3]
    assert str(last) == "a10.h0 →v a11.h3"
    written = "\n".join(
        f"a10.h0@{at} →v a11.h3@{end} →{after} logits@{end}" for at in range(end + 1) for after in ("", f" m11@{end} →")
    )
    by_hand = engine.patch(PathSet.parse(written))
    effect = (by_hand - engine.clean()).abs().max()
    assert (peers.OURS["links"](engine, asked, on)[3] - by_hand).abs().max() < peers.TOLERANCE_OF_EFFECT * effect


def test_circuits_of_no_path_are_refused() -> None:
    sizes = subject("tiny", 1).model.architecture
    with pytest.raises(UserError, match="--edges 1: none of those drawn"):
        peers.random_circuit(sizes, 1, random.Random(0))
    assert 0 < len(peers.random_circuit(sizes, 200, random.Random(0)).links) < 200


def test_graphs_are_cut_where_paths_lead_to_the_logits() -> None:
    on = subject("tiny", 1)
    edges, paths = (peers.Asked(question, "tiny", 1, 2, 200) for question in ("edges", "paths"))
    assert [(len(cut.links), cut.kept) for cut in edges.cuts(on)] == [(len(edges.circuit(on).links), True)]
    assert [[*map(str, cut.links)] for cut in paths.cuts(on)] == [["a0.h0 → logits"], ["a11.h11 → logits"]]


def test_the_tokenizer_for_other_tools_puts_its_beginning_first() -> None:
    assert peers.tokenizer_with_bos()(" lasted").input_ids == [50256, *load_tokenizer()(" lasted").input_ids]


def test_what_is_needed_is_counted_once() -> None:
    on = subject("tiny", 3)
    sizes, end = on.model.architecture, on.sentences.end
    engine = TorchEngine(on.model, on.sentences)
    n_prefixes = len(distinct_prefixes(torch.cat([on.sentences.clean, on.sentences.corrupted])).tokens)
    into_m10 = PathSet.parse("m10 → m11 → logits", end=end)
    with counting() as needs:
        engine.clean(), engine.clean()
        engine.patch(into_m10)
    assert needs.total(sizes) == Count(unembedded=2 * 3, layers=12 * n_prefixes, mlps=3)
    with counting() as needs:  # a request of the sweep, and the MLP that only it recomputes with this sender
        engine.sweep(PathSet.parse("m11 → logits", end=end), [Node.mlp(10, end), Node.head(3, 0, end)])
        engine.evaluate([Request.patch(into_m10)])
    assert needs.total(sizes) == Count(unembedded=2 * 3, layers=12 * n_prefixes, mlps=2 * 3)


def test_what_edits_need_lies_above_them() -> None:
    on = subject("tiny", 2)
    sizes, end = on.model.architecture, on.sentences.end
    runs = EditedRuns(on.model, on.sentences.clean, on.sentences.answers)
    n_prefixes = len(distinct_prefixes(on.sentences.clean).tokens)
    changes = torch.zeros(5, 2, sizes.d_model)
    found = {}
    for node in (Node.mlp(9, end), Node.head(11, 0, end), Node.embeds(end - 2)):
        with counting() as needs:
            runs.probabilities(node, changes)
        found[node.kind] = needs.total(sizes)
    clean = Count(layers=12 * n_prefixes)
    assert found["mlp"] == clean + Count(unembedded=10, layers=10 * 2, mlps=10)
    assert found["head"] == clean + Count(unembedded=10, mlps=10)
    assert found["embeds"] == clean + Count(unembedded=10, layers=10 * (11 * 3 + 1))


def test_direct_effects_of_heads_need_part_of_a_row() -> None:
    on = subject("tiny", 30)
    sizes, end = on.model.architecture, on.sentences.end
    engine = TorchEngine(on.model, on.sentences)
    with counting() as needs:
        engine.sweep(PathSet.at(Node.logits(end)), [Node.mlp(3, end), Node.head(3, 0, end)])
    assert needs.total(sizes).unembedded == 30 + (30 * 2 / 24 + 2)
    few = engine.like(on.sentences.rows(slice(20)))
    with counting() as needs:  # what heads can write is unembedded once
        sweeps.direct_effects_on([engine, few], [lambda found: found.sum(1)] * 2)
    of_heads = sizes.n_layers * sizes.n_heads * ((30 + 20) * 2 / 24 + 2)
    assert needs.total(sizes).unembedded == pytest.approx(of_heads + (sizes.n_layers + 1) * (30 + 20))


@pytest.mark.benchmark
def test_steps_have_their_time_and_their_floor() -> None:
    flags = ("--model-shape", "tiny", "--n", "3", "--engines", "torch", "--threads", "1")
    printed = output(
        run_python(str(ROOT / "benchmarks" / "reproduction.py"), *flags, "--steps", "random_years", "topk_years")
    )
    rows = rows_of(printed, "step")
    assert rows.keys() == {"random_years", "topk_years", "together"}
    core = {step: float(row[1].removesuffix(" s")) for step, row in rows.items()}
    assert core["together"] == pytest.approx(core["random_years"] + core["topk_years"], rel=0.01)
    assert float(rows["topk_years"][-1]) > 1
    assert rows["topk_years"][-2] == ""  # it needs no exponentials


def test_steps_of_no_sentence_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="--n counts sentences"):
        run_here(reproduction.main, ("--n", "0"), (), capsys)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--nodes", "1"), "--nodes 1"),
        (("--n", "0"), "count sentences"),
        (("--device", "cuda:99"), "device cuda:99"),
        (("--device", "tpu"), "device tpu"),
    ],
)
def test_bad_flags_are_refused(flags: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # the command replaces it
    with pytest.raises(UserError, match=said):
        main(list(flags))


def test_a_bad_flag_gets_one_line() -> None:
    assert "device tpu" in error_line(run_script(COMMAND, "--device", "tpu"))


def test_the_start_is_the_least_of_the_runs_that_count_beside_importing_pytorch(monkeypatch, capsys) -> None:
    costs = iter([Cost(0.1, 0.1), Cost(2, 1), Cost(1, 2), Cost(0.1, 0.1), Cost(4, 6), Cost(3, 5)])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(start, "run", lambda arguments: next(costs))
    start.main(["--runs", "2", "--only", "reproduce.py --help"])
    found = rows_of(capsys.readouterr().out, "what")
    assert found == {"import torch": ["1 s", "1 s", "1.00"], "reproduce.py --help": ["5 s", "3 s", "5.00"]}


def test_a_start_that_fails_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^-c failed: ZeroDivisionError: division by zero$"):
        start.run(("-c", "1 / 0"))
