"""A circuit planted by hand in a tiny GPT-2, small enough to be followed with a pencil.

A sentence is `eos The NOUN YY to the END`; the token of year y is y itself. The model puts its probability around
YY + 25 by one chain of nodes, each of which copies one number: u, the year scaled to −1 … 1.

    embeds@YY ──in──▶ m0@YY ──v──▶ a1.h1@END ──in──▶ m2@END ──in──▶ logits@END
      YEAR = u     PREPARED = u     MOVED = u      ANSWER = u + ½

The logit of year y is SHARPNESS · (u_y · ANSWER − u_y² / 2), which makes the probability a bell around u_y = ANSWER.

**Features.** The residual stream holds nine features in two dimensions each: feature f of size x is the pair (x, −x).
So every residual has mean zero, and whoever reads the first of the two dimensions reads x.

**LayerNorm.** CONSTANT holds the same large number at every position, beside which all else is small. So LayerNorm
divides by LARGE · √(2 / 18) = LARGE / 3 everywhere, but for a few millionths. With LARGE / 3 as its scale, and no
shift, it leaves the residual stream as it is.

**MLPs.** gelu(x) − gelu(−x) = x, for the exact GELU as for the tanh approximation: two neurons copy a number.

**Heads** that move a feature from YY to one position attend to YY there (score +FOCUS) and to everything else, where
those features are zero, at every other position (score −FOCUS).

**Decoys** are what a careless search would take for the circuit. a0.h0 writes the ½ of ANSWER at END, which matters
but is the same in both data sets. a0.h1 and a2.h0 move the year from YY to END and m1 copies it there, all into JUNK,
which nobody reads. a1.h0 moves PREPARED into MOVED, but to the position before END, from where nobody reads it.

**Other shapes** are planted in the same way in models with more heads, so that many random circuits can be drawn:

    heads alone   three heads each add a third of u to ANSWER at END
    MLP chains    a head moves u to END, from where three MLPs hand it on, each to every later one and to ANSWER
    lower MLPs    two MLPs at YY prepare u, the second also from the first; a head and an MLP at END move and copy it
    backup        two heads move u to END, of which an MLP takes the larger: max(u, u); a second one copies half of it
    cancelling    heads add thirds of u to ANSWER, and two u/2 and −u/2: each of these matters, together they do nothing
    against       four heads each add a third of u to ANSWER, a fifth takes a third away

Their ANSWER is u + 0.3, so that a third of u missing moves the bell across YY. Each `Planted` says what its circuit is,
and what circuits with a node too few, one too many, and one swapped are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import torch

from path_patching.circuits.circuit import LOGITS, Circuit
from path_patching.circuits.papers_shape import in_papers_shape, varied
from path_patching.engine import Sentences
from path_patching.gpt2.model import Architecture, Model
from path_patching.paths import Node

EOS, THE, NOUN, TO, XX = range(100, 105)
YY, BEFORE_END, END = 3, 5, 6
YEARS = torch.tensor([25, 40, 50, 60])

FEATURES = 9
CONSTANT, AT_YY, AT_BEFORE_END, AT_END, YEAR, PREPARED, MOVED, ANSWER, JUNK = range(FEATURES)

LARGE = 900.0  # CONSTANT
FOCUS = 30.0  # attention scores are +FOCUS or −FOCUS at YY, 0 elsewhere
SHIFT = 0.5  # 25 years
STEEP = 20.0  # years of 25 and 01 are then 10 apart, where gelu(z) is z and gelu(−z) is 0
SHARPNESS = 30.0  # the bell's standard deviation is 1 / √SHARPNESS, 9 years

SIZES = Architecture(n_layers=3, n_heads=2, d_model=18, d_head=9, d_mlp=4, n_positions=7, vocab_size=105)
CHAIN = (Node.mlp(2, END), Node.head(1, 1, END), Node.mlp(0, YY), Node.embeds(YY))
LARGER = in_papers_shape(  # than the chain: a0.h1 and m1 do nothing
    name="larger",
    mlps=("m1", "m2"),
    heads=("a0.h1", "a1.h1"),
    heads_feed=(LOGITS, "m1", "m2"),
    first_below=(),
    further_below=(),
    followed=(),
    whole=("q", "k", "v"),
)
MEMBERS = {f"{name}@END": Node.named(name, END) for name in (*LARGER.heads, *LARGER.mlps)}

SMALL_SHIFT = 0.3  # 15 years
MANY_HEADS = replace(SIZES, n_layers=5, n_heads=9, d_head=2)

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Planted:
    """A model with a circuit planted in it, the circuit, and some that differ from it by a node."""

    model: Model
    circuit: Circuit
    too_few: Circuit
    too_many: Circuit
    swapped: Circuit

    @property
    def variants(self) -> dict[str, Circuit]:
        """The planted circuit and the wrong ones, by what they are."""
        wrong = {"too few": self.too_few, "too many": self.too_many, "swapped": self.swapped}
        return {"planted": self.circuit, **wrong}


def planted_chain() -> Planted:
    """The chain of this module's model."""
    ends = {"mlps": ("m2",), "heads_feed": ("m2",), "further_below": (), "followed": ("v",), "whole": ()}
    circuit = in_papers_shape("the planted chain", heads=("a1.h1",), first_below=("m0",), **ends)
    too_few = varied(circuit, mlps=(), heads_feed=(LOGITS,))
    too_many = varied(circuit, heads=("a1.h0", "a1.h1"))
    swapped = varied(circuit, heads=("a1.h0",))
    return Planted(planted_model(), circuit, too_few, too_many, swapped)


