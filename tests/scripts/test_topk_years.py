from __future__ import annotations

import pytest
import torch
from transformers import GPT2LMHeadModel

from dataset import NOUNS_FILE, YearDataset, get_valid_years
from path_patching.gpt2.names import STANDIN_FOLDER
from path_patching.gpt2.tokenizer import load_tokenizer
from reproduction.run import read_artifacts
from tests.helpers.experiments import random_gpt2, run_experiment
from tests.helpers.scripts import output

N = 30
TOKENIZER = load_tokenizer()


@pytest.fixture(scope="module", params=["stand-in", "two layers, some more tokens"])
def checkpoint(request, tmp_path_factory):
    """The name to run a model by, and the folder of its checkpoint."""
    if request.param == "stand-in":
        return "standin", STANDIN_FOLDER
    # Some checkpoints have rows that only fill the vocabulary up.
    folder = random_gpt2(tmp_path_factory.mktemp("checkpoint"), n_positions=13, vocab_size=50304)
    return folder, folder


@pytest.fixture(scope="module")
def run(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert "top 100" in output(run_experiment("topk_years", folder, checkpoint[0], N))
    return read_artifacts(folder / "out", "topk_years")


@pytest.fixture(scope="module")
def logits(checkpoint):
    """Logits of all positions, from the checkpoint as `transformers` reads it: (N, 13, V), and the data set."""
    dataset = YearDataset(get_valid_years(TOKENIZER), N, NOUNS_FILE, TOKENIZER, balanced=False, seed=0)
    with torch.no_grad():
        return GPT2LMHeadModel.from_pretrained(checkpoint[1]).eval()(dataset.good_toks).logits.double(), dataset


def test_numbers_equal_an_obvious_count_of_words(run, logits):
    logits, dataset = logits
    total, later, same, all_five, valid, how_many = (0.0,) * 6
    for row, century, yy in zip(logits, dataset.years_XX.tolist(), dataset.years_YY.tolist(), strict=True):
        before, at_end = (row[position].softmax(0).topk(k) for position, k in ((-2, 100), (-1, 5)))
        for probability, token in zip(before.values.tolist(), before.indices.tolist(), strict=True):
            word = TOKENIZER.decode([token])
            is_century = len(word) == 3 and word[0] == " " and word[1:].isdecimal() and word[1] != "0"
            total += probability
            later += probability * (is_century and int(word) >= century)
            same += probability * (is_century and int(word) == century)
        for probability, token in zip(at_end.values.tolist(), at_end.indices.tolist(), strict=True):
            word = TOKENIZER.decode([token])
            is_valid = len(word) == 2 and word.isascii() and word.isdecimal() and int(word) >= yy
            all_five += probability
            valid += probability * is_valid
            how_many += is_valid
    expected = {
        "before_xx2/top_100/probability": total,
        "before_xx2/centuries_from_xx1/probability": later,
        "before_xx2/xx1/probability": same,
        "at_end/top_5/probability": all_five,
        "at_end/years_from_yy/probability": valid,
        "at_end/years_from_yy/count": how_many,
    }
    found = {key: run.number(key).value for key in run.record["numbers"]}
    assert found == pytest.approx({name: value / N for name, value in expected.items()}, abs=1e-6)


def test_artifacts_hold_every_sentence_s_likeliest_tokens(run, logits):
    logits, dataset = logits
    centuries, years = run.load("top100_centuries.pt"), run.load("top5_years.pt")
    assert torch.equal(centuries["XX1"], dataset.years_XX)
    assert torch.equal(years["YY"], dataset.years_YY)
    for found, position, k in ((centuries, -2, 100), (years, -1, 5)):
        expected = logits[:, position].softmax(-1).topk(k).values
        torch.testing.assert_close(found["probabilities"], expected, rtol=0, atol=1e-6)
    assert centuries["centuries"].shape == (N, 100)
    assert years["years"].shape == (N, 5)


def test_the_stand_in_predicts_sensible_tokens(run, checkpoint):
    if checkpoint[0] != "standin":
        pytest.skip("random weights predict nothing")
    assert run.number("before_xx2/xx1/probability").value > 0.95
    assert run.number("at_end/years_from_yy/count").value > 4
