"""An activation that was edited, put back into the forward pass: what does the model predict then?

A node stands for one activation: an MLP for what it reads (the residual stream before its LayerNorm), a head or the
embedding for what it writes. An edit is a change of that activation at the node's position in clean sentences; all
that reads it from there on is computed anew, by `transformers`. So this is not path patching, where only chosen paths
are: an edited MLP input is what the MLP and all later nodes find in the residual stream.

N sentences, T positions, D width, A answers.

    >>> mlp = Node.mlp(1, END)
    >>> runs = EditedRuns(model, sentences.clean, sentences.answers)
    >>> to_corrupted = activation(engine, mlp, "corrupted") - activation(engine, mlp)  # (N, D)
    >>> runs.probabilities(mlp, to_corrupted[None]).shape  # one change: (1, N, A)
    torch.Size([1, 97, 100])
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch

from path_patching.devices import fewer, in_parts, placing
from path_patching.engine import Data, Engine
from path_patching.errors import UserError
from path_patching.gpt2.model import Model, to_transformers
from path_patching.paths import Node
from path_patching.precision import full_precision
from path_patching.progress import progress
from path_patching.unembedding import Unembedding

SENTENCES_AT_ONCE = 128


def activation(engine: Engine, node: Node, data: Data = "clean") -> torch.Tensor:
    """The activation that a node stands for, (N, D) float32. Raises `UserError` if it stands for none."""
    if node.kind not in ("mlp", "head", "embeds"):
        raise UserError(f"{node} has no activation to edit; give an MLP (its input), a head or the embeddings")
    return engine.residual(node, data) if node.kind == "mlp" else engine.writes([node], data)[0]


class EditedRuns:
    """Runs of a model on clean sentences, tokens (N, T), in which one node's activation is changed."""

    def __init__(self, model: Model, tokens: torch.Tensor, answers: torch.Tensor, device: str = "cpu") -> None:
        hf_model = to_transformers(model)
        with placing(f"the weights of {model.name}", device):
            self._tokens = tokens.to(device)
            hf_model.to(device)  # type: ignore[arg-type]  # transformers wraps it without its self
        self._transformer = hf_model.transformer
        self._unembedding = Unembedding(model, answers, device)

    @full_precision()
    @torch.no_grad()
    def probabilities(self, node: Node, changes: torch.Tensor) -> torch.Tensor:
        """Answer probabilities at END for each of S changes (S, N, D) of a node's activation: (S, N, A) float64.

        What comes before the node's position is computed once for all changes.
        """
        device, every = self._tokens.device, torch.arange(len(self._tokens))

        def of_batch(rows: torch.Tensor) -> torch.Tensor:
            return self._batch(node, self._tokens[rows], changes[:, rows].to(device, torch.float32))

        batches = in_parts(of_batch, every, SENTENCES_AT_ONCE, fewer("sentences", str(device)), str(device))
        n_batches = -(-len(every) // SENTENCES_AT_ONCE)
        return torch.cat([found for _, found in progress(batches, f"edits of {node}", n_batches)], 1)

    def _batch(self, node: Node, tokens: torch.Tensor, changes: torch.Tensor) -> torch.Tensor:
        before, from_node_on = tokens[:, : node.position], tokens[:, node.position :]
        cache = self._transformer(before, use_cache=True).past_key_values if node.position > 0 else None
        answers = []
        for change in changes:
            with self._added(node, change):
                # A run adds its own keys and values to the cache that it is given.
                run = self._transformer(from_node_on, past_key_values=deepcopy(cache), use_cache=cache is not None)
            answers.append(self._unembedding.probabilities(run.last_hidden_state[:, -1]).cpu())
        return torch.stack(answers)

    @contextmanager
    def _added(self, node: Node, change: torch.Tensor) -> Iterator[None]:
        """Within it, `change` (N, D) is added to the residual stream of the first position, where the node stands.

        What a layer's heads write and what its MLP reads is changed where the layer's attention joins the stream.
        """
        name = "wte" if node.kind == "embeds" else f"h.{node.layer}.attn.c_proj"
        module = self._transformer.get_submodule(name)

        def add(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
            return torch.cat([output[:, :1] + change[:, None], output[:, 1:]], 1)

        hook = module.register_forward_hook(add)
        try:
            yield
        finally:
            hook.remove()
