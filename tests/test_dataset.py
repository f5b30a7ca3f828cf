from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st

from dataset import NOUNS_FILE, YearDataset, get_valid_years, load_nouns, year_indices
from path_patching.errors import UserError
from path_patching.gpt2.tokenizer import load_tokenizer, token_texts
from tests.helpers.refusals import put_there, unless_refused

TOKENIZER = load_tokenizer()
YEARS = get_valid_years(TOKENIZER)


def dataset(n: int = 20, nouns: object = "war", years: object = YEARS, **options: object) -> YearDataset:
    return YearDataset(years, n, nouns, TOKENIZER, **options)


def test_centuries_of_the_published_years():
    published = get_valid_years(TOKENIZER, as_published=True)
    counts = Counter((published // 100).tolist())
    assert counts == {10: 74, 11: 53, 12: 96, 13: 89, 14: 96, 15: 89, 16: 97, 17: 97, 18: 77}
    assert len(published) == 768


def test_default_years_are_those_with_a_twin():
    published = get_valid_years(TOKENIZER, as_published=True)
    assert YEARS.dtype == torch.int64
    assert YEARS.tolist() == [year for year in published.tolist() if year >= 1100]
    assert len(YEARS) == 694
    assert set((YEARS % 100).tolist()) == set(range(2, 99))


def test_years_can_be_narrowed():
    assert get_valid_years(TOKENIZER, 1700, 1800).tolist() == list(range(1702, 1799))
    assert get_valid_years(TOKENIZER, 1600, 1601).tolist() == []


def test_the_nouns_of_the_paper_are_single_tokens():
    nouns = load_nouns()
    assert len(nouns) == len(set(nouns)) == 120
    assert len(dataset(10, NOUNS_FILE)) == 10


@pytest.mark.parametrize("eos", [True, False])
def test_shapes_positions_and_tokens(eos):
    data = dataset(97, ["war", "trip"], eos=eos)
    length = 13 if eos else 12
    assert data.good_toks.shape == data.bad_toks.shape == (97, length)
    assert len(data) == 97
    assert len(data.good_prompt) == len(data.bad_prompt) == length
    assert len(data) == data.N
    assert [pair for pair in zip(data.good_prompt, data.bad_prompt, strict=True) if len({*pair}) > 1] == [("YY", "01")]
    assert (data.xx1, data.yy_position, data.end) == ((7, 8, 12) if eos else (6, 7, 11))
    ids = year_indices()
    assert torch.equal(data.good_toks[:, data.yy_position], ids[data.years_YY])
    assert (data.bad_toks[:, data.yy_position] == ids[1]).all()
    assert torch.equal(data.good_toks[:, data.xx1], data.good_toks[:, data.end])
    assert torch.equal(data.years_XX * 100 + data.years_YY, data.years)
    for i in (0, 50, 96):
        text = f" The {data.nouns[i]} lasted from the year {data.years[i]} to the year {data.years_XX[i]}"
        assert data.good_sentences[i] == ("<|endoftext|>" if eos else "") + text
        assert data.bad_sentences[i] == data.good_sentences[i].replace(str(int(data.years[i])), f"{data.years_XX[i]}01")
        assert TOKENIZER(data.good_sentences[i])["input_ids"] == data.good_toks[i].tolist()
        assert TOKENIZER(data.bad_sentences[i])["input_ids"] == data.bad_toks[i].tolist()


@pytest.mark.parametrize("balanced", [True, False])
def test_clean_and_corrupted_differ_at_yy_and_nowhere_else(balanced):
    data = dataset(300, NOUNS_FILE, balanced=balanced)
    differing = (data.good_toks != data.bad_toks).nonzero()
    assert (differing[:, 1] == data.yy_position).all()
    assert len(differing) == 300


def test_century_10_is_refused_unless_as_published():
    published = get_valid_years(TOKENIZER, as_published=True)
    with pytest.raises(UserError, match="differ elsewhere than at YY"):
        dataset(200, years=published)
    data = dataset(200, years=published, as_published=True)
    trapped = data.years_XX == 10
    assert trapped.any()
    differing = data.good_toks != data.bad_toks
    assert torch.equal(differing[:, data.xx1], trapped)
    of_first = token_texts(TOKENIZER, data.bad_toks[trapped][0])
    assert of_first[data.xx1 : data.yy_position + 1] == [" 100", "1"]
    differing[:, [data.xx1, data.yy_position]] = False
    assert not differing.any()


def test_balance():
    data = dataset(490, NOUNS_FILE)
    assert data.years_YY.tolist() == [2 + i % 97 for i in range(490)]
    assert set(data.years.tolist()) <= set(YEARS.tolist())
    assert len(set(data.years_XX.tolist())) == 8
    assert len(set(data.nouns)) > 90


def test_unbalanced_draws_years_uniformly():
    data = dataset(6940, balanced=False)
    counts = torch.bincount(data.years, minlength=1900)[YEARS].double()
    assert counts.sum() == 6940
    chi_squared = ((counts - 10) ** 2 / 10).sum()
    assert 693 - 6 * (2 * 693) ** 0.5 < chi_squared < 693 + 6 * (2 * 693) ** 0.5


@pytest.mark.parametrize("balanced", [True, False])
def test_one_seed_gives_one_dataset_and_no_global_state_is_used(balanced):
    random.seed(5)
    torch.manual_seed(5)
    states = random.getstate(), torch.get_rng_state()
    first = dataset(100, NOUNS_FILE, balanced=balanced, seed=3)
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    random.seed(6)
    again = dataset(100, NOUNS_FILE, balanced=balanced, seed=3)
    other = dataset(100, NOUNS_FILE, balanced=balanced, seed=4)
    assert first.good_sentences == again.good_sentences
    assert torch.equal(first.good_toks, again.good_toks)
    assert torch.equal(first.bad_toks, again.bad_toks)
    assert first.good_sentences != other.good_sentences


def test_a_dataset_prints_shortly():
    assert repr(dataset(3)).startswith("YearDataset(3 sentences like '<|endoftext|> The war lasted")


def test_few_sentences_need_only_the_years_they_walk_through():
    assert dataset(3, years=[1702, 1703, 1704]).years.tolist() == [1702, 1703, 1704]


@pytest.mark.parametrize("nouns", [7, None, {"war"}, ["war", 3], range(3)])
def test_unknown_noun_type(nouns):
    with pytest.raises(UserError, match="nouns must be a string"):
        dataset(nouns=nouns)


@pytest.mark.parametrize("name", ["balanced", "eos", "as_published"])
def test_a_switch_that_is_no_boolean_is_one_line(name):
    with pytest.raises(UserError, match=rf"^{name} is True or False, not 'no'$"):
        dataset(**{name: "no"})


def test_a_seed_that_is_no_whole_number_is_one_line():
    with pytest.raises(UserError, match=r"^a seed is a whole number, not \[1\]$"):
        dataset(seed=[1])


@pytest.mark.parametrize("tokenizer", [None, "gpt2"])
def test_what_is_no_tokenizer_is_one_line(tokenizer):
    for ask in (lambda: get_valid_years(tokenizer), lambda: YearDataset([1742], 3, "war", tokenizer)):
        with pytest.raises(UserError, match=r"^the tokenizer has to be GPT-2's, of load_tokenizer\(\), not "):
            ask()


@pytest.mark.parametrize("nouns", ["brouhaha", ["war", "brouhaha"], ("brouhaha",)])
def test_multi_token_noun_is_named(nouns):
    with pytest.raises(UserError, match="'brouhaha' is 4 tokens"):
        dataset(nouns=nouns)


def test_multi_token_noun_of_a_file(tmp_path):
    (tmp_path / "nouns.txt").write_text("war\nbrouhaha\n")
    with pytest.raises(UserError, match="'brouhaha'"):
        dataset(nouns=tmp_path / "nouns.txt")
    (tmp_path / "nouns.txt").write_text("war\n civil war \n")
    with pytest.raises(UserError, match="'civil war'"):
        dataset(nouns=tmp_path / "nouns.txt")


@pytest.mark.parametrize("n", [0, -1, True, 2.0, "3", None])
def test_too_few_sentences(n):
    with pytest.raises(UserError, match=f"at least one sentence, not N = {n!r}$"):
        dataset(n)


def test_no_years():
    with pytest.raises(UserError, match="no valid years"):
        dataset(years=torch.tensor([], dtype=torch.int64))


@pytest.mark.parametrize("years", ["1732", 1732, torch.tensor(1732), [1732.5], ["1732"], {1732}, [True]])
def test_years_that_are_none_are_one_line(years):
    """A text was taken for the years 1, 7, 3 and 2, and half a year for a whole one."""
    with pytest.raises(UserError, match="are no years; give a list of whole numbers"):
        dataset(1, "war", years)


@pytest.mark.parametrize("years", [range(1702, 1703), np.array([1702]), (1702,), torch.tensor([1702])])
def test_years_may_be_any_list_of_them(years):
    assert dataset(1, "war", years).years.tolist() == [1702]


def test_ragged_tokenization_names_the_sentence():
    with pytest.raises(UserError, match="from the year 1600 to the year 16' is 12 tokens, not 13"):
        dataset(3, years=[1600], balanced=False)


def test_empty_and_missing_noun_lists(tmp_path):
    with pytest.raises(UserError, match="is empty"):
        dataset(nouns=[])
    with pytest.raises(UserError, match="is 0 tokens"):
        dataset(nouns=[""])
    with pytest.raises(UserError, match=r"none\.txt"):
        dataset(nouns=tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match="holds no noun"):
        dataset(nouns=tmp_path / "empty.txt")


def test_balanced_needs_a_year_for_every_yy():
    with pytest.raises(UserError, match="YY = 17"):
        dataset(97, years=[year for year in YEARS.tolist() if year % 100 != 17])


def test_year_token_ids_and_what_can_be_wrong_with_their_file(tmp_path):
    assert token_texts(TOKENIZER, year_indices()) == [f"{yy:02d}" for yy in range(100)]
    with pytest.raises(UserError, match="missing; restore it"):
        year_indices(tmp_path / "none.pt")
    (tmp_path / "damaged.pt").write_bytes(b"not a tensor")
    with pytest.raises(UserError, match="damaged"):
        year_indices(tmp_path / "damaged.pt")
    torch.save(torch.zeros(99, dtype=torch.int64), tmp_path / "short.pt")
    with pytest.raises(UserError, match="100 int64"):
        year_indices(tmp_path / "short.pt")


@pytest.mark.parametrize(("changed", "year"), [({5: 6, 6: 5}, "05"), ({99: 0}, "99"), ({0: 1, 1: 2, 2: 0}, "00")])
def test_year_token_ids_that_are_not_the_tokenizers_are_refused(tmp_path, changed, year):
    ids = year_indices()
    wrong = ids.clone()
    wrong[list(changed)] = ids[list(changed.values())]
    torch.save(wrong, tmp_path / "wrong.pt")
    place = int(year)
    with pytest.raises(
        UserError, match=f"has {wrong[place]} as the token of '{year}', which is {ids[place]}; restore it"
    ):
        year_indices(tmp_path / "wrong.pt")


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "not readable"])
@pytest.mark.parametrize("read", [year_indices, load_nouns])
def test_what_is_no_file_or_may_not_be_read_is_said_to_be_so_at_once(tmp_path, read, kind, monkeypatch):
    path = tmp_path / "file"
    path.touch()
    put_there(path, kind, monkeypatch)
    with pytest.raises(UserError, match=r"cannot (be )?read .*(it is not a file|Permission denied)"):
        read(path)


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("as_published", [True, False])
def test_no_sentence_is_its_own_twin(balanced, as_published):
    """Also of the years that are handed out, in the published way too."""
    years = get_valid_years(TOKENIZER, as_published=as_published)
    data = dataset(500, years=years, balanced=balanced, as_published=as_published)
    assert (data.good_toks != data.bad_toks).any(1).all()


