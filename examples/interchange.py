"""Interchange interventions on the paper's circuit, by which the stand-in is trained to have it.

Two sentences differ only in their start year: a *source* and a *base*. In an intervened run the nodes of the circuit
take the source's values along the circuit's edges; everything else takes the base's. If the prediction is then the
source's, the model needs only the circuit. Since base and source also change places, nothing else acts on the
prediction (Geiger et al. 2022, arXiv:2112.00826; InterpBench, Gupta et al. 2024, arXiv:2407.14494, trains towards
circuits in this way).

The circuit has three stages, whose nodes share its work by fixed votes:

    stage      nodes                          read
    lower      a0.h1 a0.h3 a0.h5 m0 ... m3    the embedding of YY, at YY; the MLPs also a0.h1 and the MLPs below
    heads      the paper's seven heads        keys and values at YY: the lower nodes; queries: everything
    late MLPs  m8 ... m11 at END              the heads and the late MLPs below

If only some nodes of a stage are the source's, the prediction must lie between the two, by the votes. So no node is
idle, and none does everything. In the published circuit the heads feed the logits and all late MLPs above them. Runs
with these edges (`widely`) alternate with runs in which a head feeds only the first MLP above it. So this edge does the
work, and the others neither help nor harm.

G sentences, K start years each, R pairs of source and base for each sentence, L positions, D width, H heads of width W.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers import GPT2LMHeadModel

LOWER_HEADS = {1: 1.0, 3: 1.0, 5: 1.0}  # of layer 0, with their votes
LOWER_MLPS = {0: 4.0, 1: 2.0, 2: 2.0, 3: 2.0}
READ_BY_LOWER_MLPS = 1  # the only one of these heads that they read
HEADS = {(5, 1): 8, (5, 5): 8, (6, 9): 8, (7, 10): 8, (8, 8): 8, (8, 11): 8, (9, 1): 9}  # with the first MLP above
LATE_MLPS = {8: 2.0, 9: 3.0, 10: 4.0, 11: 2.0}  # with the votes of their writes to the logits


@dataclass(frozen=True)
class Layout:
    """One sequence for a sentence with K start years: what is before YY, K YYs, what is between, K ENDs.

    So what the years share is computed once. `mask` keeps the years apart. The positions between see one year for all:
    this is an intervention too, after which END can learn its year only from YY.
    """

    before: int
    """Positions before YY."""
    years: int
    """K."""
    between: int
    """Positions between YY and END."""
    year_between: int
    """The year that those positions see, in 0 ... K − 1."""

    @property
    def positions(self) -> torch.Tensor:
        """Each token's position in its sentence, (L,)."""
        end = self.before + 1 + self.between
        counts = torch.tensor([1] * self.before + [self.years] + [1] * self.between + [self.years])
        return torch.arange(end + 1).repeat_interleave(counts)

    @property
    def mask(self) -> torch.Tensor:
        """Whether a query (rows) may look at a key (columns): at its own year and what is shared, (L, L) bool."""
        sizes = torch.tensor([self.before, self.years, self.between, self.years])
        shared = torch.tensor([True, False, True, False]).repeat_interleave(sizes)
        year = torch.full((int(sizes.sum()),), self.year_between)
        year[~shared] = torch.arange(self.years).repeat(2)
        return (shared | (year == year[:, None])).tril()

    def at_yy(self, values: torch.Tensor) -> torch.Tensor:
        """The values (G, L, ...) at each YY, (G, K, ...)."""
        return values[:, self.before : self.before + self.years]

    def at_end(self, values: torch.Tensor) -> torch.Tensor:
        """The values (G, L, ...) at each END, (G, K, ...)."""
        return values[:, -self.years :]

    def shared(self, values: torch.Tensor) -> torch.Tensor:
        """The values at the positions that all years share, (G, L − 2 K, ...)."""
        return torch.cat([values[:, : self.before], values[:, self.before + self.years : -self.years]], 1)


@dataclass(frozen=True)
class Run:
    """What an ordinary run computes; a list has an entry for each layer."""

    embeds: torch.Tensor  # (G, L, D)
    before_heads: list[torch.Tensor]  # residual stream that the heads read, (G, L, D)
    queries: list[torch.Tensor]  # (G, L, H, W)
    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    heads: list[torch.Tensor]  # values that each head has mixed, (G, L, H, W)
    before_mlps: list[torch.Tensor]  # residual stream that the MLP reads, (G, L, D)
    mlps: list[torch.Tensor]  # what it writes, (G, L, D)
    final: torch.Tensor  # residual stream that the logits read, (G, L, D)


