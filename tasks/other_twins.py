"""Year spans with other twins than the "01" ones: does a circuit depend on what its sentences are compared with?

Each kind of twin differs from its sentence in one thing and asks another question:

- `another YY`, in the same century: does it matter which year YY is?
- `another century`, in both places, with the same YY: a control. In any century the years above YY are the valid ones,
  so these twins should not find the circuit.
- `another noun`: a control too.

    >>> from dataset import NOUNS_FILE, YearDataset, get_valid_years
    >>> years = get_valid_years(tokenizer)
    >>> spans = YearDataset(years, 97, NOUNS_FILE, tokenizer)
    >>> twins = with_twins(spans, "another century", years, tokenizer)
    >>> twins.good_sentences[0], twins.bad_sentences[0]
    ('<|endoftext|> The ... from the year ...02 to the year ...', '<|endoftext|> The ... from the year ...02 to ...')
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from copy import copy
from typing import Literal, TypeVar

import torch

from dataset import YearDataset, as_years, sentence_of, tokens_of
from path_patching.errors import UserError, shortened
from path_patching.gpt2.tokenizer import EOS, Tokenizer
from utils import PairedSentences

Counterfactual = Literal["another YY", "another century", "another noun"]
CHANGED: dict[Counterfactual, tuple[str, ...]] = {  # which positions of the prompt differ in each kind of twin
    "another YY": ("YY",),
    "another century": ("XX1", "XX2"),
    "another noun": ("NOUN",),
}
Word = TypeVar("Word", str, int)  # a noun or a year


def with_twins(
    dataset: YearDataset,
    counterfactual: Counterfactual,
    years: Sequence[int] | torch.Tensor,
    tokenizer: Tokenizer,
    seed: int = 0,
) -> YearDataset:
    """The same clean sentences with twins of another kind.

    They are drawn from `seed`: another YY or century from `years`, another noun from the other sentences. Raises
    `UserError` for an unknown kind, for a sentence without another YY, century or noun, and for twins that do not
    differ exactly where they should.
    """
    if not isinstance(dataset, YearDataset) or counterfactual not in [*CHANGED]:
        raise UserError(
            f"{shortened(repr(counterfactual))} is no kind of other twins for a YearDataset; kinds are "
            f"{', '.join(CHANGED)}, and a YearDataset has the 01 twins by itself"
        )
    other, changed = copy(dataset), CHANGED[counterfactual]
    drawn = _others(
        counterfactual, dataset.nouns, dataset.years.tolist(), years, random.Random(f"{counterfactual} {seed}")
    )
    other.bad_sentences = tuple(sentence_of(noun, year, dataset.good_prompt[0] == EOS) for noun, year in drawn)
    other.bad_toks = tokens_of(other.bad_sentences, dataset.good_prompt, tokenizer)
    other.bad_prompt = tuple(f"another {name}" if name in changed else name for name in dataset.good_prompt)
    check_differing(other, [dataset.good_prompt.index(name) for name in changed])
    return other


def check_differing(data: PairedSentences, places: Sequence[int]) -> None:
    """Raise `UserError` unless each sentence differs from its twin at all of these positions, and at no other."""
    expected = torch.zeros(data.good_toks.shape[1], dtype=torch.bool)
    expected[places] = True
    wrong = ((data.good_toks != data.bad_toks) != expected).any(1)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise UserError(
            f"{data.good_sentences[row]!r} and its twin {data.bad_sentences[row]!r} should differ at token "
            f"{', '.join(map(str, places))} and nowhere else; choose words that are one token each"
        )


def _others(
    counterfactual: Counterfactual,
    nouns: Sequence[str],
    of_sentences: Sequence[int],
    years: Sequence[int] | torch.Tensor,
    rng: random.Random,
) -> list[tuple[str, int]]:
    """Noun and year of each sentence's twin."""
    if counterfactual == "another noun":
        every = sorted(set(nouns))
        return [(_another(noun, every, rng), year) for noun, year in zip(nouns, of_sentences, strict=True)]

    def kept(year: int) -> int:
        return year // 100 if counterfactual == "another YY" else year % 100

    alike: dict[int, list[int]] = defaultdict(list)
    for year in as_years(years):
        alike[kept(year)].append(year)
    return [(noun, _another(year, alike[kept(year)], rng)) for noun, year in zip(nouns, of_sentences, strict=True)]


def _another(one: Word, choices: Sequence[Word], rng: random.Random) -> Word:
    """One of the choices that is not `one`. Raises `UserError` if there is none."""
    others = [choice for choice in choices if choice != one]
    if not others:
        raise UserError(
            f"there is no twin for a sentence of {one}: no other of its kind is given; give more to draw from"
        )
    return rng.choice(others)
