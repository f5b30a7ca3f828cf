"""What a forward pass of the rust_circuit circuit leaves behind, from which paths are patched.

Shapes: B pairs of sentences in a batch, U distinct sentences among their 2B, T positions, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import rust_circuit as rc
import torch

from path_patching.engine import Data
from path_patching.gpt2_circuit import Gpt2Circuit, stream_name
from path_patching.paths import Node
from utils import progress

# Evaluate in any order that works: the circuits are small, and searching for the best order costs more than it saves.
AS_IT_COMES = rc.OptimizationSettings(scheduling_naive=True, scheduling_simplify=False)


def evaluate(circuits: Sequence[rc.Circuit], bound: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """Evaluate circuits with their symbols bound, by name, to tensors that may have batch axes in front."""
    arrays = {name: rc.Array(value.contiguous(), name) for name, value in bound.items()}
    expander = rc.Expander(*((name, lambda symbol: arrays[symbol.name]) for name in arrays))
    evaluated = rc.optimize_and_evaluate_many([expander(circuit) for circuit in circuits], AS_IT_COMES)
    rc.clear_module_circuit_caches()  # they would keep every tensor that was ever bound
    return evaluated


class Activations:
    """Residual streams and attention-weighted values of all nodes, on B clean sentences and their twins (B, T)."""

    def __init__(self, circuit: Gpt2Circuit, clean: torch.Tensor, corrupted: torch.Tensor) -> None:
        sentences, row = torch.cat([clean, corrupted]).unique(dim=0, return_inverse=True)
        of_clean, of_corrupted = row.to(circuit.device).chunk(2)
        self._row: dict[Data, torch.Tensor] = {"clean": of_clean, "corrupted": of_corrupted}
        self._circuit = circuit
        self._streams = {"a0.in": circuit.embeddings(sentences)}  # each (U, T, D)
        self._z: list[torch.Tensor] = []  # each (U, H, T, d_head)
        self._run()

    def __len__(self) -> int:
        return len(self._row["clean"])

    def stream(self, name: str, position: int, data: Data, part: slice = slice(None)) -> torch.Tensor:
        """A residual stream at a position, for some of the pairs: (B, D)."""
        return self._streams[name][self._row[data][part], position]

    def writes(self, nodes: Sequence[Node], data: Data, part: slice = slice(None)) -> torch.Tensor:
        """What nodes write, (len(nodes), B, D); the heads of one layer and position are evaluated together."""
        together: dict[tuple[int, str, int], list[Node]] = {}
        for node in nodes:
            index = 0 if node.kind in ("head", "embeds") else node.index
            together.setdefault((node.layer, f"{node.kind}{index}", node.position), []).append(node)
        written: dict[Node, torch.Tensor] = {}
        for alike in together.values():
            written |= zip(alike, self._written(alike, data, part), strict=True)
        return torch.stack([written[node] for node in nodes])

    def z(self, head: Node, data: Data) -> torch.Tensor:
        """The attention-weighted values of a head, (B, d_head)."""
        return self._z[head.layer][self._row[data], head.index, head.position]

    def pattern(self, layer: int, data: Data) -> torch.Tensor:
        """Attention patterns of a layer's heads, (B, H, T, T)."""
        name = f"a{layer}.in"
        read = self._streams[name][self._row[data]]
        return evaluate([self._circuit.attention_layer(layer, read.shape[1]).pattern], {name: read})[0]

    def _written(self, alike: list[Node], data: Data, part: slice) -> Sequence[torch.Tensor]:
        """Writes (B, D) of heads of one layer and position, or of a single other node."""
        node = alike[0]
        if node.kind == "embeds":
            return [self.stream("a0.in", node.position, data, part)]
        if node.kind == "head":
            z = self._z[node.layer][self._row[data][part], :, node.position]  # (B, H, d_head)
            written = evaluate([self._circuit.head_writes(node.layer)], {"z": z})[0]  # (B, H, D)
            return [written[:, head.index] for head in alike]
        stream = stream_name(Node.mlp(node.layer, node.position))
        read = self.stream(stream, node.position, data, part)
        return evaluate([self._circuit.node(node)], {f"{stream}@{node.position}": read})

    def _run(self) -> None:
        n_layers, n_positions = self._circuit.architecture.n_layers, self._streams["a0.in"].shape[1]
        for layer in progress(range(n_layers), "forward pass"):
            heads = self._circuit.attention_layer(layer, n_positions)
            z, after = evaluate([heads.z, heads.after], {f"a{layer}.in": self._streams[f"a{layer}.in"]})
            self._z.append(z)
            self._streams[f"m{layer}.in"] = after
            following = f"a{layer + 1}.in" if layer + 1 < n_layers else "final.in"
            mlp = self._circuit.mlp_layer(layer, n_positions)
            [self._streams[following]] = evaluate([mlp], {f"m{layer}.in": after})
