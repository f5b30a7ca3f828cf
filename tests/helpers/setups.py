"""Small random models and sentences on which path patching has effects far above rounding."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import torch

from path_patching.engine import Sentences
from path_patching.gpt2.model import Architecture, Model, random_model
from path_patching.paths import Node, PathSet
from path_patching.reference import Reference
from utils import prob_diff

VOCABULARY = 160  # tokens that sentences use
EOS = 0


@dataclass(frozen=True, eq=False)
class Setup:
    """A model, sentence pairs whose answers stand for the years 00 to 99, and where and what YY is in each pair."""

    model: Model
    sentences: Sentences
    yy_position: int
    years: torch.Tensor  # int64 (N,)
    reference: Reference

    @property
    def end(self) -> int:
        return self.sentences.end

    def difference(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Probability difference of each sentence, (..., N, A) to (..., N)."""
        flat = probabilities.reshape(-1, *probabilities.shape[-2:])
        return torch.stack([prob_diff(rows, self.years) for rows in flat]).reshape(probabilities.shape[:-1])


def strong_heads(model: Model) -> Model:
    """The model with heads that write as much as its MLPs and logits further apart, so that deep paths matter too.

    Tokens that no sentence uses are alike, as they are in a model that never met them in training.
    """
    factors = {"tok_embeds": 3.0, ".w.v_arr": 1.5, ".w.o_arr": 2.0, "t.w.unembed_arr": 2.0}
    tensors = {
        name: tensor * math.prod(factor for end, factor in factors.items() if name.endswith(end))
        for name, tensor in model.tensors.items()
    }
    for name in ("t.w.tok_embeds", "t.w.unembed_arr"):
        tensors[name][VOCABULARY:] = 0.3
    return replace(model, tensors=tensors, fingerprint=f"{model.fingerprint}-strong-heads")


def random_setup(
    architecture: Architecture, n: int, length: int, yy_position: int, eos: bool, twins: bool, seed: int
) -> Setup:
    """Random weights and sentences; `twins` differ at YY alone, other pairs at every position."""
    generator = torch.Generator().manual_seed(seed)
    answers = 1 + torch.randperm(VOCABULARY - 1, generator=generator)[:100]
    years = torch.randint(2, 99, (n,), generator=generator)
    clean = torch.randint(1, VOCABULARY, (n, length), generator=generator)
    shift = torch.randint(1, VOCABULARY - 1, (n, length), generator=generator)
    corrupted = clean.clone() if twins else 1 + (clean - 1 + shift) % (VOCABULARY - 1)
    clean[:, yy_position], corrupted[:, yy_position] = answers[years], answers[1]
    if eos:
        clean[:, 0] = corrupted[:, 0] = EOS
    model = strong_heads(random_model(architecture, std=0.2, seed=seed))
    sentences = Sentences(clean, corrupted, answers)
    return Setup(model, sentences, yy_position, years, Reference(model, sentences))


def _with_eos() -> Setup:
    sizes = Architecture(n_layers=3, n_heads=3, d_model=24, d_head=8, d_mlp=96, n_positions=16, vocab_size=VOCABULARY)
    return random_setup(sizes, n=4, length=13, yy_position=8, eos=True, twins=True, seed=1)


def _without_eos() -> Setup:
    sizes = Architecture(n_layers=4, n_heads=4, d_model=48, d_head=12, d_mlp=70, n_positions=12, vocab_size=VOCABULARY)
    return random_setup(sizes, n=3, length=12, yy_position=7, eos=False, twins=True, seed=2)


def _all_tokens_differ() -> Setup:
    sizes = Architecture(
        n_layers=3, n_heads=4, d_model=32, d_head=8, d_mlp=40, n_positions=20, vocab_size=400, activation="gelu"
    )
    return random_setup(sizes, n=5, length=7, yy_position=4, eos=False, twins=False, seed=3)


SETUPS: dict[str, Callable[[], Setup]] = {
    "with eos": cache(_with_eos),
    "without eos": cache(_without_eos),
    "all tokens differ": cache(_all_tokens_differ),
}


# The shape of the paper's circuit, for models of three layers and more: H and M at END, below them nodes at YY.
HEADS = ((2, 1), (2, 0), (1, 2))
MLPS = (1, 2)


def late_half(setup: Setup) -> PathSet:
    """Any chain of M from the logits, then a head of H."""
    through = PathSet.at(Node.logits(setup.end)).through_chains([Node.mlp(layer, setup.end) for layer in MLPS])
    return through.extend([Node.head(*head, setup.end) for head in HEADS])


def full_circuit(setup: Setup) -> PathSet:
    """The late half's queries whole; its keys and values at YY through chains of early nodes to the embeddings."""
    heads, yy = late_half(setup), setup.yy_position
    deeper = [Node.mlp(0, yy), Node.mlp(1, yy), Node.head(0, 1, yy)]
    first = [*deeper, Node.head(0, 2, yy)]
    chains = (heads.extend(first, "k") | heads.extend(first, "v")).through_chains(deeper)
    return chains.extend([Node.embeds(yy)]) | heads.extend([Node.residual(setup.end)], "q")


