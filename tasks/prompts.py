"""The ten prompts of the paper's section 5: does the model do greater-than in other sentences too?

Each prompt is a task, with one sentence for each YY from 02 to 98. Each sentence has a twin that differs at YY alone:
its YY is 01, or 99 if earlier end years are the valid ones.

    >>> data = build(TASKS[5], tokenizer)
    >>> data.good_sentences[0], data.bad_sentences[0]
    ('<|endoftext|> 1702 is smaller than 17', '<|endoftext|> 1701 is smaller than 17')
    >>> data.yy_position, data.end
    (2, 6)
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from dataset import COLLATED_YY, FIRST_YY, ValidYears, get_valid_years, load_nouns, year_indices
from path_patching.errors import UserError
from path_patching.gpt2.tokenizer import EOS, Tokenizer

# fmt: off
ITEMS = (
    "gem", "necklace", "watch", "ring", "suitcase", "scarf", "suit", "shirt", "sweater", "dress", "fridge", "TV", "bed",
    "bike", "lamp", "table", "chair", "painting", "sculpture", "plant",
)
# fmt: on
PLACEHOLDERS = {
    "noun": "NOUN",
    "item": "ITEM",
    "progression": "17YY−4d, 17YY−3d, 17YY−2d, 17YY−d",
    "century": "XX",
    "earlier": "XXY1, XXY2, XXY3, XXY4",
    "yy": "YY",
}


@dataclass(frozen=True)
class Task:
    """A prompt: its template, which end years are valid, and the YY of the corrupted twins."""

    number: int
    template: str
    """The sentence without `<|endoftext|>`; `{yy}` and the other `PLACEHOLDERS` stand for what changes."""
    valid: ValidYears = "greater"
    corrupted_yy: int = 1
    left_out: tuple[int, ...] = ()
    """The YYs from 02 to 98 whose sentences GPT-2 splits into other tokens."""

    @property
    def prompt(self) -> str:
        """The template in words: `17YY is smaller than 17`."""
        return self.template.format_map(PLACEHOLDERS)


TASKS = (
    Task(0, "The {noun} started in the year 17{yy} and ended in the year 17"),
    Task(1, "The {noun} happened in 17{yy}. Some years later, it is now the year 17"),
    Task(2, "1599, 1607, 1633, 1679, 17{yy}, 17"),
    Task(3, "1799, 1753, 1733, 1701, 16{yy}, 16", valid="less", corrupted_yy=99),
    Task(4, "{progression}, 17{yy}, 17"),
    Task(5, "17{yy} is smaller than 17"),
    Task(6, "The {noun} ended in the year 17{yy} and started in the year 17", valid="less", corrupted_yy=99),
    Task(
        7,
        "The {noun} lasted from the year 7{yy} BC to the year 7",
        valid="less",
        corrupted_yy=99,
        left_out=(2, 20, 37, 47, 50, 60, 68, 70, 77, 80),
    ),
    Task(8, "The price of that {item} ranges from $ 17{yy} to $ 17"),
    Task(9, "{earlier}, {century}{yy}, {century}"),
)


@dataclass(frozen=True, eq=False)
class TaskDataset:
    """The N sentences of a task, one for each YY that it does not leave out, and their twins; T tokens each."""

    task: Task
    good_toks: torch.Tensor
    """Token ids of the clean sentences, int64 (N, T)."""
    bad_toks: torch.Tensor
    """Token ids of the corrupted sentences, int64 (N, T)."""
    years_YY: torch.Tensor  # noqa: N815
    """YY of each clean sentence, int64 (N,), ascending."""
    good_sentences: tuple[str, ...]
    bad_sentences: tuple[str, ...]
    yy_position: int
    """Position of YY, the only one at which clean and corrupted sentences differ."""

    @property
    def answers(self) -> torch.Tensor:
        """The tokens whose probabilities are wanted, "00" ... "99", int64 (100,)."""
        return year_indices()

    @property
    def end(self) -> int:
        """Position of END, the last token (the century), where the end year is predicted."""
        return self.good_toks.shape[1] - 1

    def as_table(self) -> pd.DataFrame:
        """What tells the sentences apart, a row each: `YY`."""
        return pd.DataFrame({"YY": self.years_YY.numpy()})

    def rows(self, values: torch.Tensor) -> torch.Tensor:
        """A floating-point quantity of each sentence in the rows YY = 02 … 98: (N, ...) to (97, ...).

        Rows of YYs that the task leaves out are NaN.
        """
        rows = values.new_full((len(COLLATED_YY), *values.shape[1:]), torch.nan)
        rows[self.years_YY - FIRST_YY] = values
        return rows


def build(task: Task, tokenizer: Tokenizer, seed: int = 0) -> TaskDataset:
    """The sentences of a task, with nouns and years drawn from `seed`; the same seed gives the same sentences.

    Raises `UserError` if a sentence differs from its twin elsewhere than at YY, if one that is left out does not, or if
    the sentences differ in length.
    """
    twins = {yy: _twins(task, yy, words) for yy, words in _words(tokenizer, seed).items()}
    tokens = {yy: tokenizer(list(pair))["input_ids"] for yy, pair in twins.items()}
    year_ids = year_indices().tolist()
    corrupted_id = year_ids[task.corrupted_yy]
    found = {yy: _where_yy_is(tokens[yy][0], tokens[yy][1], year_ids[yy], corrupted_id) for yy in COLLATED_YY}
    places = {yy: place for yy, place in found.items() if place is not None}
    kept = list(places)
    for yy in COLLATED_YY:
        if (yy in kept) == (yy in task.left_out):
            complaint = "differ at YY alone; take it in" if yy in kept else "differ elsewhere than at YY; leave it out"
            raise UserError(f"task {task.number}: {twins[yy][0]!r} and {twins[yy][1]!r} {complaint}")
    if len({(len(tokens[yy][0]), places[yy]) for yy in kept}) != 1:
        raise UserError(f"task {task.number}: its sentences differ in length; choose words of one token each")
    good_toks, bad_toks = torch.tensor([tokens[yy] for yy in kept]).unbind(1)
    good_sentences, bad_sentences = zip(*(twins[yy] for yy in kept), strict=True)
    return TaskDataset(task, good_toks, bad_toks, torch.tensor(kept), good_sentences, bad_sentences, places[kept[0]])


def progression(yy: int) -> tuple[int, ...]:
    """The four years before 17YY in an arithmetic progression.

    The step is the smallest above one that does not divide YY. So no term is 1700, which GPT-2 reads as one token.
    """
    step = next(step for step in range(2, 100) if yy % step)
    return tuple(1700 + yy - step * back for back in (4, 3, 2, 1))


def _words(tokenizer: Tokenizer, seed: int) -> dict[int, dict[str, str]]:
    """For each YY, what fills the templates' placeholders except `{yy}`; tasks with the same placeholder share it.

    Years are drawn from the 694 that have a twin, also with the published choices.
    """
    rng = random.Random(seed)
    nouns, years = load_nouns(), get_valid_years(tokenizer).tolist()
    words = {}
    for index, yy in enumerate(COLLATED_YY):
        year = rng.choice([year for year in years if year % 100 == yy])
        beside = [other for other in years if other // 100 == year // 100 and other != year]
        words[yy] = {
            "noun": rng.choice(nouns),
            "item": ITEMS[index % len(ITEMS)],
            "progression": ", ".join(map(str, progression(yy))),
            "century": str(year // 100),
            "earlier": ", ".join(map(str, rng.sample(beside, 4))),
        }
    return words


def _twins(task: Task, yy: int, words: dict[str, str]) -> tuple[str, str]:
    """The clean and the corrupted sentence of a YY."""
    clean, corrupted = (task.template.format(**words, yy=f"{number:02d}") for number in (yy, task.corrupted_yy))
    return f"{EOS} {clean}", f"{EOS} {corrupted}"


def _where_yy_is(clean: Sequence[int], corrupted: Sequence[int], yy_token: int, corrupted_token: int) -> int | None:
    """The position at which a sentence and its twin have these tokens; None if they differ elsewhere."""
    if len(clean) != len(corrupted):
        return None
    differing = {place: both for place, both in enumerate(zip(clean, corrupted, strict=True)) if both[0] != both[1]}
    return next(iter(differing)) if list(differing.values()) == [(yy_token, corrupted_token)] else None