def test_years_whose_sentences_would_be_their_own_twins_are_refused():
    with pytest.raises(
        UserError, match="sentences of 1701 are their own twins, since YY is 01 in both; leave such years"
    ):
        dataset(30, "war", [1701, 1732, 1745], balanced=False)
    assert 1 not in dataset(97, "war", [*YEARS.tolist(), 1701, 1801]).years_YY  # which only walks through 02 … 98


@tried(max_examples=60, deadline=None)
@given(
    n=st.integers(-1, 250),
    seed=st.integers(),
    eos=st.booleans(),
    balanced=st.booleans(),
    nouns=st.lists(st.sampled_from([*load_nouns(), "antidisestablishment"]), min_size=0, max_size=4),
    years=st.lists(st.integers(990, 1910), max_size=400, unique=True),
)
def test_a_dataset_is_as_asked_for_or_refused_in_one_line(n, seed, eos, balanced, nouns, years):
    options = {"eos": eos, "balanced": balanced, "seed": seed}
    data = unless_refused(lambda: dataset(n, nouns, torch.tensor(years, dtype=torch.int64), **options))
    if data is None:
        return
    assert len(data) == n
    assert set(data.years.tolist()) <= set(years)
    differing = data.good_toks != data.bad_toks
    assert (differing.nonzero()[:, 1] == data.yy_position).all()
    assert differing.any(1).all()
    ids = year_indices()
    assert torch.equal(data.good_toks[:, data.yy_position], ids[data.years_YY])
    assert (data.bad_toks[:, data.yy_position] == ids[1]).all()
    assert torch.equal(data.good_toks[:, data.xx1], data.good_toks[:, data.end])
    for sentence, year, noun in zip(data.good_sentences, data.years.tolist(), data.nouns, strict=True):
        assert noun in nouns
        assert f"The {noun} lasted from the year {year} to the year {year // 100}" in sentence
