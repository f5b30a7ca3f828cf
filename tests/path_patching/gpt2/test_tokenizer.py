from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dataset import find_year_token_ids, year_indices
from path_patching.errors import UserError
from path_patching.gpt2.tokenizer import TOKENIZER_FOLDER, load_tokenizer, token_texts

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer()


def test_known_ids(tokenizer):
    assert len(tokenizer) == 50257
    assert tokenizer.eos_token_id == 50256
    sentence = "<|endoftext|> The war lasted from the year 1732 to the year 17"
    assert tokenizer(sentence)["input_ids"] == [
        50256, 383, 1175, 15436, 422, 262, 614, 1596, 2624, 284, 262, 614, 1596,
    ]  # fmt: skip
    assert find_year_token_ids(tokenizer)[:5].tolist() == [405, 486, 2999, 3070, 3023]
    assert tokenizer.tokenize(" 1001") == ["Ġ100", "1"]


@pytest.mark.parametrize("text", ["Hello, world!", " naïve café — 東京 🎉", "a\n\n  b\tc", " 1732 to 1745"])
def test_round_trip(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"], clean_up_tokenization_spaces=False) == text


def test_every_year_token_decodes_to_its_two_digits(tokenizer):
    ids = find_year_token_ids(tokenizer)
    assert ids.dtype == torch.int64
    assert [tokenizer.decode([token]) for token in ids.tolist()] == [f"{yy:02d}" for yy in range(100)]


def test_tokens_are_shown_as_the_text_that_they_stand_for(tokenizer):
    assert token_texts(tokenizer, tokenizer(" 1732, orchestrated")["input_ids"]) == [" 17", "32", ",", " orchestrated"]
    assert token_texts(tokenizer, torch.tensor([50256])) == ["<|endoftext|>"]


def test_the_committed_year_indices_are_the_tokenizers(tokenizer):
    assert torch.equal(year_indices(), find_year_token_ids(tokenizer))


def test_it_loads_from_another_working_directory_without_a_hub(tmp_path):
    code = "from path_patching.gpt2.tokenizer import load_tokenizer; print(load_tokenizer()(' The')['input_ids'])"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[383]"


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_missing_or_damaged_file_is_named(tmp_path, name):
    folder = tmp_path / "tokenizer"
    shutil.copytree(TOKENIZER_FOLDER, folder)
    load_tokenizer(folder)
    with (folder / name).open("a") as file:
        file.write(" ")
    with pytest.raises(UserError, match=f"{name} is damaged"):
        load_tokenizer(folder)
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        load_tokenizer(folder)
