from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2LMHeadModel

from dataset import YearDataset, get_valid_years, load_nouns, year_indices
from examples import train_standin
from examples.train_standin import STANDIN_FOLDER, Settings
from path_patching.errors import UserError
from path_patching.gpt2.tokenizer import load_tokenizer
from path_patching.unembedding import answer_probabilities
from utils import cutoff_sharpness, prob_diff

REPOSITORY = Path(__file__).resolve().parents[2]
TOKENIZER = load_tokenizer()
TINY = ["--steps", "2", "--batch-size", "4", "--n-layer", "2", "--n-head", "2", "--n-embd", "8"]


def run_script(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "examples" / "train_standin.py"), *arguments]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}, check=False
    )


@pytest.fixture(scope="module")
def standin() -> GPT2LMHeadModel:
    return GPT2LMHeadModel.from_pretrained(STANDIN_FOLDER, local_files_only=True, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def held_out() -> YearDataset:
    nouns = json.loads((STANDIN_FOLDER / "training.json").read_text())["held_out_nouns"]
    return YearDataset(get_valid_years(TOKENIZER), 490, nouns, TOKENIZER, seed=1)


@torch.no_grad()
def probs_at_end(model: GPT2LMHeadModel, tokens: torch.Tensor) -> torch.Tensor:
    return answer_probabilities(model(tokens, logits_to_keep=1).logits[:, -1], year_indices())


def test_architecture_and_size(standin):
    config = standin.config
    assert (config.n_layer, config.n_head, config.n_embd, config.vocab_size) == (12, 12, 96, 50257)
    assert config.n_positions >= 48
    assert config.activation_function == "gelu_new"
    assert standin.lm_head.weight is standin.transformer.wte.weight
    assert (STANDIN_FOLDER / "model.safetensors").stat().st_size < 15e6
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


def test_the_record_is_the_model_s(standin):
    record = json.loads((STANDIN_FOLDER / "training.json").read_text())
    assert record["settings"] == {**record["settings"], "n_layer": 12, "n_head": 12, "n_embd": 96}
    assert set(record["versions"]) == {"python", "torch", "transformers"}
    judged = train_standin.judge(standin, record["held_out_nouns"], TOKENIZER, n=970)
    assert judged == pytest.approx(record["held_out"], abs=1e-4)
    assert train_standin.split_nouns(load_nouns(), Settings(**record["settings"]))[1] == tuple(record["held_out_nouns"])


def test_examples_end_after_they_start_and_are_likelier_near_the_start():
    rng = random.Random(0)
    years = train_standin.start_years(TOKENIZER)
    assert {year % 100 for year in years} == set(range(1, 99))
    drawn = [train_standin.draw_example(rng, ["war"], [1720], 15.0, Settings(other_prompts=0.0)) for _ in range(4000)]
    gaps = Counter(example.end_yy - 20 for example in drawn)
    assert set(gaps) <= set(range(1, 80))
    total = sum(math.exp(-gap / 15) for gap in range(1, 80))
    for gap in (1, 5, 20):
        assert gaps[gap] / 4000 == pytest.approx(math.exp(-gap / 15) / total, abs=0.012)


def test_every_example_can_be_coded_and_ends_with_its_century():
    rng = random.Random(0)
    nouns, years = load_nouns(), train_standin.start_years(TOKENIZER)
    coder = train_standin.text_coder(TOKENIZER, nouns, years)
    examples = [train_standin.draw_example(rng, nouns, years, 15.0, Settings(other_prompts=0.9)) for _ in range(5000)]
    tokens, ends = coder.encode([example.prompt for example in examples])
    assert tokens.shape[1] < 48
    token_of = {row: token for token, row in coder.row_of.items()}
    for example, row in zip(examples[:200], tokens[range(5000), ends].tolist(), strict=False):
        assert example.prompt.endswith(TOKENIZER.convert_ids_to_tokens(token_of[row]).replace("Ġ", " "))


def test_the_loss_is_the_loss_over_the_whole_vocabulary():
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(5, 30, generator=generator), torch.tensor([0, 3, 29, 7, 7])
    whole = torch.cat([logits, torch.zeros(5, 1000)], dim=1)
    expected = torch.nn.functional.cross_entropy(whole, targets)
    assert train_standin.cross_entropy(logits, targets, 1000).item() == pytest.approx(expected.item(), abs=1e-5)


def test_learning_rate_rises_and_falls_to_zero():
    settings = Settings(steps=100, warmup=0.1)
    shares = [train_standin.learning_rate_share(step, settings) for step in range(101)]
    assert max(shares) == shares[10] == 1.0
    assert shares[0] == pytest.approx(0.1)
    assert shares[100] == 0.0


def test_a_run_that_never_saw_global_randomness_is_repeatable():
    settings = Settings(steps=2, batch_size=4, n_layer=1, n_head=1, n_embd=4)
    nouns, years = load_nouns(), train_standin.start_years(TOKENIZER)
    coder = train_standin.text_coder(TOKENIZER, nouns, years)
    state = torch.get_rng_state()
    first = train_standin.train(settings, nouns, coder, years).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    again = train_standin.train(settings, nouns, coder, years).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_the_script_writes_a_model_that_transformers_loads(tmp_path):
    run = run_script(*TINY, "--out", "out", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors", "training.json"]
    model = GPT2LMHeadModel.from_pretrained(out, local_files_only=True).eval()
    assert model.dtype == torch.float32
    assert (model.config.n_layer, model.config.n_embd, model.config.vocab_size) == (2, 8, 50257)
    record = json.loads((out / "training.json").read_text())
    assert record["settings"]["steps"] == 2
    judged = train_standin.judge(model, record["held_out_nouns"], TOKENIZER, n=970)
    assert judged == pytest.approx(record["held_out"], abs=1e-7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "must be at least 1"),
        (["--n-embd", "10", "--n-head", "3"], "--n-embd 10 must be a positive multiple of --n-head 3"),
        (["--n-positions", "13"], "at least 48"),
        (["--held-out-nouns", "120"], "between 1 and 119"),
        (["--short-gap", "0"], "more than 0"),
        (["--other-prompts", "1.5"], "are shares"),
    ],
)
def test_settings_that_make_no_model_are_refused_and_write_nothing(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        train_standin.main([*arguments, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_an_error_is_one_line_and_leaves_the_model_that_is_there(tmp_path):
    (tmp_path / "config.json").write_text("the earlier one")
    run = run_script("--steps", "0", "--out", str(tmp_path), cwd=tmp_path)
    assert run.returncode != 0
    assert run.stderr.startswith("error: --steps")
    assert run.stderr.count("\n") == 1
    assert [path.read_text() for path in tmp_path.iterdir()] == ["the earlier one"]


def test_help_explains_every_setting(capsys):
    with pytest.raises(SystemExit) as exit_:
        train_standin.main(["--help"])
    assert exit_.value.code == 0
    printed = capsys.readouterr().out
    for setting in dataclasses.fields(Settings):
        assert "--" + setting.name.replace("_", "-") in printed
