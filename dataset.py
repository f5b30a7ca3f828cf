"""Year-span sentences and their corrupted ("01") twins (paper, sections 2.1 and 3.1).

    <|endoftext|> The NOUN lasted from the year XXYY to the year XX

A corrupted sentence has 01 in the place of YY. The published code also takes years of century 10, where GPT-2 reads
" 1001" as [" 100", "1"]: these twins differ at XX1 too and have no "01". Here such years are left out, and every data
set is checked to differ at YY alone; `as_published` asks for the release's choice.

    >>> dataset = YearDataset(get_valid_years(tokenizer), 97, NOUNS_FILE, tokenizer)
    >>> dataset.good_sentences[0], dataset.bad_sentences[0]
    ('<|endoftext|> The ... lasted from the year ...02 to the year ...', '<|endoftext|> The ...01 to the year ...')
    >>> dataset.good_prompt[dataset.yy_position], dataset.end  # END is the last position
    ('YY', 12)
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from path_patching.errors import UserError, first_line, is_whole, shortened
from path_patching.files import lines_of, reading
from path_patching.gpt2.tokenizer import EOS, Tokenizer, load_tokenizer, token_texts

if TYPE_CHECKING:
    import pandas as pd

ValidYears = Literal["greater", "less"]  # which end years a prompt makes valid: those above YY, or those below

CACHE = Path(__file__).resolve().parent / "cache"
NOUNS_FILE = CACHE / "potential_nouns.txt"
YEAR_TOKEN_IDS_FILE = CACHE / "logit_indices.pt"
YEARS = tuple(f"{yy:02d}" for yy in range(100))
FIRST_YY, LAST_YY = 2, 98
COLLATED_YY = tuple(range(FIRST_YY, LAST_YY + 1))
CORRUPTED_YY = 1
TRAPPED_CENTURY = 10  # " 1001" is [" 100", "1"]
PROMPT = (EOS, "The", "NOUN", "lasted", "from", "the", "year", "XX1", "YY", "to", "the", "year", "XX2")
TOKENIZED_AT_ONCE = 1_000  # sentences; the tokenizer keeps more of each than its tokens


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
    """Century of each sentence's start year, int64 (N,)."""
    years_YY: torch.Tensor  # noqa: N815
    """Year within the century of each start year, int64 (N,)."""
    nouns: tuple[str, ...]
    """Noun of each sentence."""
    good_sentences: tuple[str, ...]
    bad_sentences: tuple[str, ...]
    good_prompt: tuple[str, ...]
    """Name of each position of a clean sentence, T of them."""
    bad_prompt: tuple[str, ...]
    """The same for a corrupted sentence."""

    def __init__(
        self,
        years: Sequence[int] | torch.Tensor,
        n: int,
        nouns: str | Sequence[str] | Path,
        tokenizer: Tokenizer,
        balanced: bool = True,
        eos: bool = True,
        seed: int = 0,
        as_published: bool = False,
    ) -> None:
        """Draw `n` sentences.

        Args:
            years: start years to draw from; see `get_valid_years`.
            n: how many sentences, N.
            nouns: one noun, several, or a file with one on each line; each must be one token with its leading space.
            tokenizer: GPT-2's.
            balanced: go through YY = 2 ... 98 again and again, drawing a year with that YY and a noun; else draw
            years uniformly.
            eos: begin each sentence with `<|endoftext|>`.
            seed: for every draw; the same seed gives the same sentences.
            as_published: let the twins of century 10 differ at XX1 as well, as in the published code.

        Raises:
            UserError: N < 1, no or wrong years, no or unknown or multi-token nouns, a YY without a year while
                balanced, or sentences whose tokens do not fit the prompt, or that do not differ from their twins at YY
                alone.
        """
        check_count(n)
        for name, flag in {"balanced": balanced, "eos": eos, "as_published": as_published}.items():
            if flag not in (True, False):
                raise UserError(f"{name} is True or False, not {shortened(repr(flag))}")
        if not is_whole(seed):
            raise UserError(f"a seed is a whole number, not {shortened(repr(seed))}")
        candidates = as_years(years)
        if not candidates:
            raise UserError("there are no valid years to draw from; see dataset.get_valid_years")
        noun_choices = _one_token_nouns(nouns, tokenizer)
        rng = random.Random(seed)
        drawn = _walk_through_yy(candidates, n, rng) if balanced else (rng.choice(candidates) for _ in range(n))
        pairs = [(year, rng.choice(noun_choices)) for year in drawn]
        good_sentences = tuple(sentence_of(noun, year, eos) for year, noun in pairs)
        bad_sentences = tuple(sentence_of(noun, year - year % 100 + CORRUPTED_YY, eos) for year, noun in pairs)
        prompt = PROMPT if eos else PROMPT[1:]
        good_toks = tokens_of(good_sentences, prompt, tokenizer)
        bad_toks = tokens_of(bad_sentences, prompt, tokenizer)
        drawn_years = torch.tensor([year for year, _ in pairs])
        _check_twins(good_toks, bad_toks, drawn_years, prompt, tokenizer, as_published)
        self.good_toks, self.bad_toks = good_toks, bad_toks
        self.good_sentences, self.bad_sentences = good_sentences, bad_sentences
        self.good_prompt = prompt
        self.bad_prompt = tuple("01" if name == "YY" else name for name in prompt)
        self.years, self.years_XX, self.years_YY = drawn_years, drawn_years // 100, drawn_years % 100
        self.nouns = tuple(noun for _, noun in pairs)

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

    @property
    def drawn(self) -> dict[str, Sequence[Any]]:
        """What was drawn for each sentence, N of each: `noun`, `year`, `century`, `YY`."""
        numbers = {"year": self.years, "century": self.years_XX, "YY": self.years_YY}
        return {"noun": self.nouns, **{name: values.tolist() for name, values in numbers.items()}}

    def as_table(self) -> pd.DataFrame:
        """What was drawn for each sentence, a row each."""
        import pandas as pd  # imported here, since it is slow and not always needed

        return pd.DataFrame(self.drawn)

    @property
    def xx1(self) -> int:
        """Position of the first century token."""
        return self.good_prompt.index("XX1")

    @property
    def yy_position(self) -> int:
        """Position of YY, the only one at which clean and corrupted sentences differ."""
        return self.good_prompt.index("YY")

    @property
    def end(self) -> int:
        """Position of END, the last token (XX2), where the end year is predicted."""
        return self.good_prompt.index("XX2")


