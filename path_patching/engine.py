"""What can be asked of an engine: a model and two sets of sentences in, answer probabilities out.

`reference` defines what is computed (section 3 of the paper). The nodes at the lower ends of a path set, with all they
depend on, see one kind of data (*inside*). Everything else sees another (*outside*). A node on the way is recomputed
along the paths only. An engine computes this for one batch of sentences; `batches` cuts sentences into batches.

Data are clean sentences, their corrupted twins, or no sentences at all. On *mean* data each node, embeddings included,
writes its average at that position over all clean sentences of the engine; so a stream is the mean stream. On *zero*
data heads, MLPs and neurons write 0. The clean sentence's embeddings stay, and so does the bias that the heads of a
layer share. At the ends of paths the change (inside − outside) is multiplied by a *strength*.

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

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from numbers import Real
from threading import RLock
from typing import Any, Generic, Literal, NoReturn, Self, get_args

import torch
from typing_extensions import TypeVar

from path_patching.batches import PROBABILITY_BYTES, Batches, Memory, Part, activation_bytes
from path_patching.devices import check_default_device, resolve_device
from path_patching.errors import UserError, first_line, shortened
from path_patching.gpt2.model import Model
from path_patching.paths import AnyVia, Node, PathSet, PathSetError, check_nodes, check_path_set
from path_patching.plain_tensors import is_plain
from path_patching.unembedding import Unembedding

Data = Literal["clean", "corrupted", "mean", "zero"]
DataSet = Literal["clean", "corrupted"]  # the data that are sentences

MOST_STRENGTH = 1e6  # a larger change would drown everything else in float32, or overflow

Batch = TypeVar("Batch", bound=Sized, default=Any)  # the type of an engine's activations; its users can leave it out
Means = dict[Any, torch.Tensor]  # of an engine's activations over the clean sentences; the keys of neurons are nodes


@dataclass(frozen=True)
class Request:
    """One evaluation: `paths` on `inside` data, all else on `outside` data; without paths all is outside.

    `strength` multiplies the change (inside − outside) at the ends of the paths. It is a change of what a node writes;
    where a path ends at `residual@p` or at the logits, of the stream that is read. Raises `PathSetError` for anything
    but a path set, `UserError` for unknown data and for a strength that is no number from −1e6 to 1e6.
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
        """Everything but the paths. Where it is the same, equal parts of the paths are computed once."""
        return self.inside, self.outside, self.strength


@dataclass(frozen=True, eq=False)
class Sentences:
    """Clean sentences, their corrupted twins in the same rows, and the tokens whose probabilities are wanted.

    `clean` and `corrupted` are int64 (N, T); `answers` int64 (A,): the 100 year tokens.
    """

    clean: torch.Tensor
    corrupted: torch.Tensor
    answers: torch.Tensor

    def __post_init__(self) -> None:
        for name in ("clean", "corrupted", "answers"):
            tokens = getattr(self, name)
            if not is_plain(tokens):
                raise UserError(f"{name} tokens must be a tensor of token ids, not {shortened(repr(tokens))}")
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
        """Some of the sentences with their twins; `rows` is a slice or int64 (n,), or bool (N,). Else `UserError`."""
        try:
            return Sentences(self.clean[rows], self.corrupted[rows], self.answers)
        except (IndexError, TypeError) as wrong:
            of_these = f"rows of {len(self)} sentences are a slice, or a tensor of rows or of booleans"
            raise UserError(f"{of_these}, not {shortened(repr(rows))}: {first_line(wrong)}") from None