def planted_heads() -> Planted:
    """Heads that read the embeddings at YY and write to the logits, with decoys beside them."""
    tensors = blank(MANY_HEADS)
    for layer, head in ((1, 1), (1, 4), (2, 0)):
        moving_head(tensors, f"a{layer}", head, YEAR, ANSWER, to=AT_END, size=1 / 3)
    constant_head(tensors, "a0", 0, SMALL_SHIFT, ANSWER)
    moving_head(tensors, "a1", 2, YEAR, JUNK, to=AT_END)
    moving_head(tensors, "a2", 3, YEAR, ANSWER, to=AT_BEFORE_END)
    ends = {"mlps": (), "heads_feed": (LOGITS,), "first_below": ("embeds",), "further_below": ()}
    circuit = in_papers_shape("planted heads", heads=("a1.h1", "a1.h4", "a2.h0"), followed=("v",), whole=(), **ends)
    too_few = varied(circuit, heads=("a1.h1", "a2.h0"))
    too_many = varied(circuit, heads=(*circuit.heads, "a1.h2"))
    swapped = varied(circuit, heads=("a1.h1", "a1.h4", "a2.h3"))
    return Planted(Model("planted heads", MANY_HEADS, tensors, "heads"), circuit, too_few, too_many, swapped)


def planted_mlps() -> Planted:
    """A head, and MLPs at END that hand on what it moved, adding up in PREPARED: 1 u, 2 u; and in ANSWER: ¼, ½, 1 u."""
    tensors = blank(MANY_HEADS)
    moving_head(tensors, "a0", 1, YEAR, MOVED, to=AT_END)
    mixing_mlp(tensors, "m1", {MOVED: 1}, {PREPARED: 1, ANSWER: 1 / 4})
    mixing_mlp(tensors, "m2", {PREPARED: 1}, {PREPARED: 1, ANSWER: 1 / 4})
    mixing_mlp(tensors, "m3", {PREPARED: 1}, {ANSWER: 1 / 4})
    constant_head(tensors, "a0", 0, SMALL_SHIFT, ANSWER)
    moving_head(tensors, "a0", 2, YEAR, JUNK, to=AT_END)
    copying_mlp(tensors, "m0", MOVED, JUNK)
    ends = {"first_below": ("embeds",), "further_below": (), "followed": ("v",), "whole": ()}
    circuit = in_papers_shape("planted MLPs", mlps=("m1", "m2", "m3"), heads=("a0.h1",), heads_feed=("m1",), **ends)
    too_few = varied(circuit, mlps=("m1", "m3"))
    too_many = varied(circuit, mlps=("m0", *circuit.mlps), heads_feed=("m0", "m1"))
    swapped = varied(circuit, heads=("a0.h2",))
    return Planted(Model("planted MLPs", MANY_HEADS, tensors, "mlps"), circuit, too_few, too_many, swapped)