def get_valid_years(
    tokenizer: Tokenizer, start: int = 1000, stop: int = 1900, as_published: bool = False
) -> torch.Tensor:
    """Years of [start, stop) that a sentence can have, ascending, int64 (number of years,).

    A year is a candidate if " XXYY" is two tokens, the second of two digits. The first and last candidate of each
    century are dropped: no YY lies below or above them. By default a year also needs a twin: " XX01" has to be
    [" XX", "01"] (694 years). `as_published` keeps the release's 768.
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
    """The nouns of a file, one on each line. Raises UserError if the file is missing or has none."""
    return lines_of(path, "noun")


def year_indices(path: Path = YEAR_TOKEN_IDS_FILE) -> torch.Tensor:
    """Token ids of "00" ... "99", int64 (100,), from `cache/logit_indices.pt`.

    Raises UserError if the file is missing, damaged, or differs from the tokenizer's vocabulary.
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
    return tuple(id_ for (id_,) in load_tokenizer()(YEARS).input_ids)


def check_count(n: int) -> None:
    """Raise `UserError` unless N is a whole number of at least one."""
    if not is_whole(n) or n < 1:
        raise UserError(f"a data set needs at least one sentence, not N = {shortened(repr(n))}")


def as_years(years: Any) -> list[int]:
    """Years as Python's numbers. Raises `UserError` for what is no list, array or tensor of whole numbers."""
    listed = years.tolist() if isinstance(years, torch.Tensor | np.ndarray) else years
    if not isinstance(listed, Sequence) or not all(map(is_whole, listed)):
        raise UserError(
            f"{shortened(repr(years))} are no years; give a list of whole numbers, as dataset.get_valid_years does"
        )
    return [int(year) for year in listed]


