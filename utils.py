"""The year-span task: its metrics, and starting an experiment on it.

The metrics measure greater-than on the probabilities of the year tokens, as in the paper (section 3.1). Probabilities
come from the softmax over the whole vocabulary at END, as fractions of one. Everything is computed in the dtype given.
Give float64: a float32 softmax over 50,257 entries is not accurate enough for path patching.

    >>> experiment = start_experiment(model="standin", n=97, engine="torch")  # nothing is written
    torch engine on ..., stand-in, 97 sentences
    >>> path = PathSet.parse("m11 → logits", end=experiment.END)
    >>> print(experiment.effect(path))  # change of the mean probability difference, with its interval
    -0... [-0..., -0...]
    >>> collate(experiment.engine.clean(), experiment.dataset.years_YY).shape  # the paper's heatmap: 02 … 98, 00 … 99
    torch.Size([97, 100])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, get_args

import torch

from dataset import (
    COLLATED_YY,
    FIRST_YY,
    LAST_YY,
    NOUNS_FILE,
    YEARS,
    ValidYears,
    YearDataset,
    get_valid_years,
    year_indices,
)
from path_patching.bootstrap import Clusters, Estimate
from path_patching.circuits.circuit import Circuit
from path_patching.circuits.search import find_circuit
from path_patching.devices import check_default_device, resolve_device
from path_patching.engine import Engine, Sentences
from path_patching.engine_choice import SENTENCES_CHECKED, check_engine, make_engine
from path_patching.errors import UserError, shortened
from path_patching.gpt2.model import Model, to_transformers
from path_patching.gpt2.tensor_cache import load_model, source_folder
from path_patching.gpt2.tokenizer import check_reads_alike, load_tokenizer
from path_patching.paths import PathSet
from path_patching.sweeps import Metric, effect
from path_patching.unembedding import logit_lens as logit_lens  # where the published code had it
from reproduction.evaluations import YearMetric, clusters_of
from reproduction.next_token import predict_next
from reproduction.settings import Settings
from reproduction.terminal import imports_are_done

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel


class MetricError(UserError, ValueError):
    """Values that do not fit the YYs, or what are no YYs."""


def prob_diff(year_probs: torch.Tensor, start_yy: torch.Tensor, valid: ValidYears = "greater") -> torch.Tensor:
    """Probability of the valid end years minus that of the others, (N, 100) and (N,) to (N,) in [-1, 1].

    Paper, section 3.1: Σ_{y>YY} p_y − Σ_{y≤YY} p_y. With `valid="less"`, for the less-than prompts of section 5, the
    valid years are y < YY. Raises `MetricError` if the shapes do not fit, and for a YY outside 0 ... 99.
    """
    _check_shapes(year_probs, start_yy)
    return torch.where(_is_valid(year_probs, start_yy, valid), year_probs, -year_probs).sum(-1)


def _is_valid(values: torch.Tensor, start_yy: torch.Tensor, valid: ValidYears = "greater") -> torch.Tensor:
    """Which of the years of values (N, 100) are valid end years, bool (N, 100)."""
    _check_valid(valid)
    years, start = torch.arange(100, device=values.device), start_yy.to(values.device)[:, None]
    return years > start if valid == "greater" else years < start


def greater_than(start_yy: torch.Tensor, valid: ValidYears = "greater") -> Metric:
    """The probability difference as a metric of sentences with these YY, (N,)."""
    return partial(prob_diff, start_yy=start_yy, valid=valid)


def log_odds(year_probs: torch.Tensor, start_yy: torch.Tensor) -> torch.Tensor:
    """The log odds of the valid end years against all else, (N, 100) and (N,) to (N,), in nats.

    ln(p / (1 − p)) for p = Σ_{y>YY} p_y. Unlike the probability difference it has no largest value. Raises
    `MetricError` like `prob_diff`.
    """
    _check_shapes(year_probs, start_yy)
    valid = (year_probs * _is_valid(year_probs, start_yy)).sum(-1)
    return valid.logit(eps=torch.finfo(valid.dtype).eps)


def cutoff_sharpness(year_probs: torch.Tensor, start_yy: torch.Tensor, valid: ValidYears = "greater") -> torch.Tensor:
    """How sharply probability rises from one side of YY to the other, (N, 100) and (N,) to (N,) in [-1, 1].

    Paper, section 3.1: p_{YY+1} − p_{YY−1}; with `valid="less"` its negative. Raises `MetricError` if the shapes do not
    fit or a YY lies outside 1 ... 98, where one of the two neighbours does not exist.
    """
    _check_shapes(year_probs, start_yy)
    _check_valid(valid)
    start = start_yy.to(year_probs.device)[:, None]  # (N, 1)
    if ((start < 1) | (start > 98)).any():
        raise MetricError("cutoff sharpness needs a year on either side: every YY must lie in 01 ... 98")
    rise = (year_probs.gather(1, start + 1) - year_probs.gather(1, start - 1)).squeeze(1)
    return rise if valid == "greater" else -rise


def year_metrics(valid: ValidYears = "greater") -> dict[str, YearMetric]:
    """Both of the paper's metrics by name, as `Evaluations` measure them."""
    metrics = {"probability_difference": prob_diff, "cutoff_sharpness": cutoff_sharpness}
    return {name: partial(metric, valid=valid) for name, metric in metrics.items()}