def ordinary_run(model: GPT2LMHeadModel, tokens: torch.Tensor, layout: Layout) -> Run:
    """Run the model on tokens (G, L) and keep what interventions need."""
    transformer, mask = model.transformer, layout.mask
    embeds = stream = transformer.wte(tokens) + transformer.wpe(layout.positions)
    kept: dict[str, list[torch.Tensor]] = {
        name: [] for name in ("before_heads", "queries", "keys", "values", "heads", "before_mlps", "mlps")
    }
    for block in transformer.h:
        kept["before_heads"].append(stream)
        inputs = block.attn.c_attn(block.ln_1(stream)).unflatten(-1, (3, block.attn.num_heads, -1)).unbind(2)
        mixed = functional.scaled_dot_product_attention(*(each.transpose(1, 2) for each in inputs), attn_mask=mask)
        for name, value in zip(("queries", "keys", "values", "heads"), (*inputs, mixed.transpose(1, 2)), strict=True):
            kept[name].append(value)
        stream = stream + block.attn.c_proj(kept["heads"][-1].flatten(2))
        kept["before_mlps"].append(stream)
        kept["mlps"].append(block.mlp(block.ln_2(stream)))
        stream = stream + kept["mlps"][-1]
    return Run(embeds, final=stream, **kept)


@dataclass(frozen=True)
class Pairs:
    """R pairs of source and base for each of the G sentences of a run, by the numbers of their years."""

    model: GPT2LMHeadModel
    run: Run
    layout: Layout
    source: torch.Tensor
    """(G, R), in 0 ... K − 1."""
    base: torch.Tensor
    """(G, R)."""

    def of_source(self, values: torch.Tensor) -> torch.Tensor:
        """The source's values, from values of each year: (G, K, ...) to (G, R, ...)."""
        return values[torch.arange(len(values))[:, None], self.source]

    def of_base(self, values: torch.Tensor) -> torch.Tensor:
        """The base's."""
        return values[torch.arange(len(values))[:, None], self.base]

    def change(self, values: torch.Tensor) -> torch.Tensor:
        """The source's minus the base's."""
        return self.of_source(values) - self.of_base(values)


@dataclass(frozen=True)
class Taken:
    """Which nodes are the source's: for each stage (G, R, nodes) bool, in the order of the table above."""

    lower: torch.Tensor
    heads: torch.Tensor
    late_mlps: torch.Tensor

    def source_share(self, followed: bool) -> torch.Tensor:
        """By the votes, how much of the prediction is the source's, (G, R); lower nodes count only if `followed`."""
        share = _share(self.heads, [1.0] * len(HEADS)) * _share(self.late_mlps, [*LATE_MLPS.values()])
        return share * _share(self.lower, [*LOWER_HEADS.values(), *LOWER_MLPS.values()]) if followed else share


def _share(taken: torch.Tensor, votes: Sequence[float]) -> torch.Tensor:
    return (taken * torch.tensor(votes)).sum(-1) / sum(votes)


def interchange(pairs: Pairs, taken: Taken, followed: bool, widely: bool) -> torch.Tensor:
    """What the logits read at END with the circuit's nodes on the source and all else on the base, (G, R, D).

    If `followed`, the heads' keys and values are followed to the lower nodes at YY (the full circuit); else the heads
    are the source's as a whole (the late half). If `widely`, heads feed all late MLPs above them; else only the first.
    """
    changes = _heads_followed(pairs, taken.lower) if followed else _heads_whole(pairs)
    changes = {head: change * taken.heads[..., [i]] for i, (head, change) in enumerate(changes.items())}
    return _through_late_mlps(pairs, changes, taken.late_mlps, widely)


def _heads_whole(pairs: Pairs) -> dict[tuple[int, int], torch.Tensor]:
    """How the source's writes of the heads at END differ from the base's, (G, R, D) each."""
    at_end, heads = pairs.layout.at_end, pairs.run.heads
    return {
        (layer, head): _written(pairs, layer, head, pairs.change(at_end(heads[layer])[:, :, head]))
        for layer, head in HEADS
    }


