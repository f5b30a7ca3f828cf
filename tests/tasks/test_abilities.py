from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
import torch

from dataset import NOUNS_FILE, YearDataset, get_valid_years
from path_patching.engine import Sentences
from path_patching.errors import UserError
from path_patching.gpt2.model import Architecture, random_model
from path_patching.gpt2.tokenizer import EOS, load_tokenizer
from path_patching.torch_engine.engine import TorchEngine
from tasks import abilities as module
from tasks.abilities import (
    PLURAL,
    SINGULAR,
    AbilityDataset,
    century_copying,
    indirect_object,
    subject_verb_number,
)

TOKENIZER = load_tokenizer()
YEARS = get_valid_years(TOKENIZER)
SIZES = Architecture(n_layers=1, n_heads=2, d_model=8, d_head=4, d_mlp=16, n_positions=16, vocab_size=50257)


@pytest.fixture(scope="module")
def spans() -> YearDataset:
    return YearDataset(YEARS, 97, NOUNS_FILE, TOKENIZER)


@pytest.fixture(scope="module")
def abilities(spans) -> dict[str, AbilityDataset]:
    found = [
        century_copying(spans, YEARS, TOKENIZER),
        indirect_object(TOKENIZER, 97),
        subject_verb_number(TOKENIZER, 97),
    ]
    return {each.name: each for each in found}


NAMES = ["century copying", "indirect object", "subject–verb number"]


@pytest.mark.parametrize("name", NAMES)
def test_clean_and_corrupted_differ_at_one_token_and_read_as_they_are_written(abilities, name):
    data = abilities[name]
    assert data.good_toks.shape == data.bad_toks.shape == (97, data.end + 1)
    assert (data.good_toks != data.bad_toks).nonzero().tolist() == [[row, data.yy_position] for row in range(97)]
    assert 0 < data.yy_position < data.end
    for sentences, tokens in ((data.good_sentences, data.good_toks), (data.bad_sentences, data.bad_toks)):
        assert TOKENIZER(list(sentences))["input_ids"] == tokens.tolist()
        assert all(sentence.startswith(f"{EOS} ") for sentence in sentences)


@pytest.mark.parametrize("name", NAMES)
def test_an_engine_takes_them_and_the_metric_is_right_minus_wrong(abilities, name):
    data = abilities[name]
    sentences = Sentences(data.good_toks, data.bad_toks, data.answers)
    values = data.metric(TorchEngine(random_model(SIZES), sentences).clean())
    assert values.shape == (97,)
    assert values.abs().max() < 0.1
    certain = data.signs.clamp(min=0) / data.signs.clamp(min=0).sum(1, keepdim=True)
    torch.testing.assert_close(data.metric(certain), torch.ones(97, dtype=torch.float64))
    wrong = data.signs.clamp(max=0).abs()
    torch.testing.assert_close(data.metric(wrong), -wrong.sum(1))


def words_of(data: AbilityDataset, row: int, sign: int) -> list[str]:
    """The right (1) or wrong (−1) answers of a sentence."""
    return [TOKENIZER.decode([token]).strip() for token in data.answers[data.signs[row] == sign].tolist()]


def test_the_first_sentences_are_a_data_set_of_their_own(abilities):
    for data in abilities.values():
        few = data.first(5)
        assert torch.equal(few.good_toks, data.good_toks[:5])
        assert torch.equal(few.bad_toks, data.bad_toks[:5])
        assert [*few.as_table()] == [*data.as_table()]
        assert len(few.as_table()) == len(few.good_sentences) == len(few.bad_sentences) == 5
        probabilities = torch.rand(len(data.good_toks), len(data.answers), dtype=torch.float64)
        assert torch.equal(few.log_odds(probabilities[:5]), data.log_odds(probabilities)[:5])


def test_century_copying_wants_xx1_at_year(abilities, spans):
    data = abilities["century copying"]
    assert (data.yy_position, data.end) == (spans.xx1, spans.end - 1)
    assert torch.equal(data.good_toks, spans.good_toks[:, : spans.end])
    for row, (sentence, century) in enumerate(zip(data.good_sentences, spans.years_XX.tolist(), strict=True)):
        assert sentence == f"{EOS} The {spans.nouns[row]} lasted from the year {spans.years[row]} to the year"
        assert words_of(data, row, 1) == [str(century)]
        assert words_of(data, row, -1) == []
        assert int(data.bad_sentences[row].split()[7]) % 100 == spans.years_YY[row]
    assert [len(each.unique()) for each in data.clusters] == [len(set(spans.nouns)), 97]