def collate(values: torch.Tensor, start_yy: torch.Tensor) -> torch.Tensor:
    """Mean of a per-sentence quantity over the sentences of each YY: (N, ...) and (N,) to (97, ...), rows 02 ... 98.

    Sentences with other YYs are left out. Raises UserError if a YY from 02 to 98 has no sentence, `MetricError` if the
    lengths do not fit.
    """
    collated = Collated()
    collated.add(values, start_yy)
    return collated.means()


@dataclass
class Collated:
    """`collate` for sentences that come some at a time."""

    sums: torch.Tensor | None = None
    """Sums over the sentences of each YY, (97, ...)."""
    counts: torch.Tensor = field(default_factory=lambda: torch.zeros(len(COLLATED_YY), dtype=torch.int64))

    def add(self, values: torch.Tensor, start_yy: torch.Tensor) -> None:
        """Add some sentences: values (n, ...) and their YY (n,). Raises `MetricError` if the lengths do not fit."""
        if start_yy.ndim != 1 or len(values) != len(start_yy):
            raise MetricError(
                f"one YY for each sentence is needed: values {tuple(values.shape)}, YY {tuple(start_yy.shape)}"
            )
        start_yy = start_yy.to(values.device)
        inside = (start_yy >= FIRST_YY) & (start_yy <= LAST_YY)
        rows = start_yy[inside] - FIRST_YY
        if self.sums is None:
            self.sums = values.new_zeros(len(COLLATED_YY), *values.shape[1:])
        self.sums.index_add_(0, rows, values[inside])
        self.counts += torch.bincount(rows.cpu(), minlength=len(COLLATED_YY))

    def means(self) -> torch.Tensor:
        """The mean for each YY, (97, ...). Raises UserError if a YY from 02 to 98 has no sentence."""
        if self.sums is None or (self.counts == 0).any():
            missing = int((self.counts == 0).nonzero()[0]) + FIRST_YY
            raise UserError(f"no sentence has YY = {missing:02d}; use a balanced data set of at least 97 sentences")
        return self.sums / self.counts.to(self.sums).reshape(-1, *[1] * (self.sums.ndim - 1))


def has_every_yy(start_yy: torch.Tensor) -> bool:
    """Whether each YY from 02 to 98 has a sentence, as `collate` needs; if not, a line says what is left out."""
    absent = sorted(set(COLLATED_YY) - set(start_yy.tolist()))
    if absent:
        missing = f"of {len(start_yy)} sentences none has YY = {absent[0]:02d}"
        print(f"left out: results by YY; {missing}. Give a larger --n")
    return not absent


