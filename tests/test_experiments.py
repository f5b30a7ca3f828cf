"""Starting an experiment on a checkpoint: its own tokenizer has to read alike, and it has to answer with years."""

from __future__ import annotations

import json
import re
import tempfile
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import torch

from dataset import get_valid_years, year_indices
from path_patching.bootstrap import mean, share
from path_patching.circuits.validation.faithfulness import divergence_from
from path_patching.errors import UserError
from path_patching.gpt2.tokenizer import load_tokenizer, transformers_tokenizer
from path_patching.paths import PathSet
from path_patching.sweeps import changes
from reproduction.evaluations import Evaluations
from reproduction.plots import start_plots
from reproduction.run import open_run, read_artifacts
from reproduction.settings import PlotSettings, Settings
from tasks.abilities import century_copying, subject_verb_number
from tasks.other_twins import with_twins
from tasks.plain_sentences import plain_sentences
from tasks.prompts import TASKS, build
from tests.helpers.checkpoints import edit_tensors
from tests.helpers.experiments import random_gpt2
from utils import (
    YearExperiment,
    check_tokens,
    start_experiment,
    start_transformers_experiment,
    year_metrics,
)

TOKENIZER = load_tokenizer()
STARTS = {"patching": start_experiment, "next tokens": start_transformers_experiment}
each_start = pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORS_CACHE_DIR", str(tmp_path / "tensors"))


def settings_for(folder: Path, n: int = 4) -> Settings:
    return Settings(model=str(folder), engine="torch", device="cpu", n=n, out=folder.parent / "out")


@cache
def tokenizer_files() -> dict[str, str]:
    """GPT-2's tokenizer as `transformers` saves it, by the name of the file."""
    with tempfile.TemporaryDirectory() as folder:
        transformers_tokenizer().save_pretrained(folder)
        return {path.name: path.read_text() for path in Path(folder).iterdir()}


def bring_tokenizer(folder: Path, *swapped: str) -> None:
    """Put GPT-2's tokenizer beside a checkpoint, two of its tokens swapped."""
    for file, text in tokenizer_files().items():
        (folder / file).write_text(text)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary |= dict(zip(swapped, [vocabulary[token] for token in reversed(swapped)], strict=True))
    path.write_text(json.dumps(content))


# The tokenizer


@each_start
def test_a_checkpoint_with_gpt2s_tokenizer_or_none_starts(tmp_path: Path, start):
    folder = random_gpt2(tmp_path / "model")
    start(settings_for(folder))
    bring_tokenizer(folder, "Ġcat", "Ġdog")
    start(settings_for(folder))


@each_start
@pytest.mark.parametrize("swapped", [("Ġyear", "Ġcat"), ("45", "Ġcat"), ("Ġ17", "Ġcat")])
def test_a_checkpoint_whose_own_tokens_are_others_is_refused(tmp_path: Path, start, swapped: tuple[str, str]):
    folder = random_gpt2(tmp_path / "model")
    bring_tokenizer(folder, *swapped)
    with pytest.raises(
        UserError, match=r"tokenizer\.json reads .* where GPT-2's tokenizer has .*; give a model"
    ) as raised:
        start(settings_for(folder, n=97))
    assert "\n" not in str(raised.value)


def test_other_sentences_are_checked_as_well(tmp_path: Path):
    folder = random_gpt2(tmp_path / "model")
    bring_tokenizer(folder, "Ġsmaller", "Ġcat")
    experiment = start_experiment(settings_for(folder))
    with pytest.raises(UserError, match=r"17\d\d is smaller than 17"):
        experiment.engine_for(build(TASKS[5], TOKENIZER))
    with pytest.raises(UserError, match="' a cat'"):
        check_tokens(experiment.settings, [" a cat"], torch.tensor([TOKENIZER(" a cat").input_ids]))


def test_sentences_of_other_abilities_and_with_other_twins_are_taken(tmp_path: Path):
    folder = random_gpt2(tmp_path / "model")
    bring_tokenizer(folder, "Ġcastle", "Ġcannon")
    experiment = start_experiment(settings_for(folder))
    years, spans = get_valid_years(TOKENIZER), experiment.dataset
    copying = century_copying(spans, years, TOKENIZER)
    assert copying.metric(experiment.engine_for(copying).clean()).shape == (4,)
    others = experiment.engine_for(with_twins(spans, "another century", years, TOKENIZER))
    assert torch.equal(others.clean(), experiment.engine.clean())
    assert not torch.equal(others.corrupted(), experiment.engine.corrupted())
    plain = plain_sentences(TOKENIZER)
    probabilities = experiment.engine_for(plain).clean()
    torch.testing.assert_close(probabilities.sum(1), torch.ones(50, dtype=torch.float64))
    assert divergence_from(probabilities)(probabilities).abs().max() < 1e-12
    with pytest.raises(UserError, match=r"The castles? "):
        experiment.engine_for(subject_verb_number(TOKENIZER, 97))


# What the intervals draw again


def test_intervals_are_those_of_the_nouns_and_yys(tmp_path: Path):
    experiment = start_experiment(settings_for(random_gpt2(tmp_path / "model"), n=97))
    path = PathSet.parse("m1 → logits", end=experiment.END)
    values = changes(experiment.engine, path, experiment.metric)
    clusters = [torch.tensor(pd.factorize(pd.Series(experiment.dataset.nouns))[0]), experiment.dataset.years_YY]
    expected = mean(values, 0, clusters)
    assert experiment.effect(path) == expected != mean(values)
    run = open_run("circuit_discovery", experiment)
    evaluations = Evaluations(run, experiment.dataset.as_table(), year_metrics())
    evaluations.note_mean("path", "change", values, "change")
    clean = evaluations.note("clean", experiment.engine.clean(), "clean")["probability_difference"]
    patched = evaluations.note("patched", experiment.engine.patch(path), "patched", clean)["probability_difference"]
    run.publish(partial=True)
    made = read_artifacts(run.folder, run.script)
    assert made.number("path/change") == expected
    assert made.number("clean/probability_difference") == mean(clean, 0, clusters)
    assert made.number("patched/probability_difference/share_of_clean") == share(patched, clean, 0, clusters)


# The warning


def without_years(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors with which a year is no likelier than any other of 50,257 tokens."""
    state["transformer.wte.weight"][year_indices()] = 0
    return state


@each_start
def test_a_model_that_does_not_answer_with_years_gets_a_warning(tmp_path: Path, start, capsys):
    folder = random_gpt2(tmp_path / "model")
    edit_tensors(folder, without_years)
    experiment = start(settings_for(folder))
    [warning] = experiment.warnings
    assert re.fullmatch(r"model puts 0\.\d\d % of its probability on the 100 years: it does not continue .*", warning)
    assert f"warning: {warning}\n" in capsys.readouterr().out
    run = open_run("circuit_discovery" if isinstance(experiment, YearExperiment) else "topk_years", experiment)
    run.publish(partial=True)
    made = read_artifacts(run.folder, run.script)
    assert warning in made.record["warnings"]
    plots = start_plots("appendix_plots", PlotSettings(out=tmp_path / "plots"), made)
    plots.publish()
    assert read_artifacts(tmp_path / "plots", "appendix_plots").record["warnings"][:1] == [warning]


@each_start
def test_a_model_that_answers_with_years_gets_none(tmp_path: Path, start):
    assert start(settings_for(random_gpt2(tmp_path / "model"))).warnings == ()


def test_a_setting_that_is_none_is_one_line():
    with pytest.raises(UserError, match=r"there is no setting 'foo'; settings are model, engine, device, n, seed"):
        start_experiment(model="standin", foo=1)
