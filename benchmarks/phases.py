"""What runs in a process of its own: the logits sweep done in each way, and what growth and the scripts' work take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from benchmarks.floor import Floor, measure_floor
from benchmarks.hook_loop import TransformerLensHooks, TransformersHooks
from benchmarks.hook_loop import differences as differences_by_hooks
from benchmarks.measuring import Cost, NotMeasuredError, median_cost, peak_gb, scaled_up, timed
from benchmarks.subjects import PROMPT_LENGTH, Subject, spread, subject
from path_patching.circuits.circuit import check_fits, full_circuit, into_mlp, late_half
from path_patching.engine import Engine, Request, Sentences
from path_patching.engine_choice import make_engine
from path_patching.gpt2.model import end_logits, to_transformers
from path_patching.paths import Node, PathSet
from reproduction.paper import PAPER
from utils import prob_diff

RELEASE, TRANSFORMER_LENS, HOOKS, HOOKS_AT_END = "release", "transformer_lens", "hooks", "hooks_at_end"
BASELINES = {
    RELEASE: "rust_circuit, the release's way",
    TRANSFORMER_LENS: "TransformerLens, hooks",
    HOOKS: "transformers, hooks",
    HOOKS_AT_END: "transformers, hooks, logits at END alone",
}

Differences = Callable[[Sentences, torch.Tensor, list[Node]], torch.Tensor]


@dataclass(frozen=True)
class Work:
    """What to measure on: a model's shape, `n` sentences of `length` tokens, a device, and limits.

    Baselines take `nodes` nodes, the release's way all and the others 13 of them if it is not given, and `batch`
    sentences at once.
    """

    shape: str
    n: int
    device: str
    nodes: int | None = None
    batch: int = 98
    memory_gb: float = 4.0
    length: int = PROMPT_LENGTH

    @property
    def compared(self) -> int:
        """How many nodes every way runs, and all are compared on."""
        return self.nodes or 13

    def runs_whole(self, how: str) -> bool:
        """Whether a baseline runs all nodes: the release's way costs more for each, the more it keeps at once."""
        return how == RELEASE and self.nodes is None


@dataclass(frozen=True)
class Sweep:
    """A logits sweep done in one way.

    `cost` is for all `n_nodes`, forward passes included, scaled up if only `nodes_run` were run in `seconds_run`.
    `differences` (shared nodes, N) are probability differences on the nodes that every way runs, `effect` the largest
    by which one of them differs from the clean run; engines alone measure it and the floor, by the clock and of
    processor time.
    """

    how: str
    preparing: float
    cost: Cost
    n_nodes: int
    seconds_run: float
    nodes_run: int
    memory: float
    differences: list[list[float]]
    effect: float | None = None
    floors: tuple[Floor, Floor] | None = None


def baseline_sweep(how: str, work: Work) -> Sweep:
    """One of `BASELINES` on some of the nodes. Raises `NotMeasuredError` where its library is not installed."""
    on = subject(work.shape, work.n)
    compared = spread(on.nodes, work.compared)
    nodes = on.nodes if work.runs_whole(how) else compared
    prepared = timed(lambda: _baseline(how, on, work.device), work.device)

    def run(senders: list[Node]) -> torch.Tensor:
        rows = torch.arange(work.n).split(work.batch)
        return torch.cat([prepared.result(on.sentences.rows(r), on.start_yy[r], senders) for r in rows], 1)

    few = torch.arange(min(work.n, 8))
    prepared.result(on.sentences.rows(few), on.start_yy[few], nodes[-1:])  # warms up
    # What all nodes share is in both, so that their difference is what nodes cost by themselves.
    one = timed(lambda: run(nodes[-1:]), work.device)
    some = timed(lambda: run(nodes), work.device)
    return Sweep(
        how=BASELINES[how],
        preparing=prepared.seconds,
        cost=scaled_up(some.cost, one.cost, len(nodes), 1, len(on.nodes)),
        n_nodes=len(on.nodes),
        seconds_run=some.seconds,
        nodes_run=len(nodes),
        memory=peak_gb(work.device),
        differences=some.result[[nodes.index(node) for node in compared]].tolist(),
    )


def engine_sweep(name: str, work: Work) -> Sweep:
    """The engine `name` on all nodes, with the floor measured before and after it in the same process."""
    on = subject(work.shape, work.n)
    sizes, nodes = on.model.architecture, on.nodes
    receivers = PathSet.at(Node.logits(on.sentences.end))

    def floors() -> tuple[Floor, Floor]:
        return measure_floor(sizes, on.sentences, nodes, work.device)

    if torch.device(work.device).type == "cuda":
        _engine(name, on, work).sweep(receivers, nodes)  # warms up
    before = floors()
    prepared = timed(lambda: _engine(name, on, work), work.device)
    swept = timed(lambda: prepared.result.sweep(receivers, nodes), work.device)
    memory = peak_gb(work.device)
    differences = torch.stack([prob_diff(found, on.start_yy) for found in swept.result])
    clean = prob_diff(prepared.result.clean(), on.start_yy)
    shared = spread(range(len(nodes)), work.compared)
    return Sweep(
        how=f"{name} engine",
        preparing=prepared.seconds,
        cost=swept.cost,
        n_nodes=len(nodes),
        seconds_run=swept.seconds,
        nodes_run=len(nodes),
        memory=memory,
        differences=differences[shared].tolist(),
        effect=(differences - clean).abs().max().item(),
        floors=tuple(first.mean_with(last) for first, last in zip(before, floors(), strict=True)),
    )


