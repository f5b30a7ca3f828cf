"""Other abilities than greater-than, to see whether a circuit serves greater-than alone.

They are century copying (say XX1 again), indirect objects (to whom was it given?) and the number of a verb. Each
sentence has right answers and may have wrong ones. Its twin differs at one token and has another right answer.

    >>> data = indirect_object(tokenizer, n=100)
    >>> data.good_sentences[0]
    '<|endoftext|> ... and ... the ..., ... a ... to'
    >>> data.signs.shape  # which of 40 names is right (1) and which is wrong (−1)
    torch.Size([100, 40])
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd
import torch

from dataset import CACHE, YearDataset, check_count
from path_patching.bootstrap import Clusters
from path_patching.errors import UserError
from path_patching.files import lines_of
from path_patching.gpt2.tokenizer import EOS, Tokenizer
from path_patching.sweeps import Metric
from reproduction.evaluations import DRAWN, clusters_of
from tasks.other_twins import check_differing, with_twins

# fmt: off
PLACES = (
    "store", "park", "school", "office", "garden", "station", "kitchen", "library", "museum", "hospital", "beach",
)
THINGS = ("book", "key", "ball", "letter", "ring", "drink", "cup", "map", "gift", "ticket", "box", "camera")
OPENINGS, ARRIVALS = ("When", "After", "While", "Once"), ("went to", "came to", "met at")
GIFTS = ("gave", "handed", "sent")
SINGULAR, PLURAL = ("is", "was", "has"), ("are", "were", "have")
REMARKS = ("mentioned", "described", "shown", "seen", "chosen", "found")
PLACED = ("above", "here", "there", "today", "nearby")
# fmt: on
NAMES_FILE, SUBJECTS_FILE = CACHE / "names.txt", CACHE / "subjects.txt"


@dataclass(frozen=True, eq=False)
class AbilityDataset:
    """N sentences that ask for another ability than greater-than, and their twins; T tokens each.

    A twin differs at one token and has another right answer. The metric is the probability of a sentence's right
    answers minus that of its wrong ones. Raises `UserError` for twins that differ elsewhere, or not at all.
    """

    name: str
    good_toks: torch.Tensor
    """Token ids of the clean sentences, int64 (N, T)."""
    bad_toks: torch.Tensor
    """Token ids of the corrupted sentences, int64 (N, T)."""
    good_sentences: tuple[str, ...]
    bad_sentences: tuple[str, ...]
    yy_position: int
    """The only position at which clean and corrupted sentences differ; it is what YY is for year spans."""
    answers: torch.Tensor
    """The tokens whose probabilities are wanted, int64 (A,)."""
    signs: torch.Tensor
    """1 for the right answers of each clean sentence, −1 for its wrong ones, 0 for others, float64 (N, A)."""
    drawn: pd.DataFrame
    """What was drawn for each sentence, a row each."""

    def __post_init__(self) -> None:
        shape = (len(self.good_toks), len(self.answers))
        if self.signs.shape != shape or not (self.signs > 0).any(1).all() or len(self.answers.unique()) != shape[1]:
            raise UserError(
                f"{self.name}: each of {shape[0]} sentences needs a right one among {shape[1]} other answers"
            )
        check_differing(self, [self.yy_position])

    @property
    def end(self) -> int:
        """Position of END, the last token, after which the answer is predicted."""
        return self.good_toks.shape[1] - 1

    @property
    def metric(self) -> Metric:
        """The probability of the right answers minus that of the wrong ones, (N, A) to (N,) in [-1, 1]."""
        return partial(_right_minus_wrong, signs=self.signs)

    @property
    def log_odds(self) -> Metric:
        """ln of the odds of the right answers against all else, (N, A) to (N,) in nats.

        It is for finding circuits: where a model is nearly certain, its probabilities hide what each node does.
        """
        return partial(_log_odds, signs=self.signs)

    @property
    def clusters(self) -> Clusters:
        """The groups of sentences that intervals draw again, int64 (N,) each."""
        return clusters_of(self.drawn, map(str, self.drawn))

    def as_table(self) -> pd.DataFrame:
        """What tells the sentences apart, a row each."""
        return self.drawn

    def first(self, count: int) -> AbilityDataset:
        """The first `count` sentences, for what takes many evaluations."""
        return replace(
            self,
            good_toks=self.good_toks[:count],
            bad_toks=self.bad_toks[:count],
            good_sentences=self.good_sentences[:count],
            bad_sentences=self.bad_sentences[:count],
            signs=self.signs[:count],
            drawn=self.drawn.iloc[:count],
        )


def _right_minus_wrong(probabilities: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
    return (probabilities * signs.to(probabilities)).sum(-1)


def _log_odds(probabilities: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
    right = (probabilities * (signs > 0).to(probabilities)).sum(-1)
    return right.logit(eps=torch.finfo(right.dtype).eps)


def century_copying(
    dataset: YearDataset, years: Sequence[int] | torch.Tensor, tokenizer: Tokenizer, seed: int = 0
) -> AbilityDataset:
    """Is XX1 said again? These are the year spans up to before XX2; twins have another century.

    The answer is XX1. The twins' years are drawn from `years`, with the same YY. Raises `UserError` like `with_twins`.
    """
    twins = with_twins(dataset, "another century", years, tokenizer, seed)
    centuries = sorted({int(year) // 100 for year in [*years, *dataset.years]})
    answers = torch.tensor([_one_token(str(century), tokenizer) for century in centuries])
    return AbilityDataset(
        "century copying",
        twins.good_toks[:, : dataset.end],
        twins.bad_toks[:, : dataset.end],
        tuple(map(_without_last_word, twins.good_sentences)),
        tuple(map(_without_last_word, twins.bad_sentences)),
        dataset.xx1,
        answers,
        (dataset.years_XX[:, None] == torch.tensor(centuries)).double(),
        dataset.as_table()[[*DRAWN]],
    )


def indirect_object(tokenizer: Tokenizer, n: int, seed: int = 0) -> AbilityDataset:
    """To whom was it given? `When Mary and John went to the park, John gave a book to`: Mary, not John.

    A twin has the other name as the giver. Names (`cache/names.txt`) and words are drawn from `seed`. Raises
    `UserError` for n < 1 and names that are not one token.
    """
    check_count(n)
    rng, names = random.Random(seed), lines_of(NAMES_FILE, "name")
    drawn, sentences = [], []
    for _ in range(n):
        right, wrong = rng.sample(names, 2)
        first, second = rng.sample((right, wrong), 2)
        opening, arrival, place, gift, thing = map(rng.choice, (OPENINGS, ARRIVALS, PLACES, GIFTS, THINGS))
        before, after = f"{EOS} {opening} {first} and {second} {arrival} the {place},", f"{gift} a {thing} to"
        sentences.append([f"{before} {giver} {after}" for giver in (wrong, right)])
        drawn.append((right, wrong))
    signs = torch.zeros(n, len(names), dtype=torch.float64)
    for row, (right, wrong) in zip(signs, drawn, strict=True):
        row[names.index(right)], row[names.index(wrong)] = 1, -1
    table = pd.DataFrame(drawn, columns=["name", "giver"])
    return _ability("indirect object", sentences, names, signs, table, tokenizer)


def subject_verb_number(tokenizer: Tokenizer, n: int, seed: int = 0) -> AbilityDataset:
    """One or several? `The dogs mentioned above`: are, were or have, not is, was or has; no other noun stands between.

    A twin has the subject in the other number. Subjects (`cache/subjects.txt`) and words are drawn from `seed`, half of
    the subjects in the plural. Raises `UserError` for n < 1 and words that are not one token.
    """
    check_count(n)
    rng, subjects = random.Random(seed), [line.split() for line in lines_of(SUBJECTS_FILE, "subject")]
    drawn, sentences = [], []
    for row in range(n):
        numbers = rng.choice(subjects)
        remark = f"{rng.choice(REMARKS)} {rng.choice(PLACED)}"
        twins = numbers if row % 2 == 0 else reversed(numbers)
        sentences.append([f"{EOS} The {subject} {remark}" for subject in twins])
        drawn.append((numbers[0], remark))
    of_singular = torch.tensor([1.0] * len(SINGULAR) + [-1.0] * len(PLURAL), dtype=torch.float64)
    signs = torch.stack([of_singular if row % 2 == 0 else -of_singular for row in range(n)])
    table = pd.DataFrame(drawn, columns=["subject", "remark"])
    return _ability("subject–verb number", sentences, (*SINGULAR, *PLURAL), signs, table, tokenizer)


def _ability(
    name: str,
    sentences: Sequence[Sequence[str]],
    answers: Sequence[str],
    signs: torch.Tensor,
    drawn: pd.DataFrame,
    tokenizer: Tokenizer,
) -> AbilityDataset:
    """The data set of pairs of a clean and a corrupted sentence; the first pair says where they differ."""
    good_sentences, bad_sentences = zip(*sentences, strict=True)
    good_toks, bad_toks = (_of_one_length(texts, tokenizer) for texts in (good_sentences, bad_sentences))
    if good_toks.shape != bad_toks.shape:
        raise UserError(f"{name}: sentences and twins differ in length; choose words that are one token each")
    ids = torch.tensor([_one_token(answer, tokenizer) for answer in answers])
    yy_position = int((good_toks[0] != bad_toks[0]).int().argmax())
    return AbilityDataset(name, good_toks, bad_toks, good_sentences, bad_sentences, yy_position, ids, signs, drawn)


def _of_one_length(sentences: Sequence[str], tokenizer: Tokenizer) -> torch.Tensor:
    """Token ids (N, T). `UserError` names the first sentence that is not as long as the first one."""
    rows = tokenizer(list(sentences))["input_ids"]
    for sentence, row in zip(sentences, rows, strict=True):
        if len(row) != len(rows[0]):
            raise UserError(f"{sentence!r} is {len(row)} tokens, not {len(rows[0])}; choose words of one token each")
    return torch.tensor(rows)


def _one_token(word: str, tokenizer: Tokenizer) -> int:
    """The token of a word with its leading space. Raises `UserError` if it is not one."""
    tokens: list[int] = tokenizer(f" {word}").input_ids
    if len(tokens) != 1:
        raise UserError(f"{word!r} is not one token to GPT-2; choose another")
    return tokens[0]


def _without_last_word(sentence: str) -> str:
    return sentence.rpartition(" ")[0]