def _heads_followed(pairs: Pairs, taken: torch.Tensor) -> dict[tuple[int, int], torch.Tensor]:
    """How the heads' writes at END change if they read the changes of the lower nodes `taken`, (G, R, D) each."""
    change = sum(each * taken[..., [i]] for i, each in enumerate(_lower_changes(pairs)))
    changes = {}
    for layer, head in HEADS:
        mixed = _mixed_anew(pairs, layer, head, change)
        of_base = pairs.of_base(pairs.layout.at_end(pairs.run.heads[layer])[:, :, head])
        changes[layer, head] = _written(pairs, layer, head, mixed - of_base)
    return changes


def _lower_changes(pairs: Pairs) -> list[torch.Tensor]:
    """How the lower nodes' writes at YY change if they read the source's embedding, (G, R, D) each."""
    at_yy, run = pairs.layout.at_yy, pairs.run
    heads = {head: _written(pairs, 0, head, pairs.change(at_yy(run.heads[0])[:, :, head])) for head in LOWER_HEADS}
    read = pairs.change(at_yy(run.embeds)) + heads[READ_BY_LOWER_MLPS]
    mlps = []
    for layer in LOWER_MLPS:
        mlps.append(_mlp_change(pairs, layer, read, at_yy(run.before_mlps[layer]), at_yy(run.mlps[layer])))
        read = read + mlps[-1]
    return [*heads.values(), *mlps]


def _mixed_anew(pairs: Pairs, layer: int, head: int, change: torch.Tensor) -> torch.Tensor:
    """The values that a head mixes at END, (G, R, W): with the source's queries, and the base's keys and values.

    At YY it reads the base's residual stream with a change (G, R, D).
    """
    run, layout, block = pairs.run, pairs.layout, pairs.model.transformer.h[layer]
    read = block.ln_1(pairs.of_base(layout.at_yy(run.before_heads[layer])) + change)
    _, key, value = block.attn.c_attn(read).unflatten(-1, (3, block.attn.num_heads, -1))[..., head, :].unbind(2)
    keys, values = (
        torch.cat([_repeated(layout.shared(each[:, :, head]), new), new[:, :, None], at_end[:, :, None]], 2)
        for each, new in ((run.keys[layer], key), (run.values[layer], value))
        for at_end in [pairs.of_base(layout.at_end(each[:, :, head]))]
    )  # (G, R, positions, W) each
    query = pairs.of_source(layout.at_end(run.queries[layer])[:, :, head])
    return functional.scaled_dot_product_attention(query[:, :, None], keys, values)[:, :, 0]


def _repeated(shared: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Values (G, positions, W) for each of the R pairs of `new` (G, R, W)."""
    return shared[:, None].expand(-1, new.shape[1], -1, -1)


def _written(pairs: Pairs, layer: int, head: int, mixed: torch.Tensor) -> torch.Tensor:
    """What a head writes for the values that it has mixed, or for a change of them: (G, R, W) to (G, R, D)."""
    width = mixed.shape[-1]
    rows: torch.Tensor = pairs.model.transformer.h[layer].attn.c_proj.weight[head * width : (head + 1) * width]
    return mixed @ rows


def _mlp_change(
    pairs: Pairs, layer: int, read: torch.Tensor, before: torch.Tensor, written: torch.Tensor
) -> torch.Tensor:
    """How an MLP's write changes if what it reads changes, (G, R, D); `before` and `written` are (G, K, D)."""
    block = pairs.model.transformer.h[layer]
    anew: torch.Tensor = block.mlp(block.ln_2(pairs.of_base(before) + read))
    return anew - pairs.of_base(written)


def _through_late_mlps(
    pairs: Pairs, head_changes: Mapping[tuple[int, int], torch.Tensor], taken: torch.Tensor, widely: bool
) -> torch.Tensor:
    """What the logits read, (G, R, D), if the late MLPs read these changes and the logits those of MLPs `taken`."""
    at_end, run = pairs.layout.at_end, pairs.run
    final = pairs.of_base(at_end(run.final)) + (sum(head_changes.values()) if widely else 0)
    from_mlps = torch.zeros_like(final)
    for i, layer in enumerate(LATE_MLPS):
        feeding = [head for head, first in HEADS.items() if first == layer or (widely and first < layer)]
        read = from_mlps + sum(head_changes[head] for head in feeding)
        change = _mlp_change(pairs, layer, read, at_end(run.before_mlps[layer]), at_end(run.mlps[layer]))
        from_mlps = from_mlps + change
        final = final + change * taken[..., [i]]
    return final
