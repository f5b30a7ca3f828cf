"""The engine in plain PyTorch: what `path_patching.reference` defines, faster, on a CPU or a GPU.

It is fast because it runs one float32 forward pass over the distinct beginnings of the sentences (`forward`),
recomputes only the nodes on paths, as differences from that pass, equal parts of path sets once (`patching`), and
stacks the senders of a sweep. S senders, B sentence pairs of a batch, T positions, D width, A answers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence

import torch

from path_patching.batches import BYTES
from path_patching.direct_effects import Change, direct_answers
from path_patching.engine import Data, DataSet, Engine, Means, Request, Sentences
from path_patching.gpt2.model import Model
from path_patching.paths import INPUTS, AnyVia, Node, PathSet
from path_patching.progress import progress
from path_patching.torch_engine.forward import Activations, Transformer
from path_patching.torch_engine.patching import Patching
from path_patching.unembedding import Unembedding


class TorchEngine(Engine[Activations]):
    """Evaluates path sets with PyTorch alone, on a CPU or a GPU."""

    name = "torch"
    unembedding: Unembedding

    def __init__(self, model: Model, sentences: Sentences, device: str = "cpu", memory_gb: float = 4.0) -> None:
        super().__init__(model, sentences, device, memory_gb)
        self.unembedding = Unembedding(model, sentences.answers, self.device)
        self._transformer = Transformer(model, self.device)

    def _activations(self, clean: torch.Tensor, corrupted: torch.Tensor) -> Activations:
        return Activations(self._transformer, clean, corrupted, self._means)

    def _weighted(self, batch: Activations, weights: torch.Tensor, neurons: Sequence[Node]) -> Means:
        return batch.weighted(weights, neurons)

    def _evaluate(self, batch: Activations, requests: Sequence[Request]) -> Iterator[torch.Tensor]:
        return self.unembedding.of_each(self._reads(batch, requests), len(batch), self.memory_gb)

    def _reads(self, batch: Activations, requests: Sequence[Request]) -> Iterator[torch.Tensor]:
        for request, patching in zip(requests, self._patchings(batch, requests), strict=True):
            if request.paths is None:
                yield self._normalized(self._residual(batch, Node.logits(self.sentences.end), request.outside))
            else:
                yield self._normalized(patching.end_stream(request.paths))

    def _patchings(self, batch: Activations, requests: Sequence[Request]) -> Iterator[Patching]:
        """The patching for each request: the last one again if its data are the same and its cache is not too large."""
        patching = None
        for request in requests:
            if patching is None or patching.data != request.data or patching.n_bytes() > self.memory_gb * 1e9 / 8:
                patching = Patching(batch, *request.data)
            yield patching

    def _sweep(
        self, batch: Activations, receivers: PathSet, senders: list[Node], via: AnyVia, inside: Data
    ) -> torch.Tensor:
        answers = {} if receivers.branches else self._direct_answers(batch, receivers.node, senders, inside)
        rest = [sender for sender in senders if sender not in answers]
        stacks = list(_stacks(receivers, rest, via, self._stacked_at_once(receivers, len(batch))))
        for stack in progress(stacks, f"patching {len(rest)} nodes"):
            answers |= zip(stack, self._evaluate_stack(batch, receivers, stack, via, inside), strict=True)
        return torch.stack([answers[sender] for sender in senders])

    def _direct_answers(
        self, batch: Activations, logits: Node, senders: list[Node], inside: Data
    ) -> dict[Node, torch.Tensor]:
        patching = Patching(batch, inside, "clean")

        def change(sender: Node) -> Change:
            return Change(patching.sent_coefficients(sender), self._transformer.directions(sender))

        stream = self._residual(batch, logits, "clean")
        return direct_answers(stream, senders, change, self.model.architecture, self.unembedding)

    def _evaluate_stack(
        self, batch: Activations, receivers: PathSet, senders: list[Node], via: AnyVia, inside: Data
    ) -> torch.Tensor:
        """A sweep whose senders all take the same steps, in one walk with their changes stacked: (S, B, A)."""
        patching = Patching(batch, inside, "clean")
        patching.give(senders[0], torch.stack([patching.sent(sender) for sender in senders]))
        stream = patching.end_stream(receivers.extend(senders[:1], via))
        return self.unembedding.probabilities(self._normalized(stream))

    def _stacked_at_once(self, receivers: PathSet, n_pairs: int) -> int:
        """How many senders' changes may be stacked: each node keeps one, and an MLP's neurons briefly need twelve."""
        bytes_each = BYTES * n_pairs * self.model.architecture.d_model * (len(receivers.nodes()) + 12)
        return max(1, int(self.memory_gb * 1e9 / 4 / bytes_each))

    def _normalized(self, stream: torch.Tensor) -> torch.Tensor:
        """The streams (..., D) that the logits read, normalized for the unembedding."""
        return self._transformer.normalized("final", stream)

    def _writes(self, batch: Activations, nodes: Sequence[Node], data: Data) -> torch.Tensor:
        return torch.stack([batch.write(node, data) for node in nodes])

    def _residual(self, batch: Activations, reader: Node, data: Data) -> torch.Tensor:
        return batch.stream(reader, reader.position, data)

    def _mixed_values(self, batch: Activations, heads: Sequence[Node], data: Data) -> torch.Tensor:
        return torch.stack([batch.coefficients(head, data) for head in heads])

    def _attention(self, batch: Activations, heads: Sequence[tuple[int, int]], data: DataSet) -> torch.Tensor:
        return torch.stack([batch.pattern(layer, head, data) for layer, head in heads])


def _stacks(receivers: PathSet, senders: list[Node], via: AnyVia, size: int) -> Iterator[list[Node]]:
    """Groups of at most `size` senders that extend `receivers` in the same places, so that one tree serves a group."""
    steps = {(end, way) for end in receivers.ends() for way in INPUTS[end.kind] if via in ("all", way)}
    alike: dict[Hashable, list[Node]] = defaultdict(list)
    for sender in senders:
        taken = frozenset((end, way) for end, way in steps if sender.reaches(end, way))
        alike[sender.position, taken].append(sender)
    for group in alike.values():
        for first in range(0, len(group), size):
            yield group[first : first + size]
