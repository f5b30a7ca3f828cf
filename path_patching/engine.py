"""What an engine is: a model and two sets of sentences in, year probabilities out.

Semantics (spec section 3): the nodes at the lower ends of a path set, with all they depend on, are computed on the
*inside* data, everything else on the other; a node on the way is recomputed along those paths only. The tree is the
unrolled one: a node that is also reached by another path keeps its other value there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from gpt2 import Model
from path_patching.paths import Node, PathSet, PathSetError, Via
from utils import UserError

Data = Literal["clean", "corrupted"]


def other(data: Data) -> Data:
    """The other of the two data sets."""
    return "corrupted" if data == "clean" else "clean"


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

    @property
    def end(self) -> int:
        """The last position, END."""
        return self.clean.shape[1] - 1

    def __len__(self) -> int:
        return self.clean.shape[0]

    def of(self, data: Data) -> torch.Tensor:
        """The tokens (N, T) of one of the two data sets."""
        return self.clean if data == "clean" else self.corrupted


def answer_probabilities(logits: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """Softmax over the whole vocabulary, at the answer tokens: (..., V) logits to (..., A) float64.

    The exponentials are float32, their sum is float64: a float32 sum over 50,257 of them is off by more than all the
    rest of an engine (measured in `tests/test_engine.py`).
    """
    shifted = logits - logits.amax(-1, keepdim=True)
    picked = shifted[..., answers].double().exp()
    return picked / shifted.exp_().sum(-1, keepdim=True, dtype=torch.float64)


class Engine(ABC):
    """Evaluates path sets on a model. All results are on the CPU; `name` says which engine made them."""

    name: str

    def __init__(self, model: Model, sentences: Sentences, device: str = "cpu", memory_gb: float = 4.0) -> None:
        """Raises `UserError` if the sentences are too long for the model or use tokens it has not."""
        architecture = model.architecture
        if sentences.end >= architecture.n_positions:
            raise UserError(f"sentences of {sentences.end + 1} tokens; {model.name} takes {architecture.n_positions}")
        for tokens in (sentences.clean, sentences.corrupted, sentences.answers):
            if tokens.min() < 0 or tokens.max() >= architecture.vocab_size:
                raise UserError(
                    f"a token id outside the vocabulary of {model.name} (0 to {architecture.vocab_size - 1})"
                )
        self.model = model
        self.sentences = sentences
        self.device = device
        self.memory_gb = memory_gb

    def probabilities(self, paths: PathSet | None = None, inside: Data = "corrupted") -> torch.Tensor:
        """Answer probabilities at END, (N, A) float64, with `paths` on the `inside` data and all else on the other.

        Without paths nothing is patched: the other data's own probabilities. `inside="corrupted"` asks what breaks
        if the paths do (path patching, necessity), `inside="clean"` what the paths alone achieve (sufficiency).
        """
        if paths is not None:
            self._check(paths)
        return self._probabilities(paths, inside)

    def sweep(self, receivers: PathSet, senders: Sequence[Node], via: Via | Literal["all"] = "all") -> torch.Tensor:
        """Path patching of `receivers` extended by each of `senders` in turn: (S, N, A) float64.

        A sender that no receiver can read changes nothing and gets the clean probabilities.
        Raises `PathSetError` if that holds for all of them.
        """
        reachable = [sender for sender in senders if receivers.reachable(sender, via)]
        if not reachable:
            receivers.extend(senders, via)  # says which of them cannot be reached, and from where
            raise PathSetError("a sweep needs at least one sender")
        self._check(receivers.extend(reachable, via))
        swept = dict(zip(reachable, self._sweep(receivers, reachable, via), strict=True))
        unpatched = None if len(reachable) == len(senders) else self.probabilities()
        return torch.stack([swept.get(sender, unpatched) for sender in senders])

    def _check(self, paths: PathSet) -> None:
        architecture = self.model.architecture
        paths.check_fits(architecture.n_layers, architecture.n_heads, self.sentences.end + 1)

    @abstractmethod
    def _probabilities(self, paths: PathSet | None, inside: Data) -> torch.Tensor:
        """`probabilities`, for paths that fit the model."""

    @abstractmethod
    def _sweep(self, receivers: PathSet, senders: list[Node], via: Via | Literal["all"]) -> torch.Tensor:
        """`sweep`, for senders that are all reachable."""

    @abstractmethod
    def writes(self, nodes: Sequence[Node], data: Data = "clean") -> torch.Tensor:
        """What each node writes into the residual stream of its position: (len(nodes), N, D) float32.

        A head's write is without the layer's shared output bias. `residual@p` gives no write; see `residual`.
        """

    @abstractmethod
    def residual(self, reader: Node, data: Data = "clean") -> torch.Tensor:
        """What `reader` (a head, an MLP or the logits) finds in the residual stream of its position: (N, D) float32."""

    @abstractmethod
    def attention(self, heads: Sequence[tuple[int, int]], data: Data = "clean") -> torch.Tensor:
        """Attention patterns of heads (layer, head): (len(heads), N, T, T) float32, (query, key)."""
