from __future__ import annotations

import pytest
import torch

from path_patching.errors import UserError
from path_patching.gpt2.tokenizer import load_tokenizer
from tasks import plain_sentences as module
from tasks.plain_sentences import plain_sentences

TOKENIZER = load_tokenizer()


def test_plain_sentences_are_cut_to_the_length_of_a_year_span():
    data = plain_sentences(TOKENIZER)
    assert data.good_toks.shape == (50, 13)
    assert len(set(data.good_sentences)) == 50
    assert TOKENIZER(list(data.good_sentences))["input_ids"] == data.good_toks.tolist()
    assert torch.equal(data.good_toks, data.bad_toks)
    assert data.good_sentences == data.bad_sentences
    assert data.answers.tolist() == list(range(50257))
    assert data.end == 12


def test_a_plain_sentence_that_is_too_short_is_named(monkeypatch, tmp_path):
    (tmp_path / "plain.txt").write_text("It rains.\n")
    monkeypatch.setattr(module, "PLAIN_FILE", tmp_path / "plain.txt")
    with pytest.raises(UserError, match=r"It rains\.' is 4 tokens; a plain sentence needs at least 13"):
        plain_sentences(TOKENIZER)