def _check_valid(valid: object) -> None:
    if valid not in get_args(ValidYears):
        raise MetricError(f"valid years are {' or '.join(get_args(ValidYears))}, not {shortened(repr(valid))}")


def _check_shapes(year_probs: torch.Tensor, start_yy: torch.Tensor) -> None:
    if year_probs.shape != (*start_yy.shape, 100) or start_yy.ndim != 1:
        raise MetricError(f"expected (N, 100) and (N,), got {tuple(year_probs.shape)} and {tuple(start_yy.shape)}")
    if ((start_yy < 0) | (start_yy > 99)).any():
        raise MetricError(f"a YY is the year within its century, 0 to 99: give years_YY, not {start_yy[0].item()}, …")


def later_above_others(year_logits: torch.Tensor, start_yy: torch.Tensor) -> torch.Tensor:
    """Mean logit of the years above YY minus that of the others, (N, 100) and (N,) with YY < 99 to (N,), in nats."""
    later = _is_valid(year_logits, start_yy)
    return (year_logits * later).sum(1) / later.sum(1) - (year_logits * ~later).sum(1) / (~later).sum(1)


class PairedSentences(Protocol):
    """N sentences and their twins, of T tokens each, for which an engine can be made."""

    @property
    def good_sentences(self) -> tuple[str, ...]:
        """The clean sentences."""

    @property
    def bad_sentences(self) -> tuple[str, ...]:
        """Their twins."""

    @property
    def good_toks(self) -> torch.Tensor:
        """Token ids of the clean sentences, int64 (N, T)."""

    @property
    def bad_toks(self) -> torch.Tensor:
        """Token ids of their twins, int64 (N, T)."""

    @property
    def answers(self) -> torch.Tensor:
        """The tokens whose probabilities are wanted, int64 (A,)."""


@dataclass(frozen=True, eq=False)
class YearExperiment:
    """Everything that a question needs: a model, sentences, and an engine that evaluates them at the 100 year tokens.

    It writes nothing; `reproduction.run.open_run` makes a run of it, which publishes artifacts.
    """

    settings: Settings
    model: Model
    dataset: YearDataset
    engine: Engine
    warnings: tuple[str, ...] = ()
    """Lines that belong beside every result."""

    @property
    def END(self) -> int:  # noqa: N802
        """Position of END, where the end year is predicted."""
        return self.dataset.end

    @property
    def YY(self) -> int:  # noqa: N802
        """Position of YY, at which clean and corrupted sentences differ."""
        return self.dataset.yy_position

    @property
    def engine_name(self) -> str:
        """The engine's name."""
        return self.engine.name

    @property
    def device(self) -> str:
        """The engine's device."""
        return self.engine.device

    @property
    def metric(self) -> Metric:
        """The probability difference of the sentences."""
        return greater_than(self.dataset.years_YY)

    @property
    def clusters(self) -> Clusters:
        """The noun's number and the YY of each sentence, (N,) each; intervals draw nouns and YYs again."""
        return clusters_of(self.dataset.drawn)

    def effect(self, paths: PathSet) -> Estimate:
        """What patching a path set adds to the mean probability difference, with its interval."""
        return effect(self.engine, paths, self.metric, self.settings.seed, self.clusters)

    def find_circuit(self, n: int) -> Circuit:
        """The circuit found by rule on the first `n` sentences."""
        few, metric = self.engine.sentences.rows(slice(n)), greater_than(self.dataset.years_YY[:n])
        return find_circuit(self.engine.like(few), metric, self.YY, self.END).circuit

    def engine_for(self, dataset: PairedSentences) -> Engine:
        """An engine like the experiment's, for other sentences; it is not checked again.

        Raises `UserError` if a checkpoint's own tokenizer reads them differently.
        """
        return self.engine.like(_sentences(self.settings, dataset))


