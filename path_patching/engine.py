"""What an engine is: a model and two sets of sentences in, answer probabilities out.

Semantics (section 3 of the paper): the nodes at the lower ends of a path set, with all they depend on, are computed on
one kind of data (*inside*), everything else on another (*outside*); a node on the way is recomputed along those paths
only. The tree is the unrolled one: a node that is also reached by another path keeps its outside value there.

Data are clean sentences, their corrupted twins, or no sentences at all. On *mean* data a node, embeddings included,
writes at a position what it writes there on average over all clean sentences of the engine; so a stream is the mean
stream. On *zero* data heads, MLPs and neurons write 0; the embeddings, of the clean sentence, and the bias that the
heads of a layer share stay. At the ends of paths the change (inside − outside) is multiplied by a *strength*.

    >>> clean, corrupted = engine.clean(), engine.corrupted()  # (N, A) each
    >>> paths = PathSet.parse("a1.h0 → m2 → logits", end=END)
    >>> broken = engine.patch(paths)  # these paths on corrupted data: what breaks
    >>> alone = engine.isolate(paths)  # everything else on corrupted data: what they achieve alone
    >>> both = engine.evaluate([Request.patch(paths), Request.isolate(paths)])  # (2, N, A), from one forward pass
    >>> torch.allclose(both[0], broken, rtol=0, atol=1e-7)
    True
    >>> ablated = engine.patch(paths, inside="mean")
    >>> overdone = engine.patch(paths, strength=1.25)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence, Sized
from copy import copy
from dataclasses import dataclass
from functools import partial
from itertools import islice
from numbers import Real
from typing import Any, Generic, Literal, NamedTuple, Self, get_args

import torch
from typing_extensions import TypeVar

from path_patching.devices import fewer, in_parts, resolve_device, too_small
from path_patching.direct_effects import Change, direct_effects, is_cheaper
from path_patching.errors import UserError, shortened
from path_patching.gpt2.model import Model
from path_patching.kept import Kept
from path_patching.paths import AnyVia, Node, PathSet, PathSetError, check_nodes, check_path_set
from path_patching.precision import full_precision
from path_patching.prefixes import distinct_prefixes
from path_patching.progress import progress
from path_patching.unembedding import ROWS_AT_ONCE, Unembedding

Data = Literal["clean", "corrupted", "mean", "zero"]
DataSet = Literal["clean", "corrupted"]  # the data that are sentences
BYTES = 4  # of a float32
PROBABILITY_BYTES = 8  # of a float64
MOST_STRENGTH = 1e6  # beside a larger change, float32 keeps nothing of what is changed, and may overflow
BLOCKS_AT_ONCE = 8  # of the unembedding, for several requests: so many that a last, short one costs little
LEAST_GB, MOST_GB = 1e-9, 1e6  # of memory: the least holds no sentence, so that each is a batch of its own

Batch = TypeVar("Batch", bound=Sized, default=Any)  # an engine's activations; who only uses engines need not say
Found = TypeVar("Found", default=Any)
Means = dict[Hashable, torch.Tensor]  # over the clean sentences, of what an engine's activations are; neurons by node


@dataclass(frozen=True)
class Request:
    """One evaluation: `paths` on `inside` data, all else on `outside` data; without paths all is outside.

    `strength` multiplies the change (inside − outside) at the ends of the paths: of what a node writes, or, where a
    path ends at `residual@p` or at the logits, of the stream that is read. Raises `PathSetError` for paths that are
    none, `UserError` for data of another kind and for a strength that is no number from −1e6 to 1e6.
    """

    paths: PathSet | None
    inside: Data
    outside: Data
    strength: float = 1.0

    def __post_init__(self) -> None:
        if self.paths is not None:
            check_path_set(self.paths)
        _check_data(self.inside)
        _check_data(self.outside)
        object.__setattr__(self, "strength", _strength(self.strength))

    @classmethod
    def whole(cls, data: Data) -> Request:
        """Everything on one kind of data."""
        return cls(None, data, data)

    @classmethod
    def clean(cls) -> Request:
        """Everything on clean data."""
        return cls.whole("clean")

    @classmethod
    def corrupted(cls) -> Request:
        """Everything on corrupted data."""
        return cls.whole("corrupted")

    @classmethod
    def patch(cls, paths: PathSet, inside: Data = "corrupted", strength: float = 1.0) -> Request:
        """`paths` on `inside` data, everything else on clean: what breaks if they do (necessity)."""
        return cls(check_path_set(paths), inside, "clean", strength)

    @classmethod
    def isolate(cls, paths: PathSet, outside: Data = "corrupted", strength: float = 1.0) -> Request:
        """`paths` on clean data, everything else on `outside` data: what they achieve alone (sufficiency)."""
        return cls(check_path_set(paths), "clean", outside, strength)

    @property
    def data(self) -> tuple[Data, Data, float]:
        """All but the paths. Requests that share it share what equal parts of their paths change."""
        return self.inside, self.outside, self.strength


@dataclass(frozen=True, eq=False)
class Sentences:
    """Clean and corrupted sentences, row by row each other's twins, and the tokens whose probabilities are wanted.

    `clean` and `corrupted` are int64 (N, T); `answers` int64 (A,): the 100 year tokens.
    """

    clean: torch.Tensor
    corrupted: torch.Tensor
    answers: torch.Tensor

    def __post_init__(self) -> None:
        if self.clean.ndim != 2 or self.clean.shape != self.corrupted.shape or 0 in self.clean.shape:
            shapes = f"{tuple(self.clean.shape)} and {tuple(self.corrupted.shape)}"
            raise UserError(f"clean and corrupted tokens must both be (N, T) with N, T > 0, not {shapes}")
        if self.answers.ndim != 1 or len(self.answers) == 0:
            raise UserError(f"answer tokens must be (A,) with A > 0, not {tuple(self.answers.shape)}")
        if {self.clean.dtype, self.corrupted.dtype, self.answers.dtype} != {torch.int64}:
            raise UserError("tokens must be int64")

    @property
    def end(self) -> int:
        """The last position, END."""
        return self.clean.shape[1] - 1

    def __len__(self) -> int:
        return self.clean.shape[0]

    def of(self, data: DataSet) -> torch.Tensor:
        """The tokens (N, T) of one of the two data sets."""
        return self.clean if data == "clean" else self.corrupted

    def rows(self, rows: slice | torch.Tensor) -> Sentences:
        """Some of the sentences with their twins; `rows` is a slice or int64 (n,)."""
        return Sentences(self.clean[rows], self.corrupted[rows], self.answers)


class DirectSweep(NamedTuple):
    """A sweep of heads on the logits: by which engine, what is measured of its sentences (N, A), on which data."""

    engine: Engine
    metric: Callable[[torch.Tensor], torch.Tensor]
    inside: Data = "corrupted"


class Engine(ABC, Generic[Batch]):
    """Evaluates path sets on a model. All results are on the CPU; `name` says which engine made them.

    Each distinct pair of a clean and a corrupted sentence is worked on once, in batches whose activations fit in the
    memory. Where one batch is enough they are kept from call to call, those of engines made by `like` as far as all fit
    together. Float32 is full precision whatever PyTorch is told (autocast, TF32). An engine says what a batch's
    activations are and computes on one batch (B pairs); this class does the rest.
    """

    name: str
    heads_checked: int | None = None
    """About how many heads are recomputed at most when the engine is checked; None for all of them."""

    def __init__(self, model: Model, sentences: Sentences, device: str = "cpu", memory_gb: float = 4.0) -> None:
        """`device` is "cpu", "cuda" (PyTorch's current one), "cuda:i", or "auto"; the engine's is "cpu" or "cuda:i".

        `memory_gb` is lowered when a batch turns out not to fit in the device's memory. Raises `UserError` if the
        sentences are too long for the model or use tokens it has not, or if there is no such device.
        """
        if not LEAST_GB <= memory_gb <= MOST_GB:  # NaN fails too
            raise UserError(f"{memory_gb} gigabytes of memory for batches: give a number, as 4.0")
        self.model = model
        self.device = resolve_device(device)
        self.memory_gb = memory_gb
        self._kept: Kept[Batch] = Kept()  # shared with engines made by `like`
        self._take(sentences)
        self._unembedding = Unembedding(model, sentences.answers, self.device)

    def like(self, sentences: Sentences) -> Self:
        """An engine like this one for other sentences, which shares the model on the device with it.

        Raises `UserError` like a new one.
        """
        other = copy(self)
        other._take(sentences)
        if not torch.equal(sentences.answers, self.sentences.answers):
            other._unembedding = Unembedding(self.model, sentences.answers, self.device)
        return other

    def clean(self) -> torch.Tensor:
        """Answer probabilities at END of the clean sentences, (N, A) float64."""
        return self.evaluate([Request.clean()])[0]

    def corrupted(self) -> torch.Tensor:
        """Answer probabilities at END of the corrupted sentences, (N, A) float64."""
        return self.evaluate([Request.corrupted()])[0]

    def patch(self, paths: PathSet, inside: Data = "corrupted", strength: float = 1.0) -> torch.Tensor:
        """Answer probabilities (N, A) with `paths` on `inside` data and all else on clean: what breaks."""
        return self.evaluate([Request.patch(paths, inside, strength)])[0]

    def isolate(self, paths: PathSet, outside: Data = "corrupted", strength: float = 1.0) -> torch.Tensor:
        """Answer probabilities (N, A) with `paths` on clean data and all else on `outside`: what they do alone."""
        return self.evaluate([Request.isolate(paths, outside, strength)])[0]

    def evaluate(self, requests: Sequence[Request]) -> torch.Tensor:
        """Answer probabilities of several requests, (requests, N, A) float64, from one forward pass.

        Equal requests are computed once, and so is what equal parts of their paths change where they are on the same
        data and of the same strength; all are unembedded together. A result depends on what else is asked for only as
        the order of float32 sums does. Raises `PathSetError` if there are none, or for paths that the model or its
        sentences do not have.
        """
        self._check_requests(requests)
        found = torch.empty(len(requests), len(self.sentences), len(self.sentences.answers), dtype=torch.float64)
        for rows, probabilities in self.evaluate_in_parts(requests):
            found[:, rows] = probabilities
        return found

    def evaluate_in_parts(self, requests: Sequence[Request]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """`evaluate` for more sentences than their probabilities fit in memory: some of them at a time.

        Yields their rows (n,) and their probabilities (requests, n, A), every sentence once, in any order. Raises
        `PathSetError` like `evaluate`.
        """
        self._check_requests(requests)
        on_mean = [each for each in requests if "mean" in (each.inside, each.outside)]
        if on_mean:
            self._find_means(node for each in on_mean if each.paths is not None for node in each.paths.nodes())
        places: dict[Request, list[int]] = defaultdict(list)
        for place, each in enumerate(requests):
            places[each].append(place)
        distinct = sorted(places, key=lambda each: each.data)  # alike ones together
        n_answers = len(self.sentences.answers)

        def compute(batch: Batch) -> torch.Tensor:
            found = torch.empty(len(requests), len(batch), n_answers, dtype=torch.float64)
            for each, probabilities in zip(distinct, self._answers(batch, distinct), strict=True):
                found[places[each]] = probabilities.cpu()
            return found

        yield from self._in_parts(compute, bytes_each=PROBABILITY_BYTES * len(requests) * n_answers)

    def sweep(
        self, receivers: PathSet, senders: Sequence[Node], via: AnyVia = "all", inside: Data = "corrupted"
    ) -> torch.Tensor:
        """Path patching of `receivers` extended by each of `senders` in turn, on `inside` data: (S, N, A) float64.

        A sender that no receiver can read changes nothing and gets the clean probabilities.
        Raises `PathSetError` if that holds for all of them.
        """
        _check_data(inside)
        senders, receivers = self._check_places(senders), check_path_set(receivers)
        reachable = [sender for sender in dict.fromkeys(senders) if receivers.reachable(sender, via)]
        self._check(receivers.extend(reachable or senders, via))  # says so if none can be reached
        # A whole stream differs from reader to reader, so such a sender cannot be one of a stack.
        whole = [sender for sender in reachable if sender.kind == "residual"]
        stacked = [sender for sender in reachable if sender.kind != "residual"]
        requests = [Request.patch(receivers.extend([sender], via), inside) for sender in whole]
        swept = dict(zip(whole, self.evaluate(requests), strict=True)) if whole else {}
        if stacked:
            if inside == "mean":
                self._find_means([*receivers.nodes(), *stacked])
            found = self._over_batches(lambda batch: self._sweep_batch(batch, receivers, stacked, via, inside))
            swept |= zip(stacked, found, strict=True)
        if any(sender not in swept for sender in senders):
            swept = dict.fromkeys(senders, self.clean()) | swept
        return torch.stack([swept[sender] for sender in senders])

    @staticmethod
    @full_precision()
    @torch.no_grad()
    def sweep_together(asked: Sequence[DirectSweep]) -> list[torch.Tensor]:
        """The metric with the direct path of each head at END to the logits patched, for several engines: (L * H, N).

        It is that of what `sweep` gives of each. Of engines that share their model and answers, as those made by `like`
        do, what a head can write is unembedded once for all.
        """
        alike: dict[int, list[int]] = defaultdict(list)
        for place, each in enumerate(asked):
            _check_data(each.inside)
            alike[id(each.engine._unembedding)].append(place)
        found: dict[int, torch.Tensor] = {}
        for places in alike.values():
            found |= zip(places, _swept_together([asked[place] for place in places]), strict=True)
        return [found[place] for place in range(len(asked))]

    def writes(self, nodes: Sequence[Node], data: Data = "clean") -> torch.Tensor:
        """What each node writes into the residual stream of its position: (len(nodes), N, D) float32.

        A head's write is without the layer's shared output bias. Raises `PathSetError` for `residual@p` and the
        logits, which write nothing; see `residual`.
        """
        nodes = self._check_places(nodes)
        if unfit := [str(node) for node in nodes if node.kind in ("residual", "logits")]:
            raise PathSetError(f"{', '.join(unfit)} writes nothing; ask for heads, MLPs, neurons or embeddings")
        _check_data(data)
        if data == "mean":
            self._find_means(nodes)
        return self._over_batches(lambda batch: self._writes(batch, nodes, data))

    def residual(self, reader: Node, data: Data = "clean") -> torch.Tensor:
        """What `reader` (a head, an MLP or the logits) finds in the residual stream of its position: (N, D) float32."""
        self._check_places([reader])
        if reader.kind not in ("head", "mlp", "logits"):
            raise PathSetError(f"{reader} reads no residual stream; ask for a head, an MLP or the logits")
        _check_data(data)
        if data == "mean":
            self._find_means([])
        return self._over_batches(lambda batch: self._residual(batch, reader, data)[None])[0]

    def attention(self, heads: Sequence[tuple[int, int]], data: DataSet = "clean") -> torch.Tensor:
        """Attention patterns of heads (layer, head): (len(heads), N, T, T) float32, (query, key)."""
        pairs = isinstance(heads, Sequence) and all(isinstance(each, Sequence) and len(each) == 2 for each in heads)
        if not pairs:
            raise PathSetError("heads are given by layer and number, as [(9, 1), (7, 10)]")
        self._check_places([Node.head(*head, self.sentences.end) for head in heads])
        if data not in get_args(DataSet):
            raise UserError(f"heads attend on sentences, {' or '.join(get_args(DataSet))}, not on {data!r}")
        return self._over_batches(lambda batch: self._attention(batch, heads, data))

    def _take(self, sentences: Sentences) -> None:
        """Evaluate on these sentences from now on; of others nothing is kept."""
        name, architecture = self.model.name, self.model.architecture
        if sentences.end >= architecture.n_positions:
            raise UserError(f"sentences of {sentences.end + 1} tokens; {name} takes {architecture.n_positions}")
        for tokens in (sentences.clean, sentences.corrupted, sentences.answers):
            if tokens.min() < 0 or tokens.max() >= architecture.vocab_size:
                raise UserError(f"a token id outside the vocabulary of {name} (0 to {architecture.vocab_size - 1})")
        self.sentences = sentences
        # Sorted, so that the sentences of one batch begin alike.
        pairs = torch.stack([sentences.clean, sentences.corrupted], 1)
        self._pairs, self._pair_of_sentence = pairs.unique(dim=0, return_inverse=True)  # (pairs, 2, T), (N,)
        self._needed_bytes: int | None = None
        self._means: Means = {}  # shared with all batches; empty until they are asked for

    def _check_requests(self, requests: Sequence[Request]) -> None:
        if not requests:
            raise PathSetError("no probabilities are asked for")
        if not isinstance(requests, Sequence) or not all(isinstance(each, Request) for each in requests):
            raise PathSetError("several requests are asked for as a list, as [Request.clean(), Request.patch(paths)]")
        for request in requests:
            self._check(request.paths)

    def _check(self, paths: PathSet | None) -> None:
        if paths is None:
            return
        self._check_places(sorted(paths.nodes()))
        end = Node.logits(self.sentences.end)
        if paths.node != end:
            raise PathSetError(f"a path set for these sentences starts at the logits, {end}, not at {paths.node}")

    def _check_places(self, given: Sequence[Node]) -> list[Node]:
        """The nodes, as they were given. Raises `PathSetError` for what is none, or none of the model's."""
        nodes = check_nodes(given)
        if not nodes:
            raise PathSetError("no node is asked for; name at least one")
        architecture = self.model.architecture
        for node in nodes:
            if not isinstance(node, Node):  # `check_nodes` knows those of the module as it is now
                raise PathSetError(f"{node} is of path_patching as it was loaded again; restart Python, or the kernel")
            node.check_fits(architecture.n_layers, architecture.n_heads, architecture.d_mlp, self.sentences.end + 1)
        return nodes

    def _find_means(self, nodes: Iterable[Node]) -> None:
        """See that the means over all clean sentences are known, and those of the neurons among some nodes."""
        neurons = [node for node in dict.fromkeys(nodes) if node.kind == "neuron"]
        if self._means and all(neuron in self._means for neuron in neurons):
            return
        shares = self._pair_of_sentence.bincount().double() / len(self.sentences)
        total: Means = {}
        for _, sums in self._in_batches(lambda batch, pairs: self._weighted(batch, shares[pairs], neurons)):
            total = {key: total[key] + each if total else each for key, each in sums.items()}
        self._means.update(total)

    def _answers(self, batch: Batch, requests: Sequence[Request]) -> Iterator[torch.Tensor]:
        """Answer probabilities (B, A) of each request in turn, unembedded together as far as memory allows."""
        rows = BLOCKS_AT_ONCE * ROWS_AT_ONCE[torch.device(self.device).type]
        rows_that_fit = self.memory_gb * 1e9 / 8 / BYTES / self.model.architecture.d_model
        at_once = max(1, int(min(rows, rows_that_fit) / len(batch)))
        reads = self._reads(batch, requests)
        while read := [*islice(reads, at_once)]:
            yield from self._unembedding.probabilities(torch.stack(read))

    def _sweep_batch(
        self, batch: Batch, receivers: PathSet, senders: list[Node], via: AnyVia, inside: Data
    ) -> torch.Tensor:
        """`sweep` of one batch for senders that can all be reached, (S, B, A)."""
        answers = {} if receivers.branches else self._direct_effects(batch, receivers.node, senders, inside)
        rest = [sender for sender in senders if sender not in answers]
        if rest:
            answers |= zip(rest, self._evaluate_sweep(batch, receivers, rest, via, inside), strict=True)
        return torch.stack([answers[sender] for sender in senders])

    def _direct_effects(
        self, batch: Batch, logits: Node, senders: list[Node], inside: Data
    ) -> dict[Node, torch.Tensor]:
        """The direct effects (B, A) of those senders that are cheaper along the directions in which they write."""
        architecture = self.model.architecture
        changes = {
            sender: Change(self._coefficients(batch, sender, inside), directions)
            for sender in senders
            if is_cheaper(sender, architecture, len(batch)) and (directions := self._directions(sender)) is not None
        }
        found = direct_effects(self._residual(batch, logits, "clean"), list(changes.values()), self._unembedding)
        return dict(zip(changes, found, strict=True))

    def _read_and_changed(self, inside: Data) -> tuple[torch.Tensor, torch.Tensor]:
        """Of distinct pairs: what the logits read on clean data (P, D), and all heads' `_coefficients` (S, P, r)."""
        logits, heads = Node.logits(self.sentences.end), _heads_at_end(self)
        if inside == "mean":
            self._find_means(heads)

        def of_batch(batch: Batch, pairs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            changed = torch.stack([self._coefficients(batch, head, inside) for head in heads])
            return self._residual(batch, logits, "clean"), changed

        read, changed = zip(*(found for _, found in self._in_batches(of_batch)), strict=True)
        return torch.cat(read), torch.cat(changed, 1)

    def _over_batches(self, compute: Callable[[Batch], torch.Tensor]) -> torch.Tensor:
        """`compute` gives (any, B, ...) for a batch's activations; joined, a row a sentence, (any, N, ...)."""
        rows, found = zip(*self._in_parts(compute), strict=True)
        return torch.cat(found, 1)[:, torch.cat(rows).argsort()]

    def _in_parts(
        self, compute: Callable[[Batch], torch.Tensor], bytes_each: int = 0
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """`compute` gives (any, B, ...) for a batch's activations; its sentences' rows (n,), and theirs (any, n, ...).

        The activations of a batch, with the `bytes_each` that are found of a pair, take half the memory, and what is
        handed on at a time an eighth. All is on the CPU.
        """
        at_once = max(1, int(self.memory_gb * 1e9 / 8 / bytes_each)) if bytes_each else len(self.sentences)
        for pairs, found in self._in_batches(lambda batch, _: compute(batch).cpu(), bytes_each):
            of_batch = (self._pair_of_sentence >= pairs[0]) & (self._pair_of_sentence <= pairs[-1])
            for rows in of_batch.nonzero()[:, 0].split(at_once):
                yield rows, found[:, self._pair_of_sentence[rows] - pairs[0]]

    def _in_batches(
        self, compute: Callable[[Batch, torch.Tensor], Found], bytes_each: int = 0
    ) -> Iterator[tuple[torch.Tensor, Found]]:
        """The numbers (B,) of a batch's pairs, and what `compute` gives for its activations and these.

        A batch that does not fit in the device's memory is halved. Raises `UserError` if not even one pair fits.
        """
        if self._needed_bytes is None:
            self._needed_bytes = self._batch_bytes(self._pairs)
        needed = self._needed_bytes + bytes_each * len(self._pairs)
        n_batches = min(len(self._pairs), math.ceil(needed / (self.memory_gb * 1e9 / 2)))
        every, at_once = torch.arange(len(self._pairs)), math.ceil(len(self._pairs) / n_batches)

        @full_precision()
        @torch.no_grad()
        def of_batch(pairs: torch.Tensor) -> Found:
            return compute(self._batch(self._pairs[pairs], keep=n_batches == 1), pairs)

        halve = partial(self._halve, bytes_a_pair=needed / len(self._pairs))
        yield from progress(
            in_parts(of_batch, every, at_once, halve, self.device), f"{n_batches} batches of sentences", n_batches
        )

    def _halve(self, tried: int, bytes_a_pair: float) -> int:
        """How many pairs to try now that so many did not fit; `memory_gb` is from now on what they are taken to need.

        With it, all shrinks that is stacked up to a share of it.
        """
        self._kept.clear()
        half = max(1, tried // 2)
        needed_gb = half * bytes_a_pair * 2 / 1e9
        if tried == 1 and self.memory_gb <= needed_gb:
            raise too_small("one pair of sentences", self.device)
        self.memory_gb = min(self.memory_gb / 2, needed_gb)
        print(
            f"out of memory on {self.device} with {tried} pairs of sentences at a time: trying {half}, and memory_gb "
            f"{self.memory_gb:.3g}, which spares the attempt"
        )
        return half

    def _batch(self, pairs: torch.Tensor, keep: bool) -> Batch:
        """Activations of pairs (B, 2, T)."""
        if len(pairs) == len(self._pairs) and (kept := self._kept.of(self)) is not None:
            return kept
        batch = self._activations(*pairs.unbind(1))
        if keep:
            self._kept.keep(self, batch, self._needed_bytes or 0, self.memory_gb * 1e9 / 2)
        return batch

    def _batch_bytes(self, pairs: torch.Tensor) -> int:
        """How much memory the activations of pairs (B, 2, T) take, while they are computed."""
        architecture = self.model.architecture
        n_prefixes = len(distinct_prefixes(pairs.flatten(0, 1).unique(dim=0)).tokens)
        widths_each = 3 * architecture.n_layers + 1 + 16  # kept, and at work in one layer
        return BYTES * n_prefixes * architecture.d_model * widths_each

    @abstractmethod
    def _activations(self, clean: torch.Tensor, corrupted: torch.Tensor) -> Batch:
        """All that path patching needs to know of B clean and B corrupted sentences, (B, T) each; its `len` is B."""

    @abstractmethod
    def _weighted(self, batch: Batch, weights: torch.Tensor, neurons: Sequence[Node]) -> Means:
        """The part that one batch's clean sentences have in the means, given the share (B,) float64 of each.

        Of these neurons too. With those of the other batches added it becomes `_means`.
        """

    @abstractmethod
    def _reads(self, batch: Batch, requests: Sequence[Request]) -> Iterator[torch.Tensor]:
        """What is unembedded for each request in turn, after the final LayerNorm: (B, D)."""

    @abstractmethod
    def _evaluate_sweep(
        self, batch: Batch, receivers: PathSet, senders: list[Node], via: AnyVia, inside: Data
    ) -> torch.Tensor:
        """`sweep` of one batch for senders that can all be reached, (S, B, A)."""

    @abstractmethod
    def _directions(self, sender: Node) -> torch.Tensor | None:
        """The output directions (r, D) of a head or a neuron; None to leave it, which a head is not, to a sweep."""

    @abstractmethod
    def _coefficients(self, batch: Batch, sender: Node, inside: Data) -> torch.Tensor:
        """How much further than on clean data such a sender writes along them on `inside` data, (B, r)."""

    @abstractmethod
    def _writes(self, batch: Batch, nodes: Sequence[Node], data: Data) -> torch.Tensor:
        """`writes` of one batch, (len(nodes), B, D)."""

    @abstractmethod
    def _residual(self, batch: Batch, reader: Node, data: Data) -> torch.Tensor:
        """`residual` of one batch, (B, D)."""

    @abstractmethod
    def _attention(self, batch: Batch, heads: Sequence[tuple[int, int]], data: DataSet) -> torch.Tensor:
        """`attention` of one batch, (len(heads), B, T, T)."""


def _swept_together(asked: Sequence[DirectSweep]) -> list[torch.Tensor]:
    """`Engine.sweep_together` of engines that share their unembedding."""
    first, pairs = asked[0].engine, [len(each.engine._pairs) for each in asked]
    heads = _heads_at_end(first)
    if not is_cheaper(heads[0], first.model.architecture, sum(pairs)):
        return [_swept_alone(each) for each in asked]
    read, changed = zip(*(each.engine._read_and_changed(each.inside) for each in asked), strict=True)
    stream, coefficients = torch.cat(read), torch.cat(changed, 1)
    directions = [along for head in heads if (along := first._directions(head)) is not None]

    def of_heads(which: torch.Tensor) -> list[torch.Tensor]:  # of each engine, (n, N)
        changes = [Change(coefficients[head], directions[head]) for head in which.tolist()]
        values: list[list[torch.Tensor]] = [[] for _ in asked]
        for probabilities in direct_effects(stream, changes, first._unembedding):
            for each, of_pairs, metrics in zip(asked, probabilities.cpu().split(pairs), values, strict=True):
                metrics.append(each.metric(of_pairs[each.engine._pair_of_sentence]))
        return [*map(torch.stack, values)]

    halve = fewer("heads", first.device)
    parts = in_parts(of_heads, torch.arange(len(heads)), len(heads), halve, first.device)
    return [*map(torch.cat, zip(*(found for _, found in parts), strict=True))]


def _swept_alone(asked: DirectSweep) -> torch.Tensor:
    """The same of one engine, (L * H, N), by the way of all sweeps."""
    engine, metric, inside = asked
    logits = PathSet.at(Node.logits(engine.sentences.end))
    return torch.stack([metric(each) for each in engine.sweep(logits, _heads_at_end(engine), inside=inside)])


def _heads_at_end(engine: Engine) -> list[Node]:
    sizes, end = engine.model.architecture, engine.sentences.end
    return [Node.head(layer, head, end) for layer in range(sizes.n_layers) for head in range(sizes.n_heads)]


def _strength(given: object) -> float:
    """A strength as a float. Raises `UserError` for what is no number, or too large a one."""
    is_number = isinstance(given, Real) and not isinstance(given, bool)
    if not is_number or not -MOST_STRENGTH <= given <= MOST_STRENGTH:  # NaN fails too
        raise UserError(f"a strength of {shortened(repr(given))}: give a number of at most {MOST_STRENGTH:g}, as 0.5")
    return float(given)


def _check_data(data: object) -> None:
    if data not in get_args(Data):
        raise UserError(f"data are {', '.join(get_args(Data))}, not {shortened(repr(data))}")