def planted_lower() -> Planted:
    """Two MLPs at YY that prepare u, each for the head and the first for the second, which then adds ½ · (u + u)."""
    tensors = blank(MANY_HEADS)
    copying_mlp(tensors, "m0", YEAR, PREPARED)
    mixing_mlp(tensors, "m1", {YEAR: 1 / 2, PREPARED: 1 / 2}, {PREPARED: 1})
    moving_head(tensors, "a3", 1, PREPARED, MOVED, to=AT_END, size=1 / 2)
    copying_mlp(tensors, "m3", MOVED, ANSWER)
    constant_head(tensors, "a0", 0, SMALL_SHIFT, ANSWER)
    mixing_mlp(tensors, "m2", {YEAR: 1}, {JUNK: 1})
    moving_head(tensors, "a3", 2, JUNK, MOVED, to=AT_BEFORE_END)
    ends = {"mlps": ("m3",), "heads": ("a3.h1",), "heads_feed": ("m3",), "followed": ("v",), "whole": ()}
    circuit = in_papers_shape("planted lower MLPs", first_below=("m0", "m1"), further_below=("m0",), **ends)
    too_few = varied(circuit, first_below=("m0",), further_below=())
    too_many = varied(circuit, first_below=("m0", "m1", "m2"))
    swapped = varied(circuit, first_below=("m0", "m2"))
    return Planted(Model("planted lower MLPs", MANY_HEADS, tensors, "lower"), circuit, too_few, too_many, swapped)


def planted_backup() -> Planted:
    """Two heads, each of which does what the other does; m3 adds ½ max to ANSWER, and by way of m4 the other half.

    m0 prepares u at YY. The second head brings it to END as YEAR, which nothing there has.
    """
    tensors = blank(MANY_HEADS)
    copying_mlp(tensors, "m0", YEAR, PREPARED)
    moving_head(tensors, "a1", 1, PREPARED, MOVED, to=AT_END)
    moving_head(tensors, "a2", 4, PREPARED, YEAR, to=AT_END)
    larger_of(tensors, "m3", MOVED, YEAR, {ANSWER: 1 / 2, JUNK: 1 / 2})
    copying_mlp(tensors, "m4", JUNK, ANSWER)
    constant_head(tensors, "a0", 0, SMALL_SHIFT, ANSWER)
    moving_head(tensors, "a2", 3, PREPARED, MOVED, to=AT_BEFORE_END)
    ends = {"first_below": ("m0",), "further_below": (), "followed": ("v",), "whole": ()}
    circuit = in_papers_shape("a backup", ("m3", "m4"), heads=("a1.h1", "a2.h4"), heads_feed=("m3",), **ends)
    too_few = varied(circuit, heads=("a1.h1",))
    too_many = varied(circuit, heads=("a1.h1", "a2.h3", "a2.h4"))
    swapped = varied(circuit, heads=("a1.h1", "a2.h3"))
    return Planted(Model("a backup", MANY_HEADS, tensors, "backup"), circuit, too_few, too_many, swapped)


def planted_cancelling() -> Planted:
    """Three heads that add up to u, and two that undo each other. Too few: without the two."""
    third = dict.fromkeys(("a1.h1", "a1.h4", "a2.h0"), 1 / 3)
    return _adding_up("cancelling", third | {"a2.h5": 1 / 2, "a3.h7": -1 / 2}, too_few=(*third,))


def planted_against() -> Planted:
    """Four heads that do more than all, and one that works against them. Too few: without that one."""
    third = dict.fromkeys(("a1.h1", "a1.h4", "a2.h0", "a2.h5"), 1 / 3)
    return _adding_up("against", third | {"a3.h7": -1 / 3}, too_few=(*third,))


def _adding_up(name: str, sizes: Mapping[str, float], too_few: tuple[str, ...]) -> Planted:
    """Heads that add shares of u to ANSWER, and a decoy, a1.h2; in the swapped circuit that stands for the last."""
    tensors = blank(MANY_HEADS)
    for head, size in sizes.items():
        node = Node.named(head, END)
        moving_head(tensors, f"a{node.layer}", node.index, YEAR, ANSWER, to=AT_END, size=size)
    constant_head(tensors, "a0", 0, SMALL_SHIFT, ANSWER)
    moving_head(tensors, "a1", 2, YEAR, JUNK, to=AT_END)
    ends = {"mlps": (), "heads_feed": (LOGITS,), "first_below": ("embeds",), "further_below": ()}
    circuit = in_papers_shape(name, heads=(*sizes,), followed=("v",), whole=(), **ends)
    *others, _ = sizes
    wrong = [varied(circuit, heads=heads) for heads in (too_few, (*sizes, "a1.h2"), (*others, "a1.h2"))]
    return Planted(Model(name, MANY_HEADS, tensors, name), circuit, *wrong)


