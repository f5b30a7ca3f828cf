"""Year-span sentences and their corrupted ("01") twins (paper, sections 2.1 and 3.1).

    <|endoftext|> The NOUN lasted from the year XXYY to the year XX

A corrupted sentence is the same with YY replaced by 01. The published code takes the years of century 10 as well, where
GPT-2 reads " 1001" as [" 100", "1"]: its twins differ at XX1 too and carry no "01". Here such years are left out, and
every data set is checked to differ at YY alone, unless `as_published` asks for the release's choice.

    >>> dataset = YearDataset(get_valid_years(tokenizer), 97, NOUNS_FILE, tokenizer)
    >>> dataset.good_sentences[0], dataset.bad_sentences[0]
    ('<|endoftext|> The ... lasted from the year ...02 to the year ...', '<|endoftext|> The ...01 to the year ...')
    >>> dataset.good_prompt[dataset.yy], dataset.end  # END is the last position
    ('YY', 12)
    >>> dataset.with_twins("another noun", [], tokenizer).bad_prompt[2]  # other counterfactuals, as controls
    'another NOUN'
    >>> build(TASKS[5], tokenizer).good_sentences[0]  # the ten prompts of section 5
    '<|endoftext|> 1702 is smaller than 17'
    >>> indirect_object(tokenizer, n=100).good_sentences[0]  # another ability, to see what the circuit is specific to
    '<|endoftext|> ... and ... the ..., ... a ... to'
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import pandas as pd
import torch

from path_patching.bootstrap import Clusters
from path_patching.errors import UserError, first_line
from path_patching.files import reading, regular
from path_patching.gpt2.tokenizer import CACHE, EOS, load_vocabulary, token_texts
from path_patching.sweeps import Metric

if TYPE_CHECKING:
    from transformers import GPT2Tokenizer

YEAR_TOKEN_IDS_FILE = CACHE / "logit_indices.pt"
YEARS = tuple(f"{yy:02d}" for yy in range(100))


def find_year_token_ids(tokenizer: GPT2Tokenizer) -> torch.Tensor:
    """Token ids of "00" ... "99" without a leading space, int64 (100,)."""
    return torch.tensor([tokenizer.convert_tokens_to_ids(year) for year in YEARS])


DRAWN = ("noun", "YY")  # of which year spans are made, each time that a noun or a YY is drawn


def clusters_of(sentences: pd.DataFrame, drawn: Iterable[str] = DRAWN) -> Clusters:
    """What sentences were made of, numbered, int64 (N,) for each column that they have: intervals draw these again."""
    return [torch.tensor(pd.factorize(sentences[name])[0]) for name in drawn if name in sentences]


ValidYears = Literal["greater", "less"]
FIRST_YY, LAST_YY = 2, 98
COLLATED_YY = tuple(range(FIRST_YY, LAST_YY + 1))


NOUNS_FILE = CACHE / "potential_nouns.txt"
PROMPT = (EOS, "The", "NOUN", "lasted", "from", "the", "year", "XX1", "YY", "to", "the", "year", "XX2")
CORRUPTED_YY = 1
TOKENIZED_AT_ONCE = 1_000  # sentences, of which the tokenizer keeps more than their tokens
TRAPPED_CENTURY = 10  # " 1001" is [" 100", "1"]


Counterfactual = Literal["01", "another YY", "another century", "another noun"]
CHANGED: dict[Counterfactual, tuple[str, ...]] = {  # by the twins of each, as their prompt names it
    "01": ("YY",),
    "another YY": ("YY",),
    "another century": ("XX1", "XX2"),
    "another noun": ("NOUN",),
}


Word = TypeVar("Word", str, int)  # a noun, a name or a year


class YearDataset:
    """N clean and N corrupted year-span sentences; T is 13 positions, 12 without `<|endoftext|>`.

    Example: `YearDataset(get_valid_years(tokenizer), 490, NOUNS_FILE, tokenizer, seed=0)`.
    """

    good_toks: torch.Tensor
    """Token ids of the clean sentences, int64 (N, T)."""
    bad_toks: torch.Tensor
    """Token ids of the corrupted sentences, int64 (N, T)."""
    years: torch.Tensor
    """Start year of each sentence, int64 (N,)."""
    years_XX: torch.Tensor  # noqa: N815
    """Its century, int64 (N,)."""
    years_YY: torch.Tensor  # noqa: N815
    """Its year within the century, int64 (N,)."""
    nouns: tuple[str, ...]
    """Noun of each sentence."""
    good_sentences: tuple[str, ...]
    bad_sentences: tuple[str, ...]
    good_prompt: tuple[str, ...]
    """Name of each position of a clean sentence, T of them."""
    bad_prompt: tuple[str, ...]
    """The same of a corrupted one."""

    def __init__(
        self,
        years: Sequence[int] | torch.Tensor,
        n: int,
        nouns: str | Sequence[str] | Path,
        tokenizer: GPT2Tokenizer,
        balanced: bool = True,
        eos: bool = True,
        seed: int = 0,
        as_published: bool = False,
    ) -> None:
        """Draw `n` sentences.

        Args:
            years: start years to draw from, as `get_valid_years` gives them.
            n: how many sentences, N.
            nouns: one noun, several, or a file with one a line; each must be one token with its leading space.
            tokenizer: GPT-2's.
            balanced: walk YY through 2 ... 98 again and again, drawing a year of that YY and a noun; else draw years
                uniformly.
            eos: begin each sentence with `<|endoftext|>`.
            seed: of every draw; the same seed gives the same sentences.
            as_published: let the twins of century 10 differ at XX1 as well, as in the published code.

        Raises:
            UserError: N < 1, no years, no or unknown or multi-token nouns, a YY without a year while balanced, or
                sentences whose tokens do not fit the prompt, or differ from their twins nowhere or elsewhere than at
                YY.
        """
        _check_count(n)
        candidates = [int(year) for year in years]
        if not candidates:
            raise UserError("there are no valid years to draw from; see dataset.get_valid_years")
        noun_choices = _one_token_nouns(nouns, tokenizer)
        rng = random.Random(seed)
        drawn = _walk_through_yy(candidates, n, rng) if balanced else (rng.choice(candidates) for _ in range(n))
        pairs = [(year, rng.choice(noun_choices)) for year in drawn]
        good_sentences = tuple(_sentence(noun, year, eos) for year, noun in pairs)
        bad_sentences = tuple(_sentence(noun, year - year % 100 + CORRUPTED_YY, eos) for year, noun in pairs)
        prompt = PROMPT if eos else PROMPT[1:]
        good_toks = _tokens(good_sentences, prompt, tokenizer)
        bad_toks = _tokens(bad_sentences, prompt, tokenizer)
        drawn_years = torch.tensor([year for year, _ in pairs])
        _check_twins(good_toks, bad_toks, drawn_years, prompt, tokenizer, as_published)
        self.good_toks, self.bad_toks = good_toks, bad_toks
        self.good_sentences, self.bad_sentences = good_sentences, bad_sentences
        self.good_prompt = prompt
        self.bad_prompt = tuple("01" if name == "YY" else name for name in prompt)
        self.years, self.years_XX, self.years_YY = drawn_years, drawn_years // 100, drawn_years % 100
        self.nouns = tuple(noun for _, noun in pairs)

    def with_twins(
        self,
        counterfactual: Counterfactual,
        years: Sequence[int] | torch.Tensor,
        tokenizer: GPT2Tokenizer,
        seed: int = 0,
    ) -> YearDataset:
        """The same clean sentences with other twins, which differ from them in one thing; what each asks is:

        - `01`, the paper's: does it matter that YY is not the first year, after which every year is valid?
        - `another YY`, of `years` in the same century: does it matter which year YY is?
        - `another century`, of `years` with the same YY, in both places where it stands: a control, since years are
          greater than YY in any century, so the circuit should not be found by it.
        - `another noun`, of another of these sentences: a control likewise.

        Drawn from `seed`. Raises `UserError` for a sentence that has no other of its kind, and twins that differ
        elsewhere than where they should, or not there.
        """
        if counterfactual == "01":
            return self
        other, changed = copy(self), CHANGED[counterfactual]
        drawn = _others(
            counterfactual, self.nouns, self.years.tolist(), years, random.Random(f"{counterfactual} {seed}")
        )
        other.bad_sentences = tuple(_sentence(noun, year, self.good_prompt[0] == EOS) for noun, year in drawn)
        other.bad_toks = _tokens(other.bad_sentences, self.good_prompt, tokenizer)
        other.bad_prompt = tuple(f"another {name}" if name in changed else name for name in self.good_prompt)
        _check_differing(other, [self.good_prompt.index(name) for name in changed])
        return other

    @property
    def answers(self) -> torch.Tensor:
        """The tokens whose probabilities are wanted, "00" ... "99", int64 (100,)."""
        return year_indices()

    @property
    def N(self) -> int:  # noqa: N802
        """The number of sentences."""
        return len(self)

    def __len__(self) -> int:
        return len(self.good_sentences)

    def __repr__(self) -> str:
        return f"YearDataset({len(self)} sentences like {self.good_sentences[0]!r})"

    def as_artifact(self) -> dict[str, object]:
        """What `dataset.pt` holds: `good_toks` and `bad_toks` (N, T), `years` (N,), `nouns`."""
        return {"good_toks": self.good_toks, "bad_toks": self.bad_toks, "years": self.years, "nouns": list(self.nouns)}

    def as_table(self) -> pd.DataFrame:
        """What is drawn in each sentence, a row each: `noun`, `year`, `century`, `YY`."""
        numbers = {"year": self.years, "century": self.years_XX, "YY": self.years_YY}
        return pd.DataFrame({"noun": self.nouns, **{name: values.numpy() for name, values in numbers.items()}})

    @property
    def xx1(self) -> int:
        """Position of the first century token."""
        return self.good_prompt.index("XX1")

    @property
    def yy(self) -> int:
        """Position of YY, the only one at which clean and corrupted sentences differ."""
        return self.good_prompt.index("YY")

    @property
    def end(self) -> int:
        """Position of END, the last token (XX2), where the end year is predicted."""
        return self.good_prompt.index("XX2")


def get_valid_years(
    tokenizer: GPT2Tokenizer, start: int = 1000, stop: int = 1900, as_published: bool = False
) -> torch.Tensor:
    """Years of [start, stop) that can stand in a sentence, ascending, int64 (number of years,).

    A year is a candidate when " XXYY" is two tokens, the second of two digits; the first and last candidate of each
    century are dropped, since no YY lies below or above them. By default a year also needs a twin, " XX01" being
    [" XX", "01"] (694 years); `as_published` keeps the release's 768.
    """
    candidates = [year for year in range(start, stop) if _splits_into_xx_and_yy(year, tokenizer)]
    centuries: dict[int, list[int]] = defaultdict(list)
    for year in candidates:
        centuries[year // 100].append(year)
    kept = [
        year
        for century, years in centuries.items()
        if as_published or _splits_into_xx_and_yy(100 * century + CORRUPTED_YY, tokenizer)
        for year in years[1:-1]
    ]
    return torch.tensor(kept, dtype=torch.int64)


def load_nouns(path: Path = NOUNS_FILE) -> tuple[str, ...]:
    """The nouns of a file, one a line. Raises UserError if the file is missing or holds none."""
    return _lines(path, "noun")


def _lines(path: Path, what: str) -> tuple[str, ...]:
    """What a file has on each line, a `what`. Raises UserError if the file is missing or holds none."""
    try:
        text = regular(Path(path)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read {what}s from {path} ({first_line(error)}); give a text file, one a line"
        ) from None
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not lines:
        raise UserError(f"{path} holds no {what}; give a text file with one a line")
    return lines


def year_indices(path: Path = YEAR_TOKEN_IDS_FILE) -> torch.Tensor:
    """Token ids of "00" ... "99", int64 (100,), from `cache/logit_indices.pt`.

    Raises UserError if the file is missing, damaged, or says otherwise than the tokenizer's vocabulary.
    """
    mend = "restore it with `git checkout -- cache/logit_indices.pt`"
    with reading(path, mend):
        try:
            ids = torch.load(path, weights_only=True)
        except OSError:
            raise
        except Exception as error:  # a damaged file can break any part of the reader
            raise UserError(f"{path} is damaged ({first_line(error)}); {mend}") from None
    if not isinstance(ids, torch.Tensor) or ids.shape != (100,) or ids.dtype != torch.int64:
        raise UserError(f"{path} does not hold 100 int64 token ids; {mend}")
    for year, found, expected in zip(YEARS, ids.tolist(), _year_ids(), strict=True):
        if found != expected:
            raise UserError(f"{path} has {found} as the token of {year!r}, which is {expected}; {mend}")
    return ids


@cache
def _year_ids() -> tuple[int, ...]:
    vocabulary = load_vocabulary()
    return tuple(vocabulary[year] for year in YEARS)


def _check_count(n: int) -> None:
    if n < 1:
        raise UserError(f"a data set needs at least one sentence, not N = {n}")


def _splits_into_xx_and_yy(year: int, tokenizer: GPT2Tokenizer) -> bool:
    tokens = tokenizer.tokenize(f" {year}")
    return len(tokens) == 2 and tokens[1] == f"{year % 100:02d}"


def _one_token_nouns(nouns: str | Sequence[str] | Path, tokenizer: GPT2Tokenizer) -> tuple[str, ...]:
    choices = _as_nouns(nouns)
    for noun in choices:
        pieces = tokenizer.tokenize(f" {noun}") if noun else []
        if len(pieces) != 1:
            raise UserError(f"the noun {noun!r} is {len(pieces)} tokens to GPT-2; choose nouns that are a single token")
    return choices


def _as_nouns(nouns: str | Sequence[str] | Path) -> tuple[str, ...]:
    if isinstance(nouns, str):
        return (nouns,)
    if isinstance(nouns, Path):
        return load_nouns(nouns)
    if not isinstance(nouns, (list, tuple)) or not all(isinstance(noun, str) for noun in nouns):
        raise UserError(f"nouns must be a string, a list of strings or a pathlib.Path, not {nouns!r}")
    if not nouns:
        raise UserError("the list of nouns is empty; give at least one")
    return tuple(nouns)


def _walk_through_yy(candidates: Sequence[int], n: int, rng: random.Random) -> list[int]:
    """N years whose YY run through 2 ... 98 again and again."""
    years_of: dict[int, list[int]] = defaultdict(list)
    for year in candidates:
        years_of[year % 100].append(year)
    walk = [COLLATED_YY[i % len(COLLATED_YY)] for i in range(n)]
    missing = sorted(set(walk) - set(years_of))
    if missing:
        raise UserError(
            f"a balanced data set needs a valid year for YY = {missing[0]:02d}; widen the years or unbalance"
        )
    return [rng.choice(years_of[yy]) for yy in walk]


def _sentence(noun: str, year: int, eos: bool) -> str:
    return f"{EOS if eos else ''} The {noun} lasted from the year {year} to the year {year // 100}"


def _tokens(sentences: Sequence[str], prompt: Sequence[str], tokenizer: GPT2Tokenizer) -> torch.Tensor:
    """Token ids (N, T); UserError names the first sentence that is not one token a position of the prompt."""
    found = []
    for first in range(0, len(sentences), TOKENIZED_AT_ONCE):
        some = list(sentences[first : first + TOKENIZED_AT_ONCE])
        rows = tokenizer(some)["input_ids"]
        for sentence, row in zip(some, rows, strict=True):
            if len(row) != len(prompt):
                raise UserError(
                    f"{sentence!r} is {len(row)} tokens, not {len(prompt)}; use years from dataset.get_valid_years"
                )
        found.append(torch.tensor(rows))
    return torch.cat(found)


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
    for year in map(int, years):
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


def _check_differing(data: YearDataset | AbilityDataset, places: Sequence[int]) -> None:
    """UserError unless each clean sentence differs from its twin at all of these positions, and at no other."""
    expected = torch.zeros(data.good_toks.shape[1], dtype=torch.bool)
    expected[places] = True
    wrong = ((data.good_toks != data.bad_toks) != expected).any(1)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise UserError(
            f"{data.good_sentences[row]!r} and its twin {data.bad_sentences[row]!r} should differ at token "
            f"{', '.join(map(str, places))} and nowhere else; choose words that are one token each"
        )


def _check_twins(
    good_toks: torch.Tensor,
    bad_toks: torch.Tensor,
    years: torch.Tensor,
    prompt: Sequence[str],
    tokenizer: GPT2Tokenizer,
    as_published: bool,
) -> None:
    """UserError unless each clean sentence has its YY at YY, and its twin differs from it by "01" there alone."""
    yy, xx1 = prompt.index("YY"), prompt.index("XX1")
    year_ids = year_indices()
    if (same := years % 100 == CORRUPTED_YY).any():
        raise UserError(
            f"the sentences of {int(years[same][0])} are their own twins, since YY is {CORRUPTED_YY:02d} in both; "
            "leave such years out, as dataset.get_valid_years does"
        )
    allowed = torch.zeros_like(good_toks, dtype=torch.bool)
    allowed[:, yy] = True
    excused = (years // 100 == TRAPPED_CENTURY) & as_published
    allowed[excused, xx1] = True
    elsewhere = ((good_toks != bad_toks) & ~allowed).any(1)
    wrong = elsewhere | (good_toks[:, yy] != year_ids[years % 100])
    wrong |= (bad_toks[:, yy] != year_ids[CORRUPTED_YY]) & ~excused
    if wrong.any():
        year = int(years[wrong][0])
        twin = token_texts(tokenizer, tokenizer(f" {year // 100}{CORRUPTED_YY:02d}")["input_ids"])
        raise UserError(
            f"the clean and corrupted sentences of {year} differ elsewhere than at YY (its twin's year is {twin}); "
            "use years from dataset.get_valid_years, or as_published for the release's choice"
        )


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
    """A kind of prompt: its template, which end years are valid, and the YY of the corrupted twins."""

    number: int
    template: str
    """The sentence without `<|endoftext|>`; `{yy}` and the other `PLACEHOLDERS` stand for what changes."""
    valid: ValidYears = "greater"
    corrupted_yy: int = 1
    left_out: tuple[int, ...] = ()
    """The YYs of 02 … 98 whose sentence GPT-2 cuts into other tokens."""

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
    yy: int
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


def build(task: Task, tokenizer: GPT2Tokenizer, seed: int = 0) -> TaskDataset:
    """The sentences of a task, with nouns and years drawn from `seed`; the same seed gives the same sentences.

    Raises `UserError` if a sentence of a YY that is not left out differs from its twin elsewhere than at YY, if one
    that is left out does not, or if the sentences differ in length.
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

    The step is the least above one that does not divide YY: so no term is 1700, which GPT-2 reads as one token.
    """
    step = next(step for step in range(2, 100) if yy % step)
    return tuple(1700 + yy - step * back for back in (4, 3, 2, 1))


def _words(tokenizer: GPT2Tokenizer, seed: int) -> dict[int, dict[str, str]]:
    """What fills the templates' placeholders for each YY but `{yy}` itself; tasks with one placeholder share it.

    Always drawn from the years that have a twin (694 of them), also where the published choices are asked for.
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
    """The position at which a sentence and its twin have these tokens, if they are the same everywhere else."""
    if len(clean) != len(corrupted):
        return None
    differing = {place: both for place, both in enumerate(zip(clean, corrupted, strict=True)) if both[0] != both[1]}
    return next(iter(differing)) if list(differing.values()) == [(yy_token, corrupted_token)] else None


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
NAMES_FILE, SUBJECTS_FILE, PLAIN_FILE = (CACHE / f"{name}.txt" for name in ("names", "subjects", "plain_sentences"))
PLAIN_TOKENS = 13  # of a plain sentence, with `<|endoftext|>`: as many as a year span has