def test_the_indirect_object_is_the_one_who_is_named_once(abilities):
    data = abilities["indirect object"]
    for row, (sentence, twin) in enumerate(zip(data.good_sentences, data.bad_sentences, strict=True)):
        (right,), (wrong,) = words_of(data, row, 1), words_of(data, row, -1)
        assert (sentence.count(f" {right} "), sentence.count(f" {wrong} ")) == (1, 2)
        assert (twin.count(f" {right} "), twin.count(f" {wrong} ")) == (2, 1)
        assert sentence.endswith(" to")
    first = [sentence.split()[2] == words_of(data, row, 1)[0] for row, sentence in enumerate(data.good_sentences)]
    assert 30 < sum(first) < 67  # either is named first
    assert len(data.clusters) == 2


def test_the_verb_has_the_number_of_the_subject(abilities):
    data = abilities["subject–verb number"]
    numbers = dict(line.split() for line in module.SUBJECTS_FILE.read_text().splitlines())
    for row, (sentence, twin) in enumerate(zip(data.good_sentences, data.bad_sentences, strict=True)):
        subject, other = sentence.split()[2], twin.split()[2]
        is_singular = subject in numbers
        assert numbers[subject if is_singular else other] == (other if is_singular else subject)
        right, wrong = words_of(data, row, 1), words_of(data, row, -1)
        assert (right, wrong) == (([*SINGULAR], [*PLURAL]) if is_singular else ([*PLURAL], [*SINGULAR]))
    assert sum((data.signs[:, 0] > 0).tolist()) == 49
    assert len(data.clusters[0].unique()) == len({*data.drawn["subject"]}) > 30


@pytest.mark.parametrize("make", [indirect_object, subject_verb_number])
def test_a_seed_decides_the_sentences(make):
    one, again, other = (make(TOKENIZER, 20, seed) for seed in (1, 1, 2))
    assert one.good_sentences == again.good_sentences != other.good_sentences
    assert one.bad_sentences == again.bad_sentences
    with pytest.raises(UserError, match="at least one sentence"):
        make(TOKENIZER, 0)


@pytest.mark.parametrize(
    ("make", "file", "text", "complaint"),
    [
        (indirect_object, "NAMES_FILE", "Mary\nJohn\nHildegard", "choose"),
        (subject_verb_number, "SUBJECTS_FILE", "dog dogs\nbrouhaha brouhahas", "choose words"),
        (subject_verb_number, "SUBJECTS_FILE", "sheep sheep", "should differ"),
        (indirect_object, "NAMES_FILE", "", "holds no name"),
    ],
)
def test_words_that_are_not_one_token_are_refused(monkeypatch, tmp_path, make, file, text, complaint):
    (tmp_path / "words.txt").write_text(text)
    monkeypatch.setattr(module, file, tmp_path / "words.txt")
    with pytest.raises(UserError, match=complaint) as error:
        make(TOKENIZER, 20)
    assert len(str(error.value).splitlines()) == 1


def test_a_sentence_without_a_right_answer_and_one_that_is_its_own_twin_are_refused(abilities):
    data = abilities["indirect object"]
    with pytest.raises(UserError, match="indirect object: each of 97 sentences needs a right one among 40"):
        replace(data, signs=data.signs.clamp(max=0))
    with pytest.raises(UserError, match="should differ at token 10 and nowhere else"):
        replace(data, bad_toks=data.good_toks)
    with pytest.raises(UserError, match="should differ at token 9 and nowhere else"):
        replace(data, yy_position=9)


def test_what_was_drawn_is_drawn_again(abilities):
    data = replace(abilities["indirect object"], drawn=pd.DataFrame({"name": ["a", "b", "a"], "thing": [1, 1, 2]}))
    assert [each.tolist() for each in data.clusters] == [[0, 1, 0], [0, 0, 1]]
    assert data.as_table() is data.drawn