SHAPES = {
    "chain": planted_chain,
    "heads alone": planted_heads,
    "MLP chains": planted_mlps,
    "lower MLPs": planted_lower,
    "backup": planted_backup,
    "cancelling": planted_cancelling,
    "against": planted_against,
}


AT_LAST = in_papers_shape("at the last", (), ("a0.h1",), (LOGITS,), ("embeds",), (), followed=("v",), whole=())
BEFORE = varied(AT_LAST, name="one before", heads=("a1.h0",))
BOTH = varied(AT_LAST, name="both", heads=("a0.h1", "a1.h0"))


@cache
def two_abilities() -> Model:
    """a0.h1 brings the year to END, a1.h0 to the position before it, which is END for sentences that are `cut`."""
    tensors = blank(SIZES)
    moving_head(tensors, "a0", 1, YEAR, ANSWER, to=AT_END)
    moving_head(tensors, "a1", 0, YEAR, ANSWER, to=AT_BEFORE_END)
    constant_head(tensors, "a0", 0, SHIFT, ANSWER)
    return Model("two", SIZES, tensors, "two")


@cache
def planted_turn() -> tuple[Model, Circuit]:
    """Two heads, the larger of which is ANSWER: max(2u + ½, −2u − 1½). It falls up to year 25, and rises from there."""
    tensors = blank(SIZES)
    for head, feature, size, shift in ((0, MOVED, 2, 1 / 2), (1, JUNK, -2, -3 / 2)):
        moving_head(tensors, "a1", head, YEAR, feature, to=AT_END, size=size)
        constant_head(tensors, "a0", head, shift, feature)
    larger_of(tensors, "m2", MOVED, JUNK, {ANSWER: 1})
    ends = {"heads_feed": ("m2",), "first_below": ("embeds",), "further_below": (), "followed": ("v",), "whole": ()}
    return Model("a turn", SIZES, tensors, "turn"), in_papers_shape("a turn", ("m2",), ("a1.h0", "a1.h1"), **ends)


def cut(sentences: Sentences) -> Sentences:
    """The sentences without their last token."""
    return Sentences(sentences.clean[:, :END], sentences.corrupted[:, :END], sentences.answers)


def planted_sentences(years: torch.Tensor = YEARS) -> Sentences:
    """Pairs, four unless other years are given: YY is 25, 40, 50 and 60, and 01 in their corrupted twins."""
    clean = torch.tensor([[EOS, THE, NOUN, year, TO, THE, XX] for year in years.tolist()])
    corrupted = clean.clone()
    corrupted[:, YY] = 1
    return Sentences(clean, corrupted, torch.arange(100))


def planted_model() -> Model:
    tensors = blank(SIZES)
    moving_head(tensors, "a1", 1, PREPARED, MOVED, to=AT_END)
    copying_mlp(tensors, "m0", YEAR, PREPARED)
    copying_mlp(tensors, "m2", MOVED, ANSWER)
    constant_head(tensors, "a0", 0, SHIFT, MOVED)
    moving_head(tensors, "a0", 1, YEAR, JUNK, to=AT_END)
    moving_head(tensors, "a1", 0, PREPARED, MOVED, to=AT_BEFORE_END)
    copying_mlp(tensors, "m1", MOVED, JUNK)
    moving_head(tensors, "a2", 0, PREPARED, JUNK, to=AT_END)
    return Model("planted", SIZES, tensors, "planted")


def blank(sizes: Architecture) -> Tensors:
    """Tensors of a model that embeds years and positions and reads ANSWER, with nothing between."""
    tensors = {name: torch.zeros(shape) for name, shape in sizes.tensor_shapes().items()}
    for name, tensor in tensors.items():
        if name.endswith("ln.w.scale_arr"):
            tensor.fill_(LARGE / 3)
    embed(tensors)
    unembed(tensors)
    return tensors


def scaled(years: torch.Tensor) -> torch.Tensor:
    """Years 0 … 99 to −1 … 1, fifty years to one."""
    return (years - 50) / 50


