"""Interventions are path patching: checked against an engine, on a random model of twelve layers and heads."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest
import torch
from transformers import GPT2LMHeadModel

from interchange import (
    HEADS,
    LATE_MLPS,
    LOWER_HEADS,
    LOWER_MLPS,
    Layout,
    Pairs,
    Run,
    Taken,
    interchange,
    ordinary_run,
)
from path_patching.circuits import circuit
from path_patching.circuits.circuit import in_order, nodes
from path_patching.circuits.papers_shape import lists_of
from path_patching.engine import Sentences
from path_patching.engine_choice import make_engine
from path_patching.gpt2.model import Architecture, Model, random_model, to_transformers
from path_patching.paths import Node, PathSet, union
from reproduction.paper import PAPER

SIZES = Architecture(n_layers=12, n_heads=12, d_model=24, d_head=2, d_mlp=48, n_positions=8, vocab_size=120)
LAYOUT = Layout(before=3, years=3, between=0, year_between=0)
YY, END = 3, 4
N_SENTENCES = 2
STARTS = torch.tensor([[1, 40, 77], [1, 12, 95]])  # the token at YY
SOURCE, BASE = torch.tensor([[1, 2, 0], [2, 2, 1]]), torch.tensor([[0, 1, 2], [0, 2, 0]])
ALL_HEADS = [f"a{layer}.h{head}" for layer, head in HEADS]
LOWER = [*(f"a0.h{head}" for head in LOWER_HEADS), *(f"m{layer}" for layer in LOWER_MLPS)]
LATE = [f"m{layer}" for layer in LATE_MLPS]


def sentences() -> torch.Tensor:
    """Tokens (G, K, T)."""
    shared = torch.tensor([[100, 101, 102], [100, 103, 104]])
    after = torch.tensor([111])
    rows = [[torch.cat([shared[g], yy[None], after]) for yy in STARTS[g]] for g in range(N_SENTENCES)]
    return torch.stack([torch.stack(each) for each in rows])


@cache
def model() -> tuple[Model, GPT2LMHeadModel]:
    drawn = random_model(SIZES)
    return drawn, to_transformers(drawn)


@cache
def run() -> Run:
    tokens = sentences()
    in_one = torch.cat([tokens[:, 0, :YY], tokens[:, :, YY], tokens[:, :, END]], 1)
    with torch.no_grad():
        return ordinary_run(model()[1], in_one, LAYOUT)


def probabilities(final: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        hf_model = model()[1]
        return hf_model.lm_head(hf_model.transformer.ln_f(final)).double().softmax(-1)[..., :100].flatten(0, 1)


def taken(lower: Sequence[str] = LOWER, heads: Sequence[str] = ALL_HEADS, late: Sequence[str] = LATE) -> Taken:
    stages = ((LOWER, lower), (ALL_HEADS, heads), (LATE, late))
    return Taken(*(torch.tensor([name in some for name in every]).expand(2, 3, -1) for every, some in stages))


def late_half(heads: Sequence[str], late: Sequence[str] = LATE) -> PathSet:
    """The paths from the logits to these heads: through one of the MLPs `late`, and any chain of MLPs below it."""
    chains = PathSet.at(Node.logits(END)).extend(nodes(late, END)).through_chains(nodes(LATE, END))
    fed = {f"m{fed}": [] for fed in HEADS.values()}
    for (layer, head), mlp in HEADS.items():
        fed[f"m{mlp}"] += [Node.head(layer, head, END)] if f"a{layer}.h{head}" in heads else []
    return union(chains.ending_at(nodes([mlp], END)).extend(each) for mlp, each in fed.items() if each)


def full_circuit(lower: Sequence[str]) -> PathSet:
    late = late_half(ALL_HEADS)
    queries = late.extend([Node.residual(position) for position in range(END + 1)], "q")
    below = union(late.extend(nodes(lower, YY), way) for way in ("k", "v"))
    chains = below.through_chains(nodes(lists_of(PAPER)["further_below"], YY))
    return union([queries, chains.extend([Node.embeds(position) for position in range(YY + 1)])])


def isolated(paths: PathSet) -> torch.Tensor:
    """Probabilities of the year tokens with these paths on the source and all else on the base, (G · R, 100)."""
    every, rows = sentences(), torch.arange(N_SENTENCES)[:, None]
    source, base = every[rows, SOURCE].flatten(0, 1), every[rows, BASE].flatten(0, 1)
    return make_engine("torch", "cpu", model()[0], Sentences(source, base, torch.arange(100))).isolate(paths)


def intervened(which: Taken, followed: bool, widely: bool = False) -> torch.Tensor:
    pairs = Pairs(model()[1], run(), LAYOUT, SOURCE, BASE)
    with torch.no_grad():
        return probabilities(interchange(pairs, which, followed, widely))


def test_the_circuit_is_the_paper_s():
    assert in_order(ALL_HEADS) == in_order(PAPER.heads)
    assert in_order(LATE) == in_order(PAPER.mlps)
    assert in_order(LOWER) == PAPER.lower


def test_years_in_one_sequence_are_sentences_of_their_own():
    expected = model()[1](sentences().flatten(0, 1)).logits[:, -1].detach().double().softmax(-1)[:, :100]
    found = probabilities(LAYOUT.at_end(run().final))
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("year", [0, 2])
def test_what_lies_between_sees_one_year(year):
    layout = Layout(before=3, years=3, between=2, year_between=year)
    before, between, end = torch.tensor([100, 101, 102]), torch.tensor([108, 109]), torch.tensor([111])
    in_one = torch.cat([before, STARTS[0], between, end.expand(3)])
    assert layout.positions.tolist() == [0, 1, 2, 3, 3, 3, 4, 5, 6, 6, 6]
    with torch.no_grad():
        run_in_one = ordinary_run(model()[1], in_one[None], layout)
        sentence = torch.cat([before, STARTS[0, year, None], between, end])
        expected = model()[1](sentence[None]).logits[0, -1].double().softmax(-1)[:100]
    assert torch.allclose(probabilities(layout.at_end(run_in_one.final))[year], expected, atol=1e-6)
    seen = layout.mask[layout.positions == 6][year]
    others_yy = [3 + other for other in range(3) if other != year]
    assert not seen[others_yy].any()
    assert seen.sum() == 3 + 1 + 2 + 1


@pytest.mark.parametrize(
    ("heads", "late"),
    [
        (ALL_HEADS, LATE),
        (["a5.h1", "a9.h1"], LATE),
        (["a8.h11"], LATE),
        (ALL_HEADS, ["m10"]),
        (ALL_HEADS, ["m8", "m11"]),
    ],
)
def test_heads_taken_whole_are_the_late_half(heads, late):
    expected = isolated(late_half(heads, late))
    found = intervened(taken(heads=heads, late=late), followed=False)
    assert torch.allclose(found, expected, atol=1e-6)
    assert (expected - isolated(late_half(ALL_HEADS))).abs().max() > 1e-4 or (heads, late) == (ALL_HEADS, LATE)


@pytest.mark.parametrize("lower", [LOWER, ["m0"], ["a0.h3", "m2"], ["a0.h1"]])
def test_heads_followed_are_the_full_circuit(lower):
    found = intervened(taken(lower=lower), followed=True)
    assert torch.allclose(found, isolated(full_circuit(lower)), atol=1e-6)


@pytest.mark.parametrize("followed", [False, True])
def test_heads_that_feed_widely_are_the_published_circuit(followed):
    paths = circuit.full_circuit(PAPER, YY, END) if followed else circuit.late_half(PAPER, END)
    found = intervened(taken(), followed, widely=True)
    assert torch.allclose(found, isolated(paths), atol=1e-6)
    assert (found - intervened(taken(), followed)).abs().max() > 1e-4


def test_nothing_taken_is_the_base():
    of_base = LAYOUT.at_end(run().final)[torch.arange(N_SENTENCES)[:, None], BASE]
    found = intervened(taken(heads=[]), followed=False)
    assert torch.allclose(found, probabilities(of_base), atol=1e-6)


def test_votes_say_how_much_is_the_source_s():
    assert taken().source_share(followed=True).unique().tolist() == [1.0]
    assert taken(lower=[]).source_share(followed=False).unique().tolist() == [1.0]
    assert taken(lower=[]).source_share(followed=True).unique().tolist() == [0.0]
    assert taken(heads=ALL_HEADS[:2]).source_share(followed=True).unique().item() == pytest.approx(2 / 7)
    both = taken(lower=["m0"], late=["m9", "m10"]).source_share(followed=True).unique().item()
    assert both == pytest.approx(4 / 13 * 7 / 11)
