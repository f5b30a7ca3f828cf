"""What the model predicts when one activation is edited during the forward pass.

A node stands for one activation: an MLP for what it reads (the residual stream before its LayerNorm), a head or the
embedding for what it writes. An edit changes that activation at the node's position in clean sentences. Everything
after it is recomputed. This is not path patching, which recomputes chosen paths only: the MLP and all later nodes find
an edited MLP input in the residual stream. Earlier positions and lower layers cannot change, and are computed once for
all edits.

N sentences, T positions, D width, A answers; S changes, B sentences of a batch, R positions from the node's on.

    >>> mlp = Node.mlp(1, END)
    >>> runs = EditedRuns(model, sentences.clean, sentences.answers)
    >>> to_corrupted = activation(engine, mlp, "corrupted") - activation(engine, mlp)  # (N, D)
    >>> runs.probabilities(mlp, to_corrupted[None]).shape  # one change: (1, N, A)
    torch.Size([1, 97, 100])
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from path_patching.batches import in_parts, placing
from path_patching.engine import Data, Engine
from path_patching.errors import UserError
from path_patching.gpt2.model import Model
from path_patching.paths import Node
from path_patching.prefixes import distinct_prefixes
from path_patching.progress import progress
from path_patching.torch_engine.forward import Transformer
from path_patching.unembedding import Unembedding

SENTENCES_AT_ONCE = 128
ROWS_AT_ONCE = {"cpu": 4096, "cuda": 65_536}  # of edited streams: changes × sentences × positions


def activation(engine: Engine, node: Node, data: Data = "clean") -> torch.Tensor:
    """The activation that a node stands for, (N, D) float32. Raises `UserError` if it stands for none."""
    if node.kind not in ("mlp", "head", "embeds"):
        raise UserError(f"{node} has no activation to edit; give an MLP (its input), a head or the embeddings")
    return engine.residual(node, data) if node.kind == "mlp" else engine.writes([node], data)[0]


class EditedRuns:
    """Runs of a model on clean sentences, tokens (N, T), in which one node's activation is changed."""

    def __init__(self, model: Model, tokens: torch.Tensor, answers: torch.Tensor, device: str = "cpu") -> None:
        self.model = model
        with placing(f"the weights of {model.name}", device):
            self.tokens = tokens.to(device)
            self._transformer = Transformer(model, device)
        self._unembedding = Unembedding(model, answers, device)

    def probabilities(self, node: Node, changes: torch.Tensor) -> torch.Tensor:
        """Answer probabilities at END for each of S changes (S, N, D) of a node's activation: (S, N, A) float64."""
        return self.probabilities_of_each({node: changes})[node]

    def probabilities_of_each(self, changes: Mapping[Node, torch.Tensor]) -> dict[Node, torch.Tensor]:
        """`probabilities` of several nodes, which share the clean run."""
        every, device = torch.arange(len(self.tokens)), str(self.tokens.device)
        parts = in_parts(every, SENTENCES_AT_ONCE, "sentences", device)
        what, n_parts = f"edits of {', '.join(map(str, changes))}", -(-len(every) // SENTENCES_AT_ONCE)
        found = []
        for part in progress(parts, what, n_parts):
            with part:
                found.append(self._of_batch(part.rows, changes))
        return {node: torch.cat(of_node, 1) for node, of_node in zip(changes, zip(*found, strict=True), strict=True)}

    def _of_batch(self, rows: torch.Tensor, changes: Mapping[Node, torch.Tensor]) -> list[torch.Tensor]:
        """Answer probabilities (S, B, A) of some sentences for the changes of each node."""
        clean, device = self._clean(self.tokens[rows]), self.tokens.device
        return [self._of_edits(node, clean, of[:, rows].to(device, torch.float32)) for node, of in changes.items()]

    def _clean(self, tokens: torch.Tensor) -> list[torch.Tensor]:
        """The clean streams (B, T, D) before each half of a layer, and the last."""
        prefixes = distinct_prefixes(tokens)
        streams, _ = self._transformer.run(prefixes)
        return [stream[prefixes.of_sentence] for stream in streams]

    def _of_edits(self, node: Node, clean: list[torch.Tensor], changes: torch.Tensor) -> torch.Tensor:
        """Answer probabilities (S, B, A) of changes (S, B, D)."""
        n_sentences, n_positions, _ = clean[0].shape
        at_once = max(1, ROWS_AT_ONCE[clean[0].device.type] // (n_sentences * (n_positions - node.position)))
        read = torch.cat([self._end_stream(node, clean, some) for some in changes.split(at_once)])
        return self._unembedding.probabilities(self._transformer.normalized("final", read)).cpu()

    def _end_stream(self, node: Node, clean: list[torch.Tensor], changes: torch.Tensor) -> torch.Tensor:
        """What the logits read (S, B, D) with changes (S, B, D), given the clean streams of all half-layers (B, T, D).

        An edit of a head's write or of an MLP's input is added where the layer's attention joins the stream.
        """
        first, last_layer = node.position, self._transformer.architecture.n_layers - 1
        place = 0 if node.kind == "embeds" else 2 * node.layer + 1
        stream = clean[place][:, first:].expand(len(changes), -1, -1, -1).clone()  # (S, B, R, D)
        stream[:, :, 0] += changes
        for half in range(place, len(clean) - 1):
            layer, is_mlp = divmod(half, 2)
            if is_mlp:
                stream += self._transformer.mlp_write(layer, self._transformer.neurons(layer, stream))
            else:
                queries = stream[:, :, -1:] if layer == last_layer else stream
                stream = queries + self._written_by_heads(layer, clean[half][:, :first], stream, queries)
        return stream[:, :, -1]

    def _written_by_heads(
        self, layer: int, before: torch.Tensor, stream: torch.Tensor, queries: torch.Tensor
    ) -> torch.Tensor:
        """What a layer's heads write where `queries` (S, B, last of R, D) are the streams.

        They attend to the positions `before` (B, earlier ones, D), which are the same for all changes, and to `stream`
        (S, B, R, D).
        """
        transformer = self._transformer
        query = transformer.heads_input(layer, "q", queries)  # (S, B, last of R, heads, d_head)
        keys, values = ([transformer.heads_input(layer, via, x) for x in (before, stream)] for via in ("k", "v"))
        ahead = torch.ones(stream.shape[2], stream.shape[2], dtype=torch.bool, device=stream.device).triu(1)
        scores = [
            torch.einsum("sbqhc,bkhc->sbhqk", query, keys[0]),
            torch.einsum("sbqhc,sbkhc->sbhqk", query, keys[1]).masked_fill(ahead[-query.shape[2] :], -torch.inf),
        ]
        pattern = (torch.cat(scores, -1) / query.shape[-1] ** 0.5).softmax(-1)
        to_before, to_stream = pattern.split([each.shape[-1] for each in scores], -1)
        z = torch.einsum("sbhqk,bkhc->sbqhc", to_before, values[0])
        z += torch.einsum("sbhqk,sbkhc->sbqhc", to_stream, values[1])
        return transformer.heads_write(layer, z)