@dataclass(frozen=True, eq=False)
class TransformersExperiment:
    """An experiment that only asks `transformers` for the next token."""

    settings: Settings
    model: Model
    hf_model: GPT2LMHeadModel
    device: str
    warnings: tuple[str, ...] = ()
    engine_name: str = "transformers"


def start_experiment(settings: Settings | None = None, balanced: bool = True, **changed: Any) -> YearExperiment:
    """Load the model, draw the sentences, make and check the engine.

        experiment = start_experiment(model="standin", n=97)
        print(experiment.effect(PathSet.parse("a9.h1 → m9 → logits", end=experiment.END)))

    `changed` are fields of `Settings`. Raises `UserError` if a setting is wrong, or the model, engine or device is not
    available.
    """
    imports_are_done()
    check_default_device()
    settings = Settings() if settings is None else settings
    if not isinstance(settings, Settings):
        raise UserError(f'{settings!r} are no Settings; name what you give, as start_experiment(model="standin")')
    settings = replace(settings, **changed)
    model = load_model(settings.model, settings.as_published)
    settings.check_fits(model)
    dataset = draw_sentences(settings, balanced)
    sentences = _sentences(settings, dataset)
    engine = make_engine(settings.engine, settings.device, model, sentences, settings.memory_gb, check=False)
    some = engine.like(sentences.rows(slice(SENTENCES_CHECKED)))
    check_engine(some)  # and keep its forward pass
    return YearExperiment(settings, model, dataset, engine, warnings_of(model, some.clean()))


def start_transformers_experiment(settings: Settings) -> TransformersExperiment:
    """Load the model and choose the device. Raises `UserError` like `start_experiment`."""
    imports_are_done()
    model = load_model(settings.model, settings.as_published)
    settings.check_fits(model)
    hf_model, device = to_transformers(model), resolve_device(settings.device)
    some = _sentences(settings, draw_sentences(replace(settings, n=SENTENCES_CHECKED), balanced=True))
    said = predict_next(hf_model, some.clean, some.answers, 1, device)
    return TransformersExperiment(settings, model, hf_model, device, warnings_of(model, said.answers))


def check_tokens(settings: Settings, texts: Sequence[str], tokens: torch.Tensor) -> None:
    """Raise `UserError` if a checkpoint's own tokenizer has other ids for these texts, tokens (N, T), or the years."""
    folder = source_folder(settings.model)
    if folder is not None:
        row_of = {text: row for row, text in enumerate(texts)}  # many sentences are the same
        years = dict(zip(YEARS, year_indices().tolist(), strict=True))
        rows = tokens[list(row_of.values())].tolist()
        check_reads_alike(folder, list(row_of), rows, years)


def _sentences(settings: Settings, dataset: PairedSentences) -> Sentences:
    """A data set's sentences as engines take them, their tokens checked."""
    texts, tokens = (*dataset.good_sentences, *dataset.bad_sentences), torch.cat([dataset.good_toks, dataset.bad_toks])
    check_tokens(settings, texts, tokens)
    return Sentences(dataset.good_toks, dataset.bad_toks, dataset.answers)


LEAST_ON_YEARS = 0.05  # probability; a metric of the years cannot be larger than what is on them


def warnings_of(model: Model, year_probs: torch.Tensor) -> tuple[str, ...]:
    """A warning, also printed, if by its year probabilities (N, 100) a model does not answer with years."""
    on_years = year_probs.sum(1).mean().item()
    if on_years >= LEAST_ON_YEARS:
        return ()
    warning = (
        f"{model.name} puts {100 * on_years:.2f} % of its probability on the 100 years: it does not continue year spans"
    )
    print(f"warning: {warning}")
    return (warning,)


def draw_sentences(settings: Settings, balanced: bool) -> YearDataset:
    """The year-span sentences that the settings ask for."""
    tokenizer = load_tokenizer()
    return YearDataset(
        get_valid_years(tokenizer, as_published=settings.as_published),
        settings.n,
        NOUNS_FILE,
        tokenizer,
        balanced=balanced,
        seed=settings.seed,
        as_published=settings.as_published,
    )
