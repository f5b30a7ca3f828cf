from __future__ import annotations

import re

import pytest
import torch

from dataset import NOUNS_FILE, YearDataset, get_valid_years
from path_patching.errors import UserError
from path_patching.gpt2.tokenizer import load_tokenizer
from tasks.other_twins import CHANGED, with_twins

TOKENIZER = load_tokenizer()
YEARS = get_valid_years(TOKENIZER)


@pytest.fixture(scope="module")
def spans() -> YearDataset:
    return YearDataset(YEARS, 194, NOUNS_FILE, TOKENIZER, seed=1)


@pytest.mark.parametrize("counterfactual", CHANGED)
@pytest.mark.parametrize("eos", [True, False])
def test_twins_of_every_counterfactual_differ_where_they_should_and_nowhere_else(counterfactual, eos):
    data = YearDataset(YEARS, 194, NOUNS_FILE, TOKENIZER, eos=eos)
    twins = with_twins(data, counterfactual, YEARS, TOKENIZER)
    changed = [data.good_prompt.index(name) for name in CHANGED[counterfactual]]
    assert torch.equal(twins.good_toks, data.good_toks)
    assert torch.equal(twins.years, data.years)
    assert twins.good_sentences == data.good_sentences
    differing = (twins.good_toks != twins.bad_toks).nonzero().tolist()
    assert differing == [[row, place] for row in range(194) for place in changed]
    assert TOKENIZER(list(twins.bad_sentences))["input_ids"] == twins.bad_toks.tolist()
    assert [place for place, name in enumerate(twins.bad_prompt) if name != data.good_prompt[place]] == changed


def test_another_yy_is_a_valid_year_of_the_same_century(spans):
    twins = with_twins(spans, "another YY", YEARS, TOKENIZER)
    years = [int(re.search(r"year (\d+)", sentence)[1]) for sentence in twins.bad_sentences]
    assert set(years) <= set(YEARS.tolist())
    assert [year // 100 for year in years] == spans.years_XX.tolist()
    assert not set(zip(years, range(194), strict=True)) & set(zip(spans.years.tolist(), range(194), strict=True))
    later = sum(year > own for year, own in zip(years, spans.years.tolist(), strict=True))
    assert 60 < later < 134  # as often later as earlier


def test_another_century_keeps_yy_and_another_noun_the_year(spans):
    of_century = with_twins(spans, "another century", YEARS, TOKENIZER)
    years = [int(re.search(r"year (\d+)", sentence)[1]) for sentence in of_century.bad_sentences]
    assert set(years) <= set(YEARS.tolist())
    assert [year % 100 for year in years] == spans.years_YY.tolist()
    assert len({year // 100 for year in years}) == 8
    of_noun = with_twins(spans, "another noun", [], TOKENIZER)
    nouns = [sentence.split()[2] for sentence in of_noun.bad_sentences]
    assert set(nouns) <= set(spans.nouns)
    for sentence, own, noun, other in zip(spans.good_sentences, spans.nouns, nouns, of_noun.bad_sentences, strict=True):
        assert other == sentence.replace(f" {own} ", f" {noun} ")


def test_a_seed_decides_the_twins_and_the_data_set_itself_is_as_it_was(spans):
    for counterfactual in ("another YY", "another century", "another noun"):
        one, again, other = (with_twins(spans, counterfactual, YEARS, TOKENIZER, seed) for seed in (3, 3, 4))
        assert one.bad_sentences == again.bad_sentences != other.bad_sentences
    assert spans.bad_prompt[spans.yy_position] == "01"


@pytest.mark.parametrize(
    ("counterfactual", "years", "complaint"),
    [
        ("another YY", [1732], "no twin for a sentence of 1732"),
        ("another century", [1732, 1745, 1845], "no twin for a sentence of 1732"),
        ("another century", [], "no twin for a sentence of 1732"),
        ("another noun", YEARS, "no twin for a sentence of war"),
        ("another YY", None, "None are no years"),
        ("another century", ["1832"], "are no years"),
        ("another YY", [1732, 1700], "is 12 tokens, not 13"),
        ("another century", [1732, 1032], None),
    ],
)
def test_a_sentence_without_another_of_its_kind_is_refused(counterfactual, years, complaint):
    data = YearDataset([1732], 3, "war", TOKENIZER, balanced=False)
    if complaint is None:
        assert len(with_twins(data, counterfactual, years, TOKENIZER)) == 3
        return
    with pytest.raises(UserError, match=complaint) as error:
        with_twins(data, counterfactual, years, TOKENIZER)
    assert len(str(error.value).splitlines()) == 1


def test_twins_that_differ_elsewhere_are_refused(monkeypatch, spans):
    """As they would if one of a sentence's words were left as it is."""
    monkeypatch.setitem(CHANGED, "another century", ("XX1",))
    with pytest.raises(UserError, match="should differ at token 7 and nowhere else"):
        with_twins(spans, "another century", YEARS, TOKENIZER)


@pytest.mark.parametrize("kind", ["another YY", "another century", "another noun"])
@pytest.mark.parametrize("earlier", ["another YY", "another century", "another noun"])
def test_twins_of_twins_are_those_of_the_sentences(spans, kind, earlier):
    twins = with_twins(with_twins(spans, earlier, YEARS, TOKENIZER), kind, YEARS, TOKENIZER)
    assert torch.equal(twins.bad_toks, with_twins(spans, kind, YEARS, TOKENIZER).bad_toks)
    assert twins.bad_prompt == with_twins(spans, kind, YEARS, TOKENIZER).bad_prompt


@pytest.mark.parametrize("kind", ["01", None, "another", ["another YY"], 1])
def test_a_kind_that_is_none_is_one_line(spans, kind):
    """“01” after “another noun” had noun twins under the name of 01."""
    for data in (spans, with_twins(spans, "another noun", YEARS, TOKENIZER)):
        with pytest.raises(UserError, match=r"is no kind of other twins .* another YY, another century, another noun"):
            with_twins(data, kind, YEARS, TOKENIZER)
    with pytest.raises(UserError, match="for a YearDataset"):
        with_twins(None, "another YY", YEARS, TOKENIZER)
