"""What every experiment on year-span sentences starts from: a model, sentences, an engine, and a run to record."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import GPT2LMHeadModel

from artifacts import Run, start_run
from dataset import NOUNS_FILE, YearDataset, valid_years, year_token_ids
from gpt2 import Model
from path_patching.choose import make_engine, resolve_device
from path_patching.engine import Engine, Sentences
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

    twin: GPT2LMHeadModel
    device: str
    run: Run


def start_experiment(script: str, settings: Settings, balanced: bool = True) -> YearExperiment:
    """Load the model, draw the sentences, make and check the engine, open the run of `script`.

    Raises `UserError` for whatever of these cannot be had.
    """
    model = load_model(settings.model, settings.as_published)
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
