from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st

from dataset import get_valid_years, year_indices
from path_patching.errors import UserError
from path_patching.gpt2.tokenizer import EOS, load_tokenizer
from tasks import prompts
from tasks.prompts import TASKS, Task, build
from tests.helpers.refusals import unless_refused

EVERY_YY = list(range(2, 99))
PROMPTS = [
    "The NOUN started in the year 17YY and ended in the year 17",
    "The NOUN happened in 17YY. Some years later, it is now the year 17",
    "1599, 1607, 1633, 1679, 17YY, 17",
    "1799, 1753, 1733, 1701, 16YY, 16",
    "17YY−4d, 17YY−3d, 17YY−2d, 17YY−d, 17YY, 17",
    "17YY is smaller than 17",
    "The NOUN ended in the year 17YY and started in the year 17",
    "The NOUN lasted from the year 7YY BC to the year 7",
    "The price of that ITEM ranges from $ 17YY to $ 17",
    "XXY1, XXY2, XXY3, XXY4, XXYY, XX",
]
LEFT_OUT = [2, 20, 37, 47, 50, 60, 68, 70, 77, 80]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer()


@pytest.fixture(scope="module")
def datasets(tokenizer):
    return [build(task, tokenizer) for task in TASKS]


def years_of(sentence: str) -> list[int]:
    """The years of a list such as `<|endoftext|> 1712, 1750, 17`, without the century at its end."""
    return [int(year) for year in sentence.removeprefix(EOS).split(",")[:-1]]


def test_the_prompts_are_those_of_the_paper():
    assert [task.number for task in TASKS] == list(range(10))
    assert [task.prompt for task in TASKS] == PROMPTS
    assert [task.number for task in TASKS if task.valid == "less"] == [3, 6, 7]
    assert {task.number: task.corrupted_yy for task in TASKS if task.corrupted_yy != 1} == {3: 99, 6: 99, 7: 99}


@pytest.mark.parametrize("number", range(10))
def test_a_sentence_for_each_yy_and_a_twin_that_differs_there_alone(number, datasets, tokenizer):
    data, year_ids = datasets[number], year_indices()
    kept = [yy for yy in EVERY_YY if number != 7 or yy not in LEFT_OUT]
    assert data.years_YY.tolist() == kept
    assert data.good_toks.shape == data.bad_toks.shape == (len(kept), data.end + 1)
    assert (data.good_toks != data.bad_toks).nonzero().tolist() == [[row, data.yy_position] for row in range(len(kept))]
    assert torch.equal(data.good_toks[:, data.yy_position], year_ids[kept])
    assert (data.bad_toks[:, data.yy_position] == year_ids[data.task.corrupted_yy]).all()
    assert (data.good_toks[:, 0] == 50256).all()
    for row, (good, bad) in enumerate(zip(data.good_sentences, data.bad_sentences, strict=True)):
        assert tokenizer(good)["input_ids"] == data.good_toks[row].tolist()
        assert tokenizer(bad)["input_ids"] == data.bad_toks[row].tolist()
        assert sum(a != b for a, b in zip(good.split(), bad.split(), strict=True)) == 1


@pytest.mark.parametrize("number", range(10))
def test_end_is_the_century_again(number, datasets):
    data = datasets[number]
    assert torch.equal(data.good_toks[:, data.end], data.good_toks[:, data.yy_position - 1])
    assert data.end > data.yy_position


def test_yy_and_end_lie_elsewhere_in_each_prompt(datasets):
    assert [(data.yy_position, data.end) for data in datasets] == [
        (8, 14), (6, 17), (14, 16), (14, 16), (14, 16), (2, 6), (8, 14), (8, 13), (10, 13), (14, 16),
    ]  # fmt: skip


def test_sentences_of_the_paper(datasets):
    assert datasets[2].good_sentences[30] == f"{EOS} 1599, 1607, 1633, 1679, 1732, 17"
    assert datasets[3].bad_sentences[0] == f"{EOS} 1799, 1753, 1733, 1701, 1699, 16"
    assert datasets[5].good_sentences[0] == f"{EOS} 1702 is smaller than 17"
    assert datasets[8].good_sentences[19] == f"{EOS} The price of that plant ranges from $ 1721 to $ 17"