@dataclass(frozen=True)
class Point:
    """Time and memory of an engine at one point of a growth table, and the size it grows with."""

    size: float
    seconds: float
    memory: float


def late_half_point(name: str, work: Work, size: str) -> Point:
    """Probabilities of the late half alone, forward passes included; the size is one of `_size`'s."""
    on = subject(work.shape, work.n, work.length, balanced=False)
    check_fits(PAPER, on.model)
    engine = _warm_engine(name, on, work)
    found = timed(lambda: engine.isolate(late_half(PAPER, on.sentences.end)), work.device)
    return Point(_size(on, size), found.seconds, peak_gb(work.device))


def sweep_point(name: str, work: Work, size: str) -> Point:
    """The logits sweep, forward passes included; the size is one of `_size`'s."""
    on = subject(work.shape, work.n, work.length)
    engine = _warm_engine(name, on, work)
    receivers = PathSet.at(Node.logits(on.sentences.end))
    found = timed(lambda: engine.sweep(receivers, on.nodes), work.device)
    return Point(_size(on, size), found.seconds, peak_gb(work.device))


def _size(on: Subject, name: str) -> int:
    """How many `sentences`, `tokens` a sentence, or `parameters` there are."""
    if name == "parameters":
        return sum(tensor.numel() for tensor in on.model.tensors.values())
    return len(on.sentences) if name == "sentences" else on.sentences.end + 1


@dataclass(frozen=True)
class Times:
    """Seconds of each sweep by name, and the most memory held."""

    seconds: Mapping[str, float]
    memory: float


def all_sweeps(name: str, work: Work) -> Times:
    """Every sweep of `circuit_discovery.py`, one after the other on one engine."""
    on = subject(work.shape, work.n)
    check_fits(PAPER, on.model)
    end, yy_position = on.sentences.end, on.yy_position
    late = late_half(PAPER, end)
    sweeps = {"ipp_logits": (PathSet.at(Node.logits(end)), end, "all")}
    sweeps |= {f"ipp_{mlp}": (into_mlp(PAPER, mlp, end), end, "all") for mlp in reversed(PAPER.mlps)}
    sweeps |= {f"attn_{via}": (late, end if via == "q" else yy_position, via) for via in "qkv"}
    sweeps |= {
        f"results_m{layer}": (late.extend([Node.named(f"m{layer}", yy_position)], "v"), yy_position, "all")
        for layer in range(4)
    }
    engine = _warm_engine(name, on, work)
    seconds = {}
    for artifact, (receivers, position, via) in sweeps.items():
        senders = [replace(sender, position=position) for sender in on.nodes]
        seconds[artifact] = timed(lambda r=receivers, s=senders, v=via: engine.sweep(r, s, v), work.device).seconds
    return Times(seconds, peak_gb(work.device))


@dataclass(frozen=True)
class BigDataSet:
    """Seconds of the four evaluations of `big_ds_experiments.py`, and of four plain forward passes of `transformers`.

    The passes are measured on one batch and scaled up to all sentences: with logits at all positions, and at END alone.
    """

    evaluations: float
    passes: float
    passes_at_end: float
    memory: float


def big_data_set(name: str, work: Work) -> BigDataSet:
    """Clean, late half, its complement and the full circuit, in one go."""
    on = subject(work.shape, work.n, balanced=False)
    check_fits(PAPER, on.model)
    end, yy_position = on.sentences.end, on.yy_position
    late, full = late_half(PAPER, end), full_circuit(PAPER, yy_position, end)
    engine = _warm_engine(name, on, work)
    requests = [Request.clean(), Request.isolate(late), Request.patch(late), Request.isolate(full)]
    evaluations = timed(lambda: engine.evaluate(requests), work.device).seconds
    memory = peak_gb(work.device)
    hf_model, tokens = to_transformers(on.model).to(work.device), on.sentences.clean[: work.batch].to(work.device)
    at_end = median_cost(lambda: end_logits(hf_model, tokens), work.device).clock
    with torch.inference_mode():
        everywhere = median_cost(lambda: hf_model(tokens, use_cache=False).logits, work.device).clock
    scale = len(requests) * work.n / len(tokens)
    return BigDataSet(evaluations, scale * everywhere, scale * at_end, memory)


def _engine(name: str, on: Subject, work: Work) -> Engine:
    return make_engine(name, work.device, on.model, on.sentences, work.memory_gb, check=False)


def _warm_engine(name: str, on: Subject, work: Work) -> Engine:
    """An engine that has evaluated nothing, on a device that has."""
    if torch.device(work.device).type == "cuda":
        few = on.sentences.rows(slice(8))
        receivers = PathSet.at(Node.logits(few.end))
        _engine(name, replace(on, sentences=few), work).sweep(receivers, on.nodes)
    return _engine(name, on, work)


def _baseline(how: str, on: Subject, device: str) -> Differences:
    if how == RELEASE:
        try:
            from benchmarks.release_way import split_by_head_and_position
        except ImportError as error:
            raise NotMeasuredError(f"rust_circuit cannot be imported ({error})") from None
        return split_by_head_and_position(on.model, on.sentences.end + 1, device).differences
    if how == TRANSFORMER_LENS:
        try:
            hooked = TransformerLensHooks(on.model, device)
        except ImportError as error:
            raise NotMeasuredError(f"TransformerLens cannot be imported ({error}); see benchmarks/README.md") from None
    else:
        hooked = TransformersHooks(on.model, device, end_only=how == HOOKS_AT_END)
    return lambda sentences, start_yy, nodes: differences_by_hooks(hooked, sentences, start_yy, nodes)
