"""What a step of the reproduction has to compute at least, counted while it runs, without a line in what is counted.

Counted is what is asked for: requests, sweeps, edits, neurons and next tokens, each once however often it is asked for.
So work that is done twice is not in it. How the count becomes time, `benchmarks/reproduction.py` says.

    with counting() as needs:
        ...  # whatever evaluates
    needs.total(sizes)  # a Count
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass
from typing import Any
from unittest.mock import patch

import torch

from path_patching import neurons, sweeps
from path_patching.batches import Batches, Part
from path_patching.direct_effects import is_cheaper
from path_patching.edits import EditedRuns
from path_patching.engine import Engine, Request, Sentences
from path_patching.gpt2.model import Architecture
from path_patching.paths import Node, PathSet
from path_patching.sweeps import every_node
from reproduction import next_token


@dataclass(frozen=True)
class Count:
    """Numbers of rows of D numbers that are multiplied: by the unembedding, by a layer's matrices, by an MLP's alone.

    And of exponentials. What costs a part of a row counts as that part.
    """

    unembedded: float = 0.0
    layers: float = 0.0
    mlps: float = 0.0
    exponentials: float = 0.0

    def __add__(self, other: Count) -> Count:
        return Count(*(sum(pair) for pair in zip(astuple(self), astuple(other), strict=True)))


class Needs:
    """What was asked for, to be counted once all is done."""

    def __init__(self) -> None:
        self._sentences: dict[bytes, Sentences] = {}
        self._requests: dict[tuple[bytes, Request], None] = {}  # in order, each once
        self._prefixes: set[int] = set()
        self._others = Count()
        self._numbers: dict[Hashable, int] = {}
        self._numbered: dict[int, tuple[PathSet, int]] = {}

    def note_requests(self, sentences: Sentences, requests: Sequence[Request]) -> None:
        """Requests on some sentences."""
        key = b"".join(sentences.of(data).numpy().tobytes() for data in ("clean", "corrupted"))
        self._sentences.setdefault(key, sentences)
        self._requests |= dict.fromkeys((key, each) for each in requests)

    def note_tokens(self, tokens: torch.Tensor) -> int:
        """Sentences (N, T) that a forward pass is run on. Returns how many of their ends are new."""
        running, before = torch.zeros(len(tokens), dtype=torch.int64), len(self._prefixes)
        for column in tokens.unbind(1):
            before = len(self._prefixes)
            running = running * 6_364_136_223_846_793_005 + column + 1  # wraps around: a number for each prefix
            self._prefixes.update(running.tolist())
        return len(self._prefixes) - before

    def note(self, count: Count) -> None:
        """Work that is no request and no forward pass."""
        self._others += count

    def total(self, sizes: Architecture) -> Count:
        """All of it."""
        pairs = {key: len(torch.cat([on.clean, on.corrupted], 1).unique(dim=0)) for key, on in self._sentences.items()}
        rows = sum(_rows(request.paths, sizes, pairs[key]) for key, request in self._requests)
        along = {_head_along_directions(request.paths, sizes, pairs[key]) for key, request in self._requests} - {None}
        rows += len(along) * sizes.d_head
        recomputed = {(key, each.data, mlp) for key, each in self._requests for mlp in self._recomputed(each.paths)}
        mlps = sum(pairs[key] for key, _, _ in recomputed)
        return self._others + Count(rows, sizes.n_layers * len(self._prefixes), mlps)

    def _recomputed(self, paths: PathSet | None) -> set[int]:
        """The MLPs that a path set recomputes, as numbers of the sub-trees below them."""
        found: set[int] = set()
        seen: set[int] = set()

        def walk(part: PathSet) -> None:
            number = self._number(part)
            if number in seen:
                return
            seen.add(number)
            if part.node.kind == "mlp" and not part.ends_here:
                found.add(number)
            for branch in part.branches:
                walk(branch.paths)

        if paths is not None:
            walk(paths)
        return found

    def _number(self, paths: PathSet) -> int:
        """The same number for equal sub-trees."""
        if id(paths) not in self._numbered:
            below = tuple((branch.via, self._number(branch.paths)) for branch in paths.branches)
            number = self._numbers.setdefault((paths.node, paths.ends_here, below), len(self._numbers))
            self._numbered[id(paths)] = paths, number  # which keeps it, so that its id is no other's
        return self._numbered[id(paths)][1]


def _rows(paths: PathSet | None, sizes: Architecture, n_pairs: int) -> float:
    """Rows of the unembedding for a request: one a pair of sentences, or a product of the directions' number.

    A head's directions themselves are unembedded once for all sentences.
    """
    if _head_along_directions(paths, sizes, n_pairs):
        return n_pairs * sizes.d_head / sizes.d_model
    return n_pairs


def _head_along_directions(paths: PathSet | None, sizes: Architecture, n_pairs: int) -> str | None:
    """The head whose direct effect a request is, if its output directions are cheaper than rows; else None."""
    if paths is not None and len(paths.branches) == 1 and paths.branches[0].paths.ends_here:
        sender = paths.branches[0].paths.node
        if sender.kind == "head" and is_cheaper(sender, sizes, n_pairs):
            return sender.name
    return None


def _of_edits(node: Node, n_layers: int, n_positions: int, n_rows: int) -> Count:
    """Of `n_rows` edits of a node: what lies above it, from its position on; of the last layer only END."""
    above = n_layers if node.kind == "embeds" else n_layers - 1 - node.layer
    layers = (n_positions - node.position) * (above - 1) + 1 if above else 0
    own_mlp = 0 if node.kind == "embeds" else 1
    return Count(unembedded=n_rows, layers=layers * n_rows, mlps=own_mlp * n_rows)


@contextmanager
def counting() -> Iterator[Needs]:
    """Within it, what is asked for is noted."""
    needs = Needs()

    def noted(owner: Any, name: str, note: Callable[..., None]) -> Any:
        original = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            note(*arguments, **named)
            return original(*arguments, **named)

        return patch.object(owner, name, call)

    def of_evaluation(engine: Engine, requests: Sequence[Request]) -> None:
        needs.note_requests(engine.sentences, requests)

    def of_sweep(
        engine: Engine, receivers: PathSet, senders: Sequence[Node], via: Any = "all", inside: Any = "corrupted"
    ) -> None:
        reached = [sender for sender in dict.fromkeys(senders) if receivers.reachable(sender, via)]
        patched = [Request.patch(receivers.extend([sender], via), inside) for sender in reached]
        needs.note_requests(engine.sentences, patched)

    def of_sweeps(engines: Sequence[Engine], metrics: object, inside: Any = "corrupted") -> None:
        for engine in engines:
            end = engine.sentences.end
            heads = [node for node in every_node(engine, end) if node.kind == "head"]
            of_sweep(engine, PathSet.at(Node.logits(end)), heads, inside=inside)

    def of_batch(batches: Batches, part: Part, *how: object) -> None:
        needs.note_tokens(batches.pairs[part.rows].flatten(0, 1))

    def of_edits(runs: EditedRuns, changes: Mapping[Node, torch.Tensor]) -> None:
        needs.note_tokens(runs.tokens)
        n_layers, n_positions = runs.model.architecture.n_layers, runs.tokens.shape[1]
        for node, of_node in changes.items():
            needs.note(_of_edits(node, n_layers, n_positions, n_rows=of_node[..., 0].numel()))

    def of_neurons(found: neurons.Neurons, metric_of: object) -> None:
        needs.note(Count(exponentials=found.clean.numel() * len(found.unembedding.rows)))

    def of_next_token(hf_model: object, tokens: torch.Tensor) -> None:
        needs.note(Count(unembedded=needs.note_tokens(tokens)))

    with ExitStack() as stack:
        stack.enter_context(noted(Engine, "evaluate_in_parts", of_evaluation))
        stack.enter_context(noted(Engine, "sweep", of_sweep))
        stack.enter_context(noted(sweeps, "direct_effects_on", of_sweeps))
        stack.enter_context(noted(Batches, "activations", of_batch))
        stack.enter_context(noted(EditedRuns, "probabilities_of_each", of_edits))
        stack.enter_context(noted(neurons, "neuron_effects", of_neurons))
        stack.enter_context(noted(next_token, "end_logits", of_next_token))
        yield needs