def _splits_into_xx_and_yy(year: int, tokenizer: Tokenizer) -> bool:
    tokens = _pieces(f" {year}", tokenizer)
    return len(tokens) == 2 and tokens[1] == f"{year % 100:02d}"


def _pieces(text: str, tokenizer: Tokenizer) -> list[str]:
    """A text's tokens. Raises `UserError` for what is no tokenizer."""
    if not hasattr(tokenizer, "tokenize"):
        raise UserError(f"the tokenizer has to be GPT-2's, of load_tokenizer(), not {shortened(repr(tokenizer))}")
    return tokenizer.tokenize(text)


def _one_token_nouns(nouns: str | Sequence[str] | Path, tokenizer: Tokenizer) -> tuple[str, ...]:
    choices = _as_nouns(nouns)
    for noun in choices:
        pieces = _pieces(f" {noun}", tokenizer) if noun else []
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
    """N years whose YYs go through 2 ... 98 again and again."""
    years_of: dict[int, list[int]] = defaultdict(list)
    for year in candidates:
        years_of[year % 100].append(year)
    walk = [COLLATED_YY[i % len(COLLATED_YY)] for i in range(n)]
    missing = sorted(set(walk) - set(years_of))
    if missing:
        raise UserError(
            f"a balanced data set needs a valid year for YY = {missing[0]:02d}; give more years, or balanced=False"
        )
    return [rng.choice(years_of[yy]) for yy in walk]


def sentence_of(noun: str, year: int, eos: bool) -> str:
    """A year span up to XX2, as text."""
    return f"{EOS if eos else ''} The {noun} lasted from the year {year} to the year {year // 100}"


def tokens_of(sentences: Sequence[str], prompt: Sequence[str], tokenizer: Tokenizer) -> torch.Tensor:
    """Token ids (N, T). UserError names the first sentence that has not one token for each position of the prompt."""
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


def _check_twins(
    good_toks: torch.Tensor,
    bad_toks: torch.Tensor,
    years: torch.Tensor,
    prompt: Sequence[str],
    tokenizer: Tokenizer,
    as_published: bool,
) -> None:
    """UserError unless each clean sentence has its YY at YY, and its twin differs from it by "01" there alone."""
    at_yy, at_xx1 = prompt.index("YY"), prompt.index("XX1")
    year_ids = year_indices()
    if (same := years % 100 == CORRUPTED_YY).any():
        raise UserError(
            f"the sentences of {int(years[same][0])} are their own twins, since YY is {CORRUPTED_YY:02d} in both; "
            "leave such years out, as dataset.get_valid_years does"
        )
    allowed = torch.zeros_like(good_toks, dtype=torch.bool)
    allowed[:, at_yy] = True
    excused = (years // 100 == TRAPPED_CENTURY) & as_published
    allowed[excused, at_xx1] = True
    elsewhere = ((good_toks != bad_toks) & ~allowed).any(1)
    wrong = elsewhere | (good_toks[:, at_yy] != year_ids[years % 100])
    wrong |= (bad_toks[:, at_yy] != year_ids[CORRUPTED_YY]) & ~excused
    if wrong.any():
        year = int(years[wrong][0])
        twin = token_texts(tokenizer, tokenizer(f" {year // 100}{CORRUPTED_YY:02d}")["input_ids"])
        raise UserError(
            f"the clean and corrupted sentences of {year} differ elsewhere than at YY (its twin's year is {twin}); "
            "use years from dataset.get_valid_years, or as_published for the release's choice"
        )
