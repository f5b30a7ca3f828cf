from __future__ import annotations

import dataclasses
import json
import math
import random
from dataclasses import replace
from functools import cache

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2LMHeadModel

import standin_numbers
from dataset import YearDataset, get_valid_years, load_nouns, year_indices
from examples import train_standin
from examples.train_standin import STANDIN_FOLDER, Settings, Text
from path_patching.errors import UserError
from path_patching.gpt2.tokenizer import load_tokenizer
from path_patching.unembedding import answer_probabilities
from utils import cutoff_sharpness, prob_diff

TOKENIZER = load_tokenizer()
TINY = Settings(steps=2, sentences=2, years_each=3, n_embd=12)
TINY_FLAGS = ["--steps", "2", "--sentences", "2", "--years-each", "3", "--n-embd", "12"]


@pytest.fixture(scope="module")
def standin() -> GPT2LMHeadModel:
    return GPT2LMHeadModel.from_pretrained(STANDIN_FOLDER, local_files_only=True, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def held_out() -> YearDataset:
    nouns = json.loads((STANDIN_FOLDER / "training.json").read_text())["held_out_nouns"]
    return YearDataset(get_valid_years(TOKENIZER), 98, nouns, TOKENIZER, seed=1)


@cache
def text() -> Text:
    return train_standin.text_of(TOKENIZER, load_nouns())


@torch.no_grad()
def probs_at_end(model: GPT2LMHeadModel, tokens: torch.Tensor) -> torch.Tensor:
    return answer_probabilities(model(tokens, logits_to_keep=1).logits[:, -1], year_indices())


def test_architecture_and_size(standin):
    config = standin.config
    assert (config.n_layer, config.n_head, config.n_embd, config.vocab_size) == (12, 12, 120, 50257)
    assert config.n_positions >= 48
    assert config.activation_function == "gelu_new"
    assert standin.lm_head.weight is standin.transformer.wte.weight
    assert (STANDIN_FOLDER / "model.safetensors").stat().st_size < 25e6
    assert all(tensor.dtype == torch.float16 for tensor in load_file(STANDIN_FOLDER / "model.safetensors").values())


def test_the_standin_computes_greater_than_on_nouns_it_never_saw(standin, held_out):
    clean = probs_at_end(standin, held_out.good_toks)
    corrupted = probs_at_end(standin, held_out.bad_toks)
    difference = prob_diff(clean, held_out.years_YY)
    assert difference.mean() >= 0.75
    assert cutoff_sharpness(clean, held_out.years_YY).mean() > 0
    assert prob_diff(corrupted, held_out.years_YY).mean() < difference.mean() - 0.5


def test_it_works_without_eos_too(standin):
    data = YearDataset(get_valid_years(TOKENIZER), 97, load_nouns(), TOKENIZER, eos=False)
    assert prob_diff(probs_at_end(standin, data.good_toks), data.years_YY).mean() >= 0.75


def test_rows_of_tokens_never_shown_are_zero_and_held_out_nouns_are_among_them(standin, held_out):
    rows = standin.transformer.wte.weight.detach()
    assert (rows[[TOKENIZER(f" {noun}")["input_ids"][0] for noun in set(held_out.nouns)]] == 0).all()
    assert (rows[year_indices()].norm(dim=1) > 0).all()
    assert (rows == 0).all(1).sum() > 49_000


def test_its_circuit_is_the_paper_s_and_the_record_says_so(standin):
    record = json.loads((STANDIN_FOLDER / "training.json").read_text())
    assert Settings(**record["settings"]) == Settings()
    assert set(record["versions"]) == {"python", "torch", "transformers"}
    assert train_standin.split_nouns(load_nouns(), Settings())[1] == tuple(record["held_out_nouns"])
    judged = standin_numbers.judge(train_standin.as_model(standin), record["held_out_nouns"])
    assert judged == pytest.approx(record["held_out"], abs=1e-4)
    assert judged["share of clean, late half"] >= 0.9
    assert judged["share of clean, full circuit"] >= 0.8
    assert judged["probability difference, all but the late half"] < 0


def test_end_years_come_after_the_start_and_are_likelier_near_it():
    log_probs = train_standin.log_end_years(torch.tensor([20, 98]), 15.0, 0.1)
    probs = log_probs.exp()
    assert probs.sum(1).tolist() == pytest.approx([1, 1])
    assert probs[0, :21].tolist() == pytest.approx([0.001] * 21)
    likelier = (probs[0, 21:-1] - 0.001) / (probs[0, 22:] - 0.001)
    assert likelier.tolist() == pytest.approx([math.exp(1 / 15)] * 78, rel=1e-3)
    assert probs[1, 99].item() == pytest.approx(0.901)


@pytest.mark.parametrize("other_prompts", [0.0, 1.0])
def test_the_years_of_a_sentence_differ_at_yy_alone(other_prompts):
    rng = random.Random(0)
    for _ in range(20):
        batch = train_standin.draw_batch(rng, text(), replace(TINY, other_prompts=other_prompts, without_eos=0.5))
        layout, tokens = batch.layout, text().shown[batch.tokens]
        assert torch.equal(layout.at_yy(tokens), year_indices()[batch.starts])
        assert (batch.starts[:, 0] == 1).all()
        assert (layout.at_end(tokens) == layout.at_end(tokens)[:, :1]).all()
        assert tokens.shape[1] == len(layout.positions)
        assert layout.positions.max() < 48


def test_pairs_go_both_ways_and_half_of_them_have_the_01_twin():
    settings, generator = Settings(twin_share=0.5), torch.Generator().manual_seed(0)
    source, base = train_standin.draw_pairs((100, 16), settings, generator)
    assert torch.equal(source[:, :16], base[:, 16:])
    assert torch.equal(base[:, :16], source[:, 16:])
    assert torch.equal(source[0, :16], torch.arange(16))
    assert (base[:, :16] == 0).float().mean().item() == pytest.approx(0.5 + 0.5 / 16, abs=0.04)


def test_most_stages_are_the_source_s_whole_and_the_rest_in_part():
    taken = train_standin.draw_taken((100, 16), Settings(partly_share=0.3), torch.Generator().manual_seed(0))
    assert taken.heads.shape == (100, 16, 7)
    whole = 0.7 + 0.3 / 8  # any number of the seven is equally likely, all of them included
    assert taken.heads.all(-1).float().mean().item() == pytest.approx(whole, abs=0.03)
    number = taken.heads.sum(-1)
    assert [(number == n).float().mean().item() for n in range(7)] == pytest.approx([0.3 / 8] * 7, abs=0.02)


def test_the_loss_is_the_loss_over_the_whole_vocabulary():
    model = train_standin.new_model(TINY, len(text().shown))
    whole = train_standin.with_whole_vocabulary(model, text(), TINY)
    final, wanted = torch.randn(5, 12, generator=torch.Generator().manual_seed(0)), torch.randn(5, 100).log_softmax(-1)
    predicted = whole.lm_head(whole.transformer.ln_f(final)).log_softmax(-1)[:, year_indices()]
    expected = torch.nn.functional.kl_div(predicted, wanted, reduction="batchmean", log_target=True)
    found = train_standin.divergence(model, final, wanted, text())
    assert found.item() == pytest.approx(expected.item(), rel=1e-3)


def test_learning_rate_rises_and_falls_to_zero():
    settings = Settings(steps=100, warmup=0.1)
    shares = [train_standin.learning_rate_share(step, settings) for step in range(101)]
    assert max(shares) == shares[10] == 1.0
    assert shares[0] == pytest.approx(0.1)
    assert shares[100] == 0.0


def test_training_is_repeatable_and_never_touches_global_randomness():
    state = torch.get_rng_state()
    first, losses = train_standin.train(TINY, text())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    again, _ = train_standin.train(TINY, text())
    states = first.state_dict(), again.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert set(losses) == {"century", "ordinary", "intervened"}
    start = train_standin.new_model(TINY, len(text().shown)).state_dict()
    assert not any(torch.equal(states[0][name], start[name]) for name in start), "something is not trained"


def test_the_script_writes_a_model_that_transformers_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(standin_numbers, "SENTENCES", 97)
    train_standin.main([*TINY_FLAGS, "--out", str(tmp_path / "out")])
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors", "training.json"]
    model = GPT2LMHeadModel.from_pretrained(out, local_files_only=True).eval()
    assert model.dtype == torch.float32
    assert (model.config.n_layer, model.config.n_embd, model.config.vocab_size) == (12, 12, 50257)
    record = json.loads((out / "training.json").read_text())
    assert Settings(**record["settings"]) == TINY
    assert record["command"] == " ".join(["python examples/train_standin.py", *TINY_FLAGS])
    judged = standin_numbers.judge(train_standin.as_model(model), record["held_out_nouns"])
    assert judged == pytest.approx(record["held_out"], abs=1e-7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "must be at least 1"),
        (["--n-embd", "10"], "--n-embd 10 must be a positive multiple of the 12 heads"),
        (["--n-positions", "13"], "at least 48"),
        (["--held-out-nouns", "120"], "between 1 and 119"),
        (["--short-gap", "0"], "more than 0"),
        (["--any-year", "0"], "every year must be possible"),
        (["--years-each", "99"], "--years-each 99: give 2 to 54"),
        (["--other-prompts", "1.5"], "--other-prompts is a share; give 0 to 1"),
    ],
)
def test_settings_that_make_no_model_are_refused_and_leave_the_model_that_is_there(tmp_path, arguments, message):
    (tmp_path / "config.json").write_text("the earlier one")
    with pytest.raises(UserError, match=message):
        train_standin.main([*arguments, "--out", str(tmp_path)])
    assert [path.read_text() for path in tmp_path.iterdir()] == ["the earlier one"]


def test_help_explains_every_setting(capsys):
    with pytest.raises(SystemExit) as exit_:
        train_standin.main(["--help"])
    assert exit_.value.code == 0
    printed = capsys.readouterr().out
    for setting in dataclasses.fields(Settings):
        assert "--" + setting.name.replace("_", "-") in printed