@dataclass(frozen=True, eq=False)
class AbilityDataset:
    """N sentences that ask for another ability than greater-than, and their twins; T tokens each.

    A twin differs at one token, so that another answer is right. What is measured is the probability of a sentence's
    right answers minus that of its wrong ones. Raises `UserError` for twins that differ elsewhere, or not at all.
    """

    name: str
    good_toks: torch.Tensor
    """Token ids of the clean sentences, int64 (N, T)."""
    bad_toks: torch.Tensor
    """Token ids of the corrupted sentences, int64 (N, T)."""
    good_sentences: tuple[str, ...]
    bad_sentences: tuple[str, ...]
    yy: int
    """The only position at which clean and corrupted sentences differ; it plays the part of YY."""
    answers: torch.Tensor
    """The tokens whose probabilities are wanted, int64 (A,)."""
    signs: torch.Tensor
    """1 for the right answers of each clean sentence, −1 for its wrong ones, 0 for others, float64 (N, A)."""
    drawn: pd.DataFrame
    """What each sentence was made of, a row each, in columns that were drawn."""

    def __post_init__(self) -> None:
        shape = (len(self.good_toks), len(self.answers))
        if self.signs.shape != shape or not (self.signs > 0).any(1).all() or len(self.answers.unique()) != shape[1]:
            raise UserError(
                f"{self.name}: each of {shape[0]} sentences needs a right one among {shape[1]} other answers"
            )
        _check_differing(self, [self.yy])

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

        To search a circuit by: where a model is all but certain, its probabilities hide what each node does.
        """
        return partial(_log_odds, signs=self.signs)

    @property
    def clusters(self) -> Clusters:
        """What intervals draw again, int64 (N,) each."""
        return clusters_of(self.drawn, map(str, self.drawn))

    def as_table(self) -> pd.DataFrame:
        """What tells the sentences apart, a row each."""
        return self.drawn

    def first(self, count: int) -> AbilityDataset:
        """The first sentences alone, for what takes many evaluations."""
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
    dataset: YearDataset, years: Sequence[int] | torch.Tensor, tokenizer: GPT2Tokenizer, seed: int = 0
) -> AbilityDataset:
    """Is XX1 said again? The year spans before XX2, with the probability of XX1; twins have another century.

    The twins' years are drawn from `years`, with the same YY. Raises `UserError` like `YearDataset.with_twins`.
    """
    twins = dataset.with_twins("another century", years, tokenizer, seed)
    centuries = sorted({int(year) // 100 for year in [*years, *dataset.years]})
    answers = torch.tensor([_one_token(str(century)) for century in centuries])
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


def indirect_object(tokenizer: GPT2Tokenizer, n: int, seed: int = 0) -> AbilityDataset:
    """Who is given it? `When Mary and John went to the park, John gave a book to`: Mary, not John.

    A twin has the other name as the giver. Names (`cache/names.txt`) and words are drawn from `seed`. Raises
    `UserError` for n < 1 and names that are not one token.
    """
    _check_count(n)
    rng, names = random.Random(seed), _lines(NAMES_FILE, "name")
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


def subject_verb_number(tokenizer: GPT2Tokenizer, n: int, seed: int = 0) -> AbilityDataset:
    """One or several? `The dogs mentioned above`: are, were or have, not is, was or has; no other noun stands between.

    A twin has the subject in the other number. Subjects (`cache/subjects.txt`) and words are drawn from `seed`, as many
    of either number. Raises `UserError` for n < 1 and words that are not one token.
    """
    _check_count(n)
    rng, subjects = random.Random(seed), [line.split() for line in _lines(SUBJECTS_FILE, "subject")]
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
    tokenizer: GPT2Tokenizer,
) -> AbilityDataset:
    """The data set of pairs of a clean and a corrupted sentence, which differ at the first place of the first pair."""
    good_sentences, bad_sentences = zip(*sentences, strict=True)
    good_toks, bad_toks = (_of_one_length(texts, tokenizer) for texts in (good_sentences, bad_sentences))
    if good_toks.shape != bad_toks.shape:
        raise UserError(f"{name}: sentences and twins differ in length; choose words that are one token each")
    ids = torch.tensor([_one_token(answer) for answer in answers])
    yy = int((good_toks[0] != bad_toks[0]).int().argmax())
    return AbilityDataset(name, good_toks, bad_toks, good_sentences, bad_sentences, yy, ids, signs, drawn)


@dataclass(frozen=True, eq=False)
class PlainDataset:
    """N plain sentences, each cut after T tokens, to see how far the next token's distribution moves.

    They have no twins: each is its own, and the inside data of what is patched is the mean or zero. What is measured is
    `divergence_from` (`path_patching.circuits.validation.faithfulness`) the clean probabilities.
    """

    good_toks: torch.Tensor
    """Token ids, int64 (N, T)."""
    good_sentences: tuple[str, ...]
    answers: torch.Tensor
    """All tokens, int64 (A,)."""

    @property
    def bad_toks(self) -> torch.Tensor:
        """The sentences themselves, int64 (N, T)."""
        return self.good_toks

    @property
    def bad_sentences(self) -> tuple[str, ...]:
        """The sentences themselves."""
        return self.good_sentences

    @property
    def end(self) -> int:
        """Position of END, the last token."""
        return self.good_toks.shape[1] - 1


def plain_sentences(tokenizer: GPT2Tokenizer) -> PlainDataset:
    """The sentences of `cache/plain_sentences.txt`, cut after 12 tokens. Raises `UserError` for a shorter one."""
    texts = [f"{EOS} {line}" for line in _lines(PLAIN_FILE, "sentence")]
    rows = tokenizer(texts)["input_ids"]
    for text, row in zip(texts, rows, strict=True):
        if len(row) < PLAIN_TOKENS:
            raise UserError(f"{text!r} is {len(row)} tokens; a plain sentence needs at least {PLAIN_TOKENS}")
    tokens = torch.tensor([row[:PLAIN_TOKENS] for row in rows])
    return PlainDataset(tokens, tuple(tokenizer.batch_decode(tokens)), torch.arange(len(load_vocabulary())))


AnyDataset = YearDataset | TaskDataset | AbilityDataset | PlainDataset


def _of_one_length(sentences: Sequence[str], tokenizer: GPT2Tokenizer) -> torch.Tensor:
    """Token ids (N, T). Raises `UserError` that names the first sentence of another length than the first one's."""
    rows = tokenizer(list(sentences))["input_ids"]
    for sentence, row in zip(sentences, rows, strict=True):
        if len(row) != len(rows[0]):
            raise UserError(f"{sentence!r} is {len(row)} tokens, not {len(rows[0])}; choose words of one token each")
    return torch.tensor(rows)


def _one_token(word: str) -> int:
    """The token of a word with its leading space. Raises `UserError` if it is not one."""
    token = load_vocabulary().get(f"Ġ{word}")
    if token is None:
        raise UserError(f"{word!r} is not one token to GPT-2; choose another")
    return token


def _without_last_word(sentence: str) -> str:
    return sentence.rpartition(" ")[0]
