from __future__ import annotations

import pytest
import torch
from transformers import GPT2LMHeadModel

from dataset import get_valid_years
from path_patching.gpt2.names import STANDIN_FOLDER
from path_patching.gpt2.tokenizer import load_tokenizer
from reproduction.run import read_artifacts
from tests.helpers.checkpoints import save_checkpoint
from tests.helpers.experiments import random_gpt2, run_experiment
from tests.helpers.scripts import output

SCRIPT = "random_years"
N = 30
TOKENIZER = load_tokenizer()
CHECKED = 5  # sentences


@pytest.fixture(scope="module", params=["stand-in", "two layers"])
def checkpoint(request, tmp_path_factory):
    """The name to run a model by, and the folder of its checkpoint."""
    if request.param == "stand-in":
        return "standin", STANDIN_FOLDER
    folder = random_gpt2(tmp_path_factory.mktemp("checkpoint"), n_positions=17)
    return folder, folder


@pytest.fixture(scope="module")
def run(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert "YY5 + 1" in output(run_experiment(SCRIPT, folder, checkpoint[0], N))
    return read_artifacts(folder / "out", SCRIPT)


def test_lists_are_five_different_valid_years_of_one_century(run):
    years = run.load("random_years_top5.pt")["years"]
    assert years.shape == (N, 5)
    assert set(years.flatten().tolist()) <= set(get_valid_years(TOKENIZER).tolist())
    for listed in years.tolist():
        assert len(set(listed)) == 5
        assert len({year // 100 for year in listed}) == 1
    assert len({year // 100 for year in years[:, 0].tolist()}) > 3


def test_probabilities_are_those_of_transformers(run, checkpoint):
    model = GPT2LMHeadModel.from_pretrained(checkpoint[1]).eval()
    top5, probs = run.load("random_years_top5.pt"), run.load("random_years_probs.pt")
    for i, listed in enumerate(top5["years"][:CHECKED].tolist()):
        text = "<|endoftext|>" + "".join(f" {year}," for year in listed) + f" {listed[0] // 100}"
        with torch.no_grad():
            logits = model(torch.tensor([TOKENIZER(text)["input_ids"]])).logits[0, -1].double()
        expected = logits.softmax(0)
        years = [expected[TOKENIZER.convert_tokens_to_ids(f"{yy:02d}")].item() for yy in range(100)]
        assert probs[i].tolist() == pytest.approx(years, abs=1e-6)
        assert top5["probabilities"][i].tolist() == pytest.approx(expected.topk(5).values.tolist(), abs=1e-6)
        assert expected[top5["tokens"][i]].tolist() == pytest.approx(expected.topk(5).values.tolist(), abs=1e-6)


def test_numbers_are_means_over_the_sentences(run):
    probs, last = run.load("random_years_probs.pt"), run.load("random_years_top5.pt")["years"][:, -1] % 100
    later = [sum(row[yy + 1 :]) for row, yy in zip(probs.tolist(), last.tolist(), strict=True)]
    others = [sum(row[: yy + 1]) for row, yy in zip(probs.tolist(), last.tolist(), strict=True)]
    after = [row[yy + 1] for row, yy in zip(probs.tolist(), last.tolist(), strict=True)]
    expected = {"next_year": after, "later_years": later, "other_years": others}
    for name, values in expected.items():
        number = run.number(f"{name}/probability")
        assert number.value == pytest.approx(sum(values) / N, abs=1e-12)
        assert number.low < number.value < number.high
    likeliest = list(run.number("likeliest_tokens/probability").values())
    assert len(likeliest) == 5
    assert likeliest == sorted(likeliest, reverse=True)
    assert likeliest[0] >= probs.mean(0).max().item() - 1e-9
    assert run.record["engine"] == "transformers"


def test_one_seed_gives_one_result(run, checkpoint, tmp_path):
    if checkpoint[0] == "standin":
        pytest.skip("one model is enough")
    output(run_experiment(SCRIPT, tmp_path, checkpoint[0], N))
    again = read_artifacts(tmp_path / "out", SCRIPT)
    assert again.record["artifacts"] == run.record["artifacts"]
    assert again.record["numbers"] == run.record["numbers"]


def test_a_model_without_gpt2_s_vocabulary_is_one_line(tmp_path):
    model = save_checkpoint(tmp_path / "model", n_positions=20)
    failed = run_experiment(SCRIPT, tmp_path, model, N)
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: the sentences use token 50256 of GPT-2's tokenizer; the model has 20")
    assert len(failed.stderr.splitlines()) == 1
