"""What a script's artifacts must hold: the answers to questions that a test writes out, path by path.

Paths are text, in which nodes without a place stand at END (`m0@YY →v a1.h0 → logits`). An engine that was checked
answers all of a question's paths from one forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from path_patching.engine import Request
from path_patching.paths import Node, PathSet
from path_patching.sweeps import every_node
from utils import YearExperiment


class Questions(NamedTuple):
    """Questions to an experiment's model, on its sentences."""

    experiment: YearExperiment

    def paths(self, text: str) -> PathSet:
        """The paths of a text."""
        return PathSet.parse(text, end=self.experiment.END, yy=self.experiment.YY)

    def effects(self, texts: Sequence[str | None]) -> list[float]:
        """What patching the paths of each text adds to the metric's mean; nothing where there are none."""
        asked = {text: Request.patch(self.paths(text)) for text in texts if text}
        found = self.experiment.engine.evaluate([Request.clean(), *asked.values()])
        clean, *patched = (self.experiment.metric(each).mean().item() for each in found)
        means = dict(zip(asked, patched, strict=True))
        return [means[text] - clean if text else 0.0 for text in texts]

    def swept(self, receivers: str, place: str, via: str = "") -> torch.Tensor:
        """The effect of every head and MLP at END or YY, read through one input of these paths: (L, H + 1) float64."""
        senders = every_node(self.experiment.engine, {"END": self.experiment.END, "YY": self.experiment.YY}[place])
        effects = self.effects([self._read_by(sender, place, via, receivers.split("; ")) for sender in senders])
        return torch.tensor(effects, dtype=torch.float64).reshape(self.experiment.model.architecture.n_layers, -1)

    def _read_by(self, sender: Node, place: str, via: str, receivers: Sequence[str]) -> str | None:
        """The paths from a sender through those receivers that read it; None if none does."""
        read = [path for path in receivers if self.paths(path).reachable(sender, via or "all")]
        return "; ".join(f"{sender.name}@{place} →{via} {path}" for path in read) or None
