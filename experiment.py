"""What every experiment on year-span sentences starts from: a model, sentences, an engine, and a run to record."""

from __future__ import annotations

from dataclasses import dataclass

from artifacts import Run, start_run
from dataset import NOUNS_FILE, YearDataset, valid_years, year_token_ids
from gpt2 import Model
from path_patching.choose import make_engine
from path_patching.engine import Engine, Sentences
from settings import Settings
from tensor_cache import load_model
from tokenizer import load_tokenizer


@dataclass(frozen=True, eq=False)
class YearExperiment:
    """The parts of an experiment; the engine evaluates the data set's sentences at the 100 year tokens."""

    model: Model
    dataset: YearDataset
    engine: Engine
    run: Run


def start_experiment(script: str, settings: Settings, balanced: bool = True) -> YearExperiment:
    """Load the model, draw the sentences, make and check the engine, open the run of `script`.

    Raises `UserError` for whatever of these cannot be had.
    """
    model = load_model(settings.model, settings.as_published)
    tokenizer = load_tokenizer()
    dataset = YearDataset(
        valid_years(tokenizer, as_published=settings.as_published),
        settings.n,
        NOUNS_FILE,
        tokenizer,
        balanced=balanced,
        seed=settings.seed,
        as_published=settings.as_published,
    )
    sentences = Sentences(dataset.good_toks, dataset.bad_toks, year_token_ids())
    engine = make_engine(settings.engine, settings.device, model, sentences, settings.memory_gb)
    run = start_run(script, settings, model, engine.name, engine.device)
    return YearExperiment(model, dataset, engine, run)