def path_sets(setup: Setup) -> dict[str, PathSet]:
    """Path sets of every shape that the experiments use, and some nastier ones."""
    end, yy = setup.end, setup.yy_position
    logits = PathSet.at(Node.logits(end))
    after_m0, after_m1, after_m2 = (logits.extend([Node.mlp(layer, end)]) for layer in range(3))
    top_heads = logits.extend(_heads(2, end))
    head = logits.extend([Node.head(1, 2, end)])
    early = [Node.mlp(0, yy), *_heads(0, yy)]
    return {
        "nothing but the logits": logits,
        "mlp": after_m2,
        "first mlp": after_m0,
        "head": head,
        "two nodes": logits.extend([Node.head(1, 0, end), Node.mlp(1, end)]),
        "mlp of an mlp": after_m2.extend([Node.mlp(1, end)]),
        "any chain of mlps": logits.through_chains(_mlps(end)).extend(_heads(0, end)),
        "head through its own layer's mlp": after_m1.extend([Node.head(1, 1, end)]),
        "q": top_heads.extend([Node.mlp(1, end)], "q"),
        "k": top_heads.extend([Node.mlp(1, yy)], "k"),
        "v": top_heads.extend([Node.mlp(1, yy)], "v"),
        "v of the embeddings": head.extend([Node.embeds(yy)], "v"),
        "all inputs at YY": top_heads.extend(_heads(1, yy)),
        "all inputs at END": top_heads.extend(_heads(1, end)),
        "k at several positions": top_heads.extend([Node.mlp(1, at) for at in range(yy, end + 1)], "k"),
        "v at several positions": top_heads.extend([Node.head(0, 0, at) for at in range(yy, end + 1)], "v"),
        "k and v at all positions": head.extend([Node.mlp(0, at) for at in range(end + 1)]),
        "k and v of different nodes": top_heads.extend([Node.mlp(1, yy)], "k") | top_heads.extend(early, "v"),
        "head to head": top_heads.extend(_heads(1, yy), "v").extend(_heads(0, yy), "v"),
        "head to head at a position between": top_heads.extend(_heads(1, yy + 1), "v").extend(early, "k"),
        "head to mlp to head": top_heads.extend([Node.mlp(1, yy)], "v").extend(_heads(1, yy)).extend(early, "v"),
        "q through an mlp": top_heads.extend([Node.mlp(1, end)], "q").extend(_heads(0, end)),
        "nested ends": after_m2 | after_m2.extend([Node.head(1, 0, end)]),
        "shared receiver": after_m2.extend([Node.head(1, 0, end)]) | after_m2.extend([Node.mlp(0, end)]),
        "one node by two paths": head | after_m1.extend([Node.head(1, 2, end)]),
        "one node, deeper by one path": head | after_m2.extend([Node.head(1, 2, end)]).extend([Node.mlp(0, yy)]),
        "ends among chains": logits.through_chains([Node.mlp(1, end)]).extend([Node.mlp(0, end)])
        | after_m1.extend(_heads(0, end)),
        "chains ending everywhere": top_heads.through_chains(early).extend([Node.embeds(yy)]),
        "whole queries": head.extend([Node.residual(end)], "q"),
        "whole values at YY": head.extend([Node.residual(yy)], "v"),
        "whole input of an mlp": after_m1.extend([Node.residual(end)]),
        "whole input and a node of it": after_m2.extend([Node.residual(end)]) | after_m2.extend([Node.mlp(0, end)]),
        "whole input and a path on through it": after_m2.extend([Node.residual(end)])
        | after_m2.extend([Node.mlp(1, end)]).extend([Node.mlp(0, end)]),
        "neuron": logits.extend([Node.neuron(2, 4, end)]),
        "neurons": logits.extend([Node.neuron(1, index, end) for index in range(0, 40, 3)]),
        "neurons to an mlp": after_m2.extend([Node.neuron(0, index, end) for index in range(20)]),
        "neurons to heads": top_heads.extend([Node.neuron(layer, 11, yy) for layer in (0, 1)], "v"),
        "neuron and its mlp elsewhere": logits.extend([Node.neuron(1, 3, end)]) | after_m2.extend([Node.mlp(1, end)]),
        "neuron of an mlp on the way": logits.extend([Node.neuron(1, 3, end)]) | after_m1.extend([Node.mlp(0, end)]),
        "neuron of a patched mlp": logits.extend([Node.neuron(2, 3, end), Node.mlp(2, end)]),
        "late half": late_half(setup),
        "full circuit": full_circuit(setup),
        "a tree below the late half": late_half(setup)
        .through_chains([*early, Node.mlp(1, yy)])
        .extend([Node.embeds(yy)]),
    }


def _heads(layer: int, position: int) -> list[Node]:
    return [Node.head(layer, head, position) for head in range(3)]


def _mlps(position: int) -> list[Node]:
    return [Node.mlp(layer, position) for layer in range(3)]
