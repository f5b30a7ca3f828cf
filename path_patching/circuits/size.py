"""How large a circuit is, as a share of the whole model's graph.

    its heads and MLPs / those of the model;  its links / all between these, the embeddings and the logits

With places, the graph has each node at END and at YY. A link from `everything` stands for one from each node that the
input reads. Of GPT-2 small without places this is the graph of other tools, with 32,491 links.

    >>> print(size_of(circuit, model.architecture))
    4 of 18 nodes (22.2 %), 12 of 238 links (5.0 %)
"""

from __future__ import annotations

from dataclasses import dataclass

from path_patching.circuits.circuit import END, EVERYTHING, LOGITS, YY, Circuit, bare, kind_of, place_of
from path_patching.gpt2.model import Architecture
from path_patching.paths import INPUTS, Node, Via, layer_nodes


@dataclass(frozen=True)
class Size:
    """A circuit's nodes and links, and those of the model."""

    nodes: int
    of_nodes: int
    links: int
    of_links: int

    @property
    def shares(self) -> tuple[str, str]:
        """The shares of nodes and of links, in words."""
        return f"{100 * self.nodes / self.of_nodes:.1f} %", f"{100 * self.links / self.of_links:.1f} %"

    def __str__(self) -> str:
        nodes, links = self.shares
        return f"{self.nodes} of {self.of_nodes} nodes ({nodes}), {self.links:,} of {self.of_links:,} links ({links})"


def size_of(circuit: Circuit, sizes: Architecture) -> Size:
    """The size of a circuit in a model that has all of its nodes."""
    places = (END, YY) if circuit.placed else ("",)
    members = [node.name for layer in range(sizes.n_layers) for node in layer_nodes(layer, sizes.n_heads, 0)]
    ends = [LOGITS, *(f"{name}@{place}" for place in places for name in members)]
    readers = [(each, via) for each in ends for via in INPUTS[kind_of(each)]]
    whole = {(link.reader, link.via) for link in circuit.links if link.sender == EVERYTHING}
    single = [link for link in circuit.links if (link.reader, link.via) not in whole]
    links = len(single) + sum(_senders(*each, sizes) for each in whole)
    nodes = len(circuit.members), len(places) * len(members)
    return Size(*nodes, links, sum(_senders(*each, sizes) for each in readers))


def _senders(reader: str, via: Via, sizes: Architecture) -> int:
    """How many nodes an input reads: those of all layers below, and the embeddings; heads at END look at YY, too."""
    node = Node.named(bare(reader), 0)
    layers = sizes.n_layers if node.kind == "logits" else node.layer
    at_one_position = 1 + layers * (sizes.n_heads + 1) + (sizes.n_heads if node.kind == "mlp" else 0)
    return at_one_position * (2 if via in ("k", "v") and place_of(reader) == END else 1)