def test_task_7_leaves_out_what_gpt2_reads_otherwise(datasets, tokenizer):
    otherwise = [yy for yy in EVERY_YY if tokenizer.tokenize(f" 7{yy:02d}") != ["Ġ7", f"{yy:02d}"]]
    assert otherwise == LEFT_OUT
    assert sorted(set(EVERY_YY) - set(datasets[7].years_YY.tolist())) == LEFT_OUT
    assert max(Counter(datasets[7].good_sentences).values()) == 1


def test_task_4_is_arithmetic(datasets):
    for yy, sentence in zip(EVERY_YY, datasets[4].good_sentences, strict=True):
        years = years_of(sentence)
        steps = {later - earlier for earlier, later in pairwise(years)}
        assert years[-1] == 1700 + yy
        assert len(years) == 5
        assert len(steps) == 1
        assert steps.pop() > 1
        assert 1700 not in years


def test_task_9_draws_different_valid_years_of_one_century(datasets, tokenizer):
    valid = set(get_valid_years(tokenizer).tolist())
    lists = [years_of(sentence) for sentence in datasets[9].good_sentences]
    assert all(set(years) <= valid and len(set(years)) == 5 for years in lists)
    assert all(len({year // 100 for year in years}) == 1 for years in lists)
    assert {years[0] // 100 for years in lists} == set(range(11, 19))


def test_the_seed_decides_nouns_and_years(datasets, tokenizer):
    for number in range(10):
        again, other = (build(TASKS[number], tokenizer, seed=seed) for seed in (0, 1))
        assert torch.equal(again.good_toks, datasets[number].good_toks)
        assert torch.equal(again.bad_toks, datasets[number].bad_toks)
        drawn = "noun" in TASKS[number].template or number == 9
        assert torch.equal(other.good_toks, datasets[number].good_toks) != drawn


def test_rows_stand_at_their_yy_and_those_left_out_are_nan(datasets):
    data = datasets[7]
    rows = data.rows(data.years_YY.double()[:, None] + torch.tensor([0.0, 0.5]))
    assert rows.shape == (97, 2)
    assert [yy for yy in EVERY_YY if rows[yy - 2].isnan().all()] == LEFT_OUT
    assert all(rows[yy - 2].tolist() == [yy, yy + 0.5] for yy in EVERY_YY if yy not in LEFT_OUT)


@pytest.mark.parametrize(
    ("task", "complaint"),
    [
        (replace(TASKS[7], left_out=(2, 20)), r"7: .* 737 BC .* differ elsewhere than at YY; leave it out"),
        (replace(TASKS[5], left_out=(41,)), r"5: .* 1741 is .* differ at YY alone; take it in"),
        (Task(10, "The year 10{yy} and the year 10"), r"10: .* 1002 .* 1001 .* differ elsewhere than at YY"),
        (Task(11, "In 17{yy}, not in 17{yy}, but in 17"), r"11: .* 1702.* differ elsewhere than at YY"),
    ],
)
def test_a_twin_that_differs_elsewhere_is_refused(task, complaint, tokenizer):
    with pytest.raises(UserError, match=complaint) as error:
        build(task, tokenizer)
    assert len(str(error.value).splitlines()) == 1


def test_words_of_several_tokens_are_refused(tokenizer, monkeypatch):
    monkeypatch.setattr(prompts, "load_nouns", lambda: ("war", "abductionist"))
    with pytest.raises(UserError, match="task 0: its sentences differ in length"):
        build(TASKS[0], tokenizer)


WORDS = st.lists(
    st.sampled_from(["The", "year", "17", "-", "$ 17", "{noun}", "{century}", ",", "year's", "é"]), max_size=5
)


@tried(max_examples=40, deadline=None)
@given(
    before=WORDS,
    glued=st.sampled_from(["17{yy}", "{yy}", " {yy}", "7{yy}", "A{yy}B", "{century}{yy}"]),
    after=WORDS,
    corrupted_yy=st.sampled_from([1, 99]),
)
def test_twins_of_any_template_differ_at_yy_alone_or_are_refused(before, glued, after, corrupted_yy):
    template = " ".join([*before, glued, *after])
    data = unless_refused(lambda: build(Task(0, template, corrupted_yy=corrupted_yy), load_tokenizer()))
    if data is None:
        return
    where = (data.good_toks != data.bad_toks).nonzero()
    assert where[:, 0].tolist() == list(range(len(data.good_toks)))
    assert (where[:, 1] == data.yy_position).all()
    assert torch.equal(data.good_toks[:, data.yy_position], year_indices()[data.years_YY])
    assert (data.bad_toks[:, data.yy_position] == year_indices()[corrupted_yy]).all()