def first(feature: int) -> int:
    """The dimension to read a feature from."""
    return 2 * feature


def pair(feature: int, size: float = 1.0) -> torch.Tensor:
    """A residual stream (D,) with one feature in it."""
    stream = torch.zeros(SIZES.d_model)
    stream[first(feature)], stream[first(feature) + 1] = size, -size
    return stream


def embed(tensors: Tensors) -> None:
    for year, size in enumerate(scaled(torch.arange(100)).tolist()):
        tensors["t.w.tok_embeds"][year] = pair(YEAR, size)
    tensors["t.w.pos_embeds"][:] = pair(CONSTANT, LARGE)
    for position, feature in ((YY, AT_YY), (BEFORE_END, AT_BEFORE_END), (END, AT_END)):
        tensors["t.w.pos_embeds"][position] += pair(feature)


def copying_mlp(tensors: Tensors, name: str, source: int, target: int) -> None:
    mixing_mlp(tensors, name, {source: 1}, {target: 1})


def mixing_mlp(tensors: Tensors, name: str, sources: Mapping[int, float], targets: Mapping[int, float]) -> None:
    """Reads x, a sum of features, and adds its share of x to each target.

    Neuron 0 is gelu(x) and writes it, neuron 1 is gelu(−x) and takes it away; the other two are silent.
    """
    for source, size in sources.items():
        tensors[f"{name}.w.proj_in_arr"][0, first(source)] = size
        tensors[f"{name}.w.proj_in_arr"][1, first(source)] = -size
    written = torch.stack([pair(target, size) for target, size in targets.items()]).sum(0)
    tensors[f"{name}.w.proj_out_arr"][:, 0] = written
    tensors[f"{name}.w.proj_out_arr"][:, 1] = -written


def larger_of(tensors: Tensors, name: str, one: int, other: int, targets: Mapping[int, float]) -> None:
    """Adds its share of max(x, y) = (x + y) / 2 + |x − y| / 2, of two features, to each target.

    |z| is gelu(z) + gelu(−z) where |z| is large, so z is STEEP · (x − y); where x and y are equal it is 0, exactly.
    """
    mixing_mlp(tensors, name, {one: 1, other: 1}, {target: size / 2 for target, size in targets.items()})
    written = torch.stack([pair(target, size / 2 / STEEP) for target, size in targets.items()]).sum(0)
    for neuron, sign in ((2, 1), (3, -1)):
        tensors[f"{name}.w.proj_in_arr"][neuron, first(one)] = sign * STEEP
        tensors[f"{name}.w.proj_in_arr"][neuron, first(other)] = -sign * STEEP
        tensors[f"{name}.w.proj_out_arr"][:, neuron] = written


def moving_head(tensors: Tensors, name: str, head: int, source: int, target: int, to: int, size: float = 1.0) -> None:
    """Adds `source` at YY to `target` at the position that the feature `to` marks; copies nothing elsewhere."""
    score = FOCUS * tensors[f"{name}.w.q_arr"].shape[1] ** 0.5
    tensors[f"{name}.w.q_arr"][head, 0, first(to)] = 2 * score
    tensors[f"{name}.w.q_bias_arr"][head, 0] = -score
    tensors[f"{name}.w.k_arr"][head, 0, first(AT_YY)] = 1.0
    tensors[f"{name}.w.v_arr"][head, 0, first(source)] = 1.0
    tensors[f"{name}.w.o_arr"][head, :, 0] = pair(target, size)


def constant_head(tensors: Tensors, name: str, head: int, size: float, target: int) -> None:
    """Writes the same number at every position, since its value is a bias."""
    tensors[f"{name}.w.v_bias_arr"][head, 0] = size
    tensors[f"{name}.w.o_arr"][head, :, 0] = pair(target)


def unembed(tensors: Tensors) -> None:
    """Year y reads SHARPNESS · u_y from ANSWER and −SHARPNESS · u_y² / 2 from CONSTANT; words get −2 · SHARPNESS."""
    u = scaled(torch.arange(100))
    tensors["t.w.unembed_arr"][:100, first(ANSWER)] = SHARPNESS * u
    tensors["t.w.unembed_arr"][:100, first(CONSTANT)] = -SHARPNESS * u.square() / 2 / LARGE
    tensors["t.w.unembed_arr"][100:, first(CONSTANT)] = -2 * SHARPNESS / LARGE
