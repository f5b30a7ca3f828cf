from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from dataset import year_indices
from path_patching.errors import UserError
from path_patching.gpt2.tokenizer import (
    TOKENIZER_FOLDER,
    check_reads_alike,
    load_tokenizer,
    token_texts,
    transformers_tokenizer,
)
from tests.helpers.refusals import put_there


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer()


def test_known_ids(tokenizer):
    assert len(tokenizer) == 50257
    assert tokenizer.convert_tokens_to_ids("<|endoftext|>") == 50256
    sentence = "<|endoftext|> The war lasted from the year 1732 to the year 17"
    assert tokenizer(sentence)["input_ids"] == [
        50256, 383, 1175, 15436, 422, 262, 614, 1596, 2624, 284, 262, 614, 1596,
    ]  # fmt: skip
    assert year_indices()[:5].tolist() == [405, 486, 2999, 3070, 3023]
    assert tokenizer.tokenize(" 1001") == ["Ġ100", "1"]


@pytest.mark.parametrize("text", ["Hello, world!", " naïve café — 東京 🎉", "a\n\n  b\tc", " 1732 to 1745"])
def test_round_trip(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_every_year_token_decodes_to_its_two_digits(tokenizer):
    ids = year_indices()
    assert ids.dtype == torch.int64
    assert [tokenizer.decode([token]) for token in ids.tolist()] == [f"{yy:02d}" for yy in range(100)]


def test_tokens_are_shown_as_the_text_that_they_stand_for(tokenizer):
    assert token_texts(tokenizer, tokenizer(" 1732, orchestrated")["input_ids"]) == [" 17", "32", ",", " orchestrated"]
    assert token_texts(tokenizer, torch.tensor([50256])) == ["<|endoftext|>"]


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


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_what_is_no_file_is_not_waited_for(tmp_path, name, monkeypatch):
    folder = tmp_path / "tokenizer"
    shutil.copytree(TOKENIZER_FOLDER, folder)
    put_there(folder / name, "pipe", monkeypatch)
    with pytest.raises(UserError, match=rf"{name} cannot be read \(it is not a file\)"):
        load_tokenizer(folder)


def test_it_reads_like_that_of_transformers(tokenizer):
    """Which other libraries ask for its name."""
    theirs = transformers_tokenizer()
    assert theirs.name_or_path == "gpt2"
    texts = ["", "<|endoftext|>The war<|endoftext|>", "  two  spaces\n\tIt's 1732–1745, naïve 東京 🎉", "x" * 1000]
    assert tokenizer(texts).input_ids == theirs(texts).input_ids
    assert [*map(tokenizer.tokenize, texts)] == [*map(theirs.tokenize, texts)]
    assert [*map(tokenizer.decode, theirs(texts).input_ids)] == texts


# A checkpoint's own


TEXTS = ("<|endoftext|> The war lasted from the year 1732 to the year 17", " naïve")
ANSWERS = {"32": 2624, "00": 405}


def own_tokenizer(folder: Path, edit=lambda vocabulary: vocabulary) -> Path:
    """A folder with GPT-2's tokenizer as `transformers` saves it, and its vocabulary edited."""
    transformers_tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"] = edit(content["model"]["vocab"])
    path.write_text(json.dumps(content))
    return folder


def swapped(one: str, other: str):
    return lambda vocabulary: vocabulary | {one: vocabulary[other], other: vocabulary[one]}


def check(folder: Path, tokenizer) -> None:
    check_reads_alike(folder, TEXTS, tokenizer(list(TEXTS))["input_ids"], ANSWERS)


def test_a_folder_without_a_tokenizer_or_with_gpt2s_passes(tmp_path, tokenizer):
    (tmp_path / "none").mkdir()
    check(tmp_path / "none", tokenizer)
    check(own_tokenizer(tmp_path / "gpt2s"), tokenizer)
    check(own_tokenizer(tmp_path / "other-words", swapped("Ġcat", "Ġdog")), tokenizer)  # that are not used
    shutil.copytree(TOKENIZER_FOLDER, tmp_path / "files")
    (tmp_path / "files" / "config.json").write_text('{"model_type": "gpt2"}')
    check(tmp_path / "files", tokenizer)


@pytest.mark.parametrize(("used", "unused", "text"), [("Ġwar", "Ġcat", ".* The war .*"), ("00", "Ġcat", "00")])
def test_a_checkpoints_own_tokenizer_has_to_read_alike(tmp_path, tokenizer, used, unused, text):
    folder = own_tokenizer(tmp_path / "model", swapped(used, unused))
    ids = [tokenizer.convert_tokens_to_ids(token) for token in (unused, used)]
    words = "tokenizer\\.json reads '{}' with token {} where GPT-2's tokenizer has {};".format(text, *ids)
    with pytest.raises(UserError, match=words) as raised:
        check(folder, tokenizer)
    assert "\n" not in str(raised.value)


def damage(path: Path) -> None:
    path.write_text('{"model": {"type": "Nothing"}}')


@pytest.mark.parametrize(
    "break_it", [damage, lambda path: path.write_bytes(b"\xff"), lambda path: path.write_text("[" * 5000)]
)
def test_a_tokenizer_that_cannot_be_read_is_one_line(tmp_path, tokenizer, break_it):
    folder = own_tokenizer(tmp_path / "model")
    break_it(folder / "tokenizer.json")
    with pytest.raises(UserError, match=r"tokenizer\.json is not a tokenizer that can be read") as raised:
        check(folder, tokenizer)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_pipe_among_a_tokenizers_files_is_not_waited_for(tmp_path, tokenizer, name, monkeypatch):
    folder = own_tokenizer(tmp_path / "model")
    put_there(folder / name, "pipe", monkeypatch)
    with pytest.raises(UserError, match=rf"{name} cannot be read \(it is not a file\)"):
        check(folder, tokenizer)