class Engine(ABC, Generic[Batch]):
    """Evaluates path sets on a model. All results are on the CPU; `name` says which engine made them.

    Each distinct pair of a clean and a corrupted sentence is computed once, in batches whose activations fit in the
    memory. If one batch is enough, a cache keeps its activations; engines made by `like` share the cache. Float32 has
    full precision, whatever PyTorch's settings are (autocast, TF32). This class checks requests. An engine says what a
    batch's activations are, and computes on one batch (B pairs). Several threads may use one engine.
    """

    name: str
    remark: str | None = None
    """A line that is printed when the engine is made."""
    unembedding: Unembedding | None = None
    """Turns streams into answer probabilities. Engines made by `like` share it. None for an engine without one."""

    def __init__(self, model: Model, sentences: Sentences, device: str = "cpu", memory_gb: float = 4.0) -> None:
        """`device` is "cpu", "cuda" (PyTorch's current one), "cuda:i", or "auto"; the engine's is "cpu" or "cuda:i".

        `memory_gb` is lowered when a batch turns out not to fit in the device's memory. Raises `UserError` if the
        sentences are too long for the model or use tokens it has not, or if there is no such device.
        """
        self.model = model
        self.device = resolve_device(device)
        self._memory = Memory(self.device, memory_gb)
        self._take(sentences)

    @property
    def memory_gb(self) -> float:
        """Gigabytes for batches, as given or as lowered since; engines made by `like` share them."""
        return self._memory.gigabytes

    def like(self, sentences: Sentences) -> Self:
        """An engine like this one for other sentences, which shares the model on the device with it.

        Raises `UserError` like a new one.
        """
        other = object.__new__(type(self))
        other.__dict__ |= self.__dict__
        other._take(sentences)
        if self.unembedding is not None:
            other.unembedding = self.unembedding.of(sentences.answers)
        return other

    def __reduce__(self) -> NoReturn:
        raise UserError(f"the {self.name} engine cannot be pickled or copied; make another with make_engine or like")

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

        Equal requests are computed once. So are equal parts of their paths, where data and strength are the same. All
        are unembedded together. Other requests change a result only through the order of float32 sums. Raises
        `PathSetError` without requests, and for paths that the model or its sentences do not have.
        """
        self._check_requests(requests)
        found = torch.empty(len(requests), len(self.sentences), len(self.sentences.answers), dtype=torch.float64)
        for rows, probabilities in self.evaluate_in_parts(requests):
            found[:, rows] = probabilities
        return found

    def evaluate_in_parts(self, requests: Sequence[Request]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """`evaluate` some sentences at a time, where the probabilities of all do not fit in memory.

        Yields the numbers (n,) of some sentences and their probabilities (requests, n, A). Each sentence comes once, in
        any order. Raises `PathSetError` like `evaluate`.
        """
        self._check_requests(requests)
        on_mean = [each for each in requests if "mean" in (each.inside, each.outside)]
        if on_mean:
            self._find_means(node for each in on_mean if each.paths is not None for node in each.paths.nodes())
        distinct = sorted(dict.fromkeys(requests), key=lambda each: each.data)  # those on the same data together
        place_of = {each: place for place, each in enumerate(distinct)}
        places = torch.tensor([place_of[each] for each in requests])
        bytes_each = PROBABILITY_BYTES * len(requests) * len(self.sentences.answers)
        at_once = max(1, int(self.memory_gb * 1e9 / 8 / bytes_each))  # sentences yielded
        for part in self._parts(bytes_each):
            with part:
                found = torch.stack([each.cpu() for each in self._evaluate(self._batch(part), distinct)])
            if part.fits:
                for rows in self._batches.sentences_of(part).split(at_once):
                    yield rows, found[places[:, None], self._batches.of_sentence[rows] - part.rows[0]]

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
        self._check(receivers.extend(reachable or senders, via))  # raises if none can be reached
        # A whole stream differs from reader to reader, so such a sender cannot be stacked with others.
        whole = [sender for sender in reachable if sender.kind == "residual"]
        stacked = [sender for sender in reachable if sender.kind != "residual"]
        requests = [Request.patch(receivers.extend([sender], via), inside) for sender in whole]
        swept = dict(zip(whole, self.evaluate(requests), strict=True)) if whole else {}
        if stacked:
            if inside == "mean":
                self._find_means([*receivers.nodes(), *stacked])
            asked = partial(self._sweep, receivers=receivers, senders=stacked, via=via, inside=inside)
            swept |= zip(stacked, self._over_batches(asked), strict=True)
        if any(sender not in swept for sender in senders):
            swept = dict.fromkeys(senders, self.clean()) | swept
        return torch.stack([swept[sender] for sender in senders])

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

    def mixed_values(self, heads: Sequence[Node], data: Data = "clean") -> torch.Tensor:
        """What heads write, along their d_head output directions: (len(heads), N, d_head) float32.

        These are the values that a head reads, weighted by its attention. Raises `PathSetError` for other nodes.
        """
        heads = self._check_places(heads)
        if unfit := [str(node) for node in heads if node.kind != "head"]:
            raise PathSetError(f"{', '.join(unfit)} mixes no values; ask for heads")
        _check_data(data)
        if data == "mean":
            self._find_means([])
        return self._over_batches(lambda batch: self._mixed_values(batch, heads, data))

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
        """Use these sentences from now on, and forget the earlier ones."""
        check_default_device()
        name, architecture = self.model.name, self.model.architecture
        if not isinstance(sentences, Sentences):
            raise UserError(f"{shortened(repr(sentences))} are no sentences; give Sentences(clean, corrupted, answers)")
        if sentences.end >= architecture.n_positions:
            raise UserError(f"sentences of {sentences.end + 1} tokens; {name} takes at most {architecture.n_positions}")
        for tokens in (sentences.clean, sentences.corrupted, sentences.answers):
            if tokens.min() < 0 or tokens.max() >= architecture.vocab_size:
                raise UserError(f"a token id outside the vocabulary of {name} (0 to {architecture.vocab_size - 1})")
        self.sentences = sentences
        self._batches = Batches(sentences, self._memory)
        self._needed_bytes: int | None = None
        self._means: Means = {}  # shared with all batches; empty until they are asked for
        self._finding_means = RLock()

    def _parts(self, bytes_each: int = 0) -> Iterator[Part]:
        """The distinct pairs of sentences in batches; the results of each pair take `bytes_each`."""
        if self._needed_bytes is None:
            self._needed_bytes = self._bytes_needed(self._batches.pairs)
        return self._batches.parts(self._needed_bytes, bytes_each)

    def _batch(self, part: Part) -> Batch:
        """The activations of a batch."""
        return self._batches.activations(part, self._activations, self._needed_bytes or 0)

    def _over_batches(self, compute: Callable[[Batch], torch.Tensor]) -> torch.Tensor:
        """`compute` of each batch's activations, (any, B, ...), joined with a row for each sentence: (any, N, ...)."""
        found = []
        for part in self._parts():
            with part:
                found.append(compute(self._batch(part)).cpu())
        return self._batches.joined(found)

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
        """The nodes as given. Raises `PathSetError` for what is no node, or not in the model."""
        nodes = check_nodes(given)
        if not nodes:
            raise PathSetError("no node is asked for; name at least one")
        architecture = self.model.architecture
        for node in nodes:
            if not isinstance(node, Node):  # `check_nodes` takes nodes of this module as it was loaded last
                raise PathSetError(f"{node} is of path_patching as it was loaded again; restart Python, or the kernel")
            node.check_fits(architecture.n_layers, architecture.n_heads, architecture.d_mlp, self.sentences.end + 1)
        return nodes

    def _find_means(self, nodes: Iterable[Node]) -> None:
        """Compute the means over all clean sentences if they are not known yet, also of the neurons among `nodes`."""
        neurons = [node for node in dict.fromkeys(nodes) if node.kind == "neuron"]
        with self._finding_means:
            if self._means and all(neuron in self._means for neuron in neurons):
                return
            shares = self._batches.of_sentence.bincount().double() / len(self.sentences)
            found: list[Means] = []
            for part in self._parts():
                with part:
                    found.append(self._weighted(self._batch(part), shares[part.rows], neurons))
            self._means.update({key: sum((of[key] for of in found[1:]), start=found[0][key]) for key in found[0]})

    def _bytes_needed(self, pairs: torch.Tensor) -> int:
        """How many bytes the activations of pairs (P, 2, T) take while they are computed."""
        return activation_bytes(pairs, self.model.architecture)

    @abstractmethod
    def _activations(self, clean: torch.Tensor, corrupted: torch.Tensor) -> Batch:
        """Everything that path patching needs of B clean and B corrupted sentences, (B, T) each; its `len` is B."""

    @abstractmethod
    def _weighted(self, batch: Batch, weights: torch.Tensor, neurons: Sequence[Node]) -> Means:
        """What one batch adds to the means over the clean sentences, given each sentence's weight (B,) float64.

        Also to the means of `neurons`. The sum over all batches is `_means`.
        """

    @abstractmethod
    def _evaluate(self, batch: Batch, requests: Sequence[Request]) -> Iterable[torch.Tensor]:
        """Answer probabilities (B, A) float64 of each request in turn."""

    @abstractmethod
    def _sweep(self, batch: Batch, receivers: PathSet, senders: list[Node], via: AnyVia, inside: Data) -> torch.Tensor:
        """`sweep` of one batch, for senders that can be reached and are no whole streams: (S, B, A)."""

    @abstractmethod
    def _mixed_values(self, batch: Batch, heads: Sequence[Node], data: Data) -> torch.Tensor:
        """`mixed_values` of one batch, (len(heads), B, d_head)."""

    @abstractmethod
    def _writes(self, batch: Batch, nodes: Sequence[Node], data: Data) -> torch.Tensor:
        """`writes` of one batch, (len(nodes), B, D)."""

    @abstractmethod
    def _residual(self, batch: Batch, reader: Node, data: Data) -> torch.Tensor:
        """`residual` of one batch, (B, D)."""

    @abstractmethod
    def _attention(self, batch: Batch, heads: Sequence[tuple[int, int]], data: DataSet) -> torch.Tensor:
        """`attention` of one batch, (len(heads), B, T, T)."""


def _strength(given: Any) -> float:
    """A strength as a float. Raises `UserError` for anything but a number, and for one that is too large."""
    is_number = isinstance(given, Real) and not isinstance(given, bool)
    if not is_number or not -MOST_STRENGTH <= given <= MOST_STRENGTH:  # NaN fails too
        raise UserError(f"a strength of {shortened(repr(given))}: give a number of at most {MOST_STRENGTH:g}, as 0.5")
    return float(given)


def _check_data(data: object) -> None:
    if data not in get_args(Data):
        raise UserError(f"data are {', '.join(get_args(Data))}, not {shortened(repr(data))}")
