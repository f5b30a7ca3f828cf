"""What experiments on year-span sentences start from, and what several of them record alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import GPT2LMHeadModel

from artifacts import Run, start_run
from bootstrap import mean
from dataset import NOUNS_FILE, YearDataset, valid_years, year_token_ids
from gpt2 import Model
from metrics import ValidYears, cutoff_sharpness, probability_difference
from path_patching.choose import make_engine, resolve_device
from path_patching.engine import Engine, Sentences
from path_patching.iterative import strongest
from settings import Settings
from tensor_cache import load_model
from tokenizer import load_tokenizer
from transformers_model import to_transformers


@dataclass(frozen=True, eq=False)
class YearExperiment:
    """The parts of an experiment; the engine evaluates the data set's sentences at the 100 year tokens."""

    model: Model
    dataset: YearDataset
    engine: Engine
    run: Run


@dataclass(frozen=True, eq=False)
class TransformersExperiment:
    """The parts of an experiment that asks `transformers` for the next token and patches nothing."""

    hf_model: GPT2LMHeadModel
    device: str
    run: Run


def start_experiment(script: str, settings: Settings, balanced: bool = True) -> YearExperiment:
    """Load the model, draw the sentences, make and check the engine, open the run of `script`.

    Raises `UserError` for whatever of these cannot be had.
    """
    model = load_model(settings.model, settings.as_published)
    settings.check_fits(model)
    dataset = draw_sentences(settings, balanced)
    sentences = Sentences(dataset.good_toks, dataset.bad_toks, year_token_ids())
    engine = make_engine(settings.engine, settings.device, model, sentences, settings.memory_gb)
    run = start_run(script, settings, model, engine.name, engine.device)
    return YearExperiment(model, dataset, engine, run)


def start_transformers_experiment(script: str, settings: Settings) -> TransformersExperiment:
    """Load the model, choose the device, open the run of `script`. Raises `UserError` like `start_experiment`."""
    model = load_model(settings.model, settings.as_published)
    device = resolve_device(settings.device)
    run = start_run(script, settings, model, "transformers", device)
    return TransformersExperiment(to_transformers(model), device, run)


def save_sweep(run: Run, artifact: str, effects: torch.Tensor) -> None:
    """Save the effects (L, H + 1) of every head and MLP on something, and record the strongest."""
    run.save(artifact, effects)
    run.note(f"strongest in {artifact}", strongest(effects))


def note_greater_than(
    run: Run, name: str, probabilities: torch.Tensor, yy: torch.Tensor, seed: int, valid: ValidYears = "greater"
) -> None:
    """Record the mean probability difference and cutoff sharpness of year probabilities (N, 100), with intervals."""
    run.note(f"{name}: probability difference", mean(probability_difference(probabilities, yy, valid), seed))
    run.note(f"{name}: cutoff sharpness", mean(cutoff_sharpness(probabilities, yy, valid), seed))


def draw_sentences(settings: Settings, balanced: bool) -> YearDataset:
    """The year-span sentences that the settings ask for."""
    tokenizer = load_tokenizer()
    return YearDataset(
        valid_years(tokenizer, as_published=settings.as_published),
        settings.n,
        NOUNS_FILE,
        tokenizer,
        balanced=balanced,
        seed=settings.seed,
        as_published=settings.as_published,
    )
