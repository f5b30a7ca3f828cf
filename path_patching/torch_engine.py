"""Path patching in plain PyTorch: cached activations of both data sets, and differences to them.

`Patching` is the whole method: the change that a path set makes to what its node writes, from the changes that its
branches make to what the node reads. It is a recursion over the tree, remembered by sub-tree, since equal sub-trees
change the same thing by the same amount. A sweep is the same recursion with the changes of many senders stacked on a
leading axis S. N sentences, T positions, D width, V vocabulary, A answers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Literal

import torch

from gpt2 import Model
from path_patching.engine import Data, Engine, Sentences, answer_probabilities, other
from path_patching.paths import INPUTS, Node, PathSet, Via
from path_patching.torch_forward import Activations, Transformer
from utils import UserError


class Patching:
    """A batch of sentences on the data other than `inside`, and what path sets change there.

    `known` holds changes that are given rather than computed: a sweep's senders, stacked (S, N, D).
    """

    def __init__(self, activations: Activations, inside: Data, known: dict[PathSet, torch.Tensor] | None = None) -> None:
        self.activations = activations
        self.transformer = activations.transformer
        self.inside: Data = inside
        self.outside: Data = other(inside)
        self._changes: dict[tuple[PathSet, tuple[int, ...]], torch.Tensor] = {
            (paths, ()): change for paths, change in (known or {}).items()
        }

    def end_stream(self, paths: PathSet) -> torch.Tensor:
        """The residual stream that the logits read, (..., N, D)."""
        logits = paths.node
        if paths.ends_here:
            return self.activations.stream(logits, logits.position, self.inside)
        return self.activations.stream(logits, logits.position, self.outside) + self.arriving(paths, "in")[logits.position]

    def change(self, paths: PathSet, neurons: tuple[int, ...] = ()) -> torch.Tensor:
        """Change of what `paths.node` writes, (..., N, D); `neurons` of an MLP have their inside activations anyway."""
        key = paths, neurons
        if key not in self._changes:
            compute = self._recomputed_head if paths.node.kind == "head" else self._recomputed_mlp
            self._changes[key] = self.sent(paths.node) if paths.ends_here else compute(paths, neurons)
        return self._changes[key]

    def sent(self, sender: Node) -> torch.Tensor:
        """Change of what a node writes when all of it is inside, (N, D)."""
        if sender.kind in ("head", "neuron"):
            return self.sent_coefficients(sender) @ self.transformer.directions(sender)
        return self.activations.write(sender, self.inside) - self.activations.write(sender, self.outside)

    def sent_coefficients(self, sender: Node) -> torch.Tensor:
        """The same along the `directions` of a head or a neuron, (N, r)."""
        return self.activations.coefficients(sender, self.inside) - self.activations.coefficients(sender, self.outside)

    def arriving(self, paths: PathSet, via: Via) -> dict[int, torch.Tensor]:
        """Change of what `paths.node` reads through `via`, at each position where there is one: (..., N, D)."""
        branches = defaultdict(list)
        for branch in paths.branches:
            if branch.via == via:
                branches[branch.paths.node.position].append(branch.paths)
        return {position: self._arriving(paths.node, position, below) for position, below in branches.items()}

    def _arriving(self, reader: Node, position: int, senders: list[PathSet]) -> torch.Tensor:
        if any(paths.node.kind == "residual" for paths in senders):  # everything there is inside
            streams = [self.activations.stream(reader, position, data) for data in (self.inside, self.outside)]
            return streams[0] - streams[1]
        mlps = {paths.node.layer: paths for paths in senders if paths.node.kind == "mlp"}
        # A neuron whose MLP also sends is patched within it, not counted twice.
        neurons = defaultdict(tuple)
        for node in (paths.node for paths in senders if paths.node.kind == "neuron" and paths.node.layer in mlps):
            neurons[node.layer] += (node.index,)
        changes = [
            self.change(paths, neurons[paths.node.layer] if paths.node.kind == "mlp" else ())
            for paths in senders
            if paths.node.kind != "neuron" or paths.node.layer not in mlps
        ]
        return sum(changes[1:], start=changes[0])

    def _recomputed_mlp(self, paths: PathSet, neurons: tuple[int, ...]) -> torch.Tensor:
        """Change of an MLP's write, (..., N, D)."""
        mlp = paths.node
        stream = self.activations.stream(mlp, mlp.position, self.outside) + self.arriving(paths, "in")[mlp.position]
        activations = self.transformer.neurons(mlp.layer, stream)
        if neurons:
            activations[..., neurons] = self.activations.neurons(mlp, self.inside)[:, neurons]
        return self.transformer.mlp_write(mlp.layer, activations) - self.activations.write(mlp, self.outside)

    def _recomputed_head(self, paths: PathSet, neurons: tuple[int, ...]) -> torch.Tensor:
        """Change of a head's write, (..., N, D), when some of its queries, keys and values change."""
        head = paths.node
        streams = self.activations.stream(head, slice(head.position + 1), self.outside)  # (N, keys, D)

        def projected(via: Via, x: torch.Tensor) -> torch.Tensor:
            return self.transformer.head_input(head.layer, head.index, via, x)

        def patched(via: Via) -> dict[int, torch.Tensor]:  # of one position each, (..., N, d_head)
            return {at: projected(via, streams[:, at] + change) for at, change in self.arriving(paths, via).items()}

        queries, keys, values = patched("q"), patched("k"), patched("v")
        query, key, value = (projected(via, streams) for via in "qkv")
        query = query[:, head.position]  # (N, d_head); keys and values (N, keys, d_head)
        scores = self._scores(query, key)
        pattern = scores.softmax(-1)  # (N, keys)
        change = query.new_zeros(())
        if queries or keys:
            query = queries.get(head.position, query)
            scores = torch.einsum  # placeholder
        return change @ self.transformer.directions(head)
