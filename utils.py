"""The year-span task: its metrics, starting an experiment on it, recording what it measures.

The metrics are the paper's measures of greater-than behaviour (section 3.1), of the probabilities of the year tokens.

Probabilities are of the softmax over the whole vocabulary at END, as fractions of one. Everything is computed in the
dtype given; give float64, since a float32 softmax over 50,257 entries is not accurate enough for path patching.

    >>> experiment = start_experiment(model="standin", n=97, engine="torch")  # nothing is written
    torch engine on ..., stand-in, 97 sentences
    >>> path = PathSet.parse("m11 → logits", end=experiment.END)
    >>> print(experiment.effect(path))  # change of the mean probability difference, with its interval
    -0... [-0..., -0...]
    >>> collate(experiment.engine.clean(), experiment.dataset.years_YY).shape  # the paper's heatmap: 02 … 98, 00 … 99
    torch.Size([97, 100])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from dataset import (
    COLLATED_YY,
    FIRST_YY,
    LAST_YY,
    NOUNS_FILE,
    YEARS,
    AnyDataset,
    ValidYears,
    YearDataset,
    clusters_of,
    get_valid_years,
    year_indices,
)
from path_patching.bootstrap import Clusters, Estimate, mean, share
from path_patching.circuits.circuit import Circuit, check_fits
from path_patching.circuits.circuit_file import from_json, read_circuit
from path_patching.circuits.search import find_circuit
from path_patching.devices import fewer, in_parts, placing, resolve_device
from path_patching.engine import Engine, Sentences
from path_patching.errors import UserError
from path_patching.files import checkpoint_folder, named_path
from path_patching.gpt2.model import Model, end_logits, to_transformers
from path_patching.gpt2.tensor_cache import is_gpt2_small, load_model
from path_patching.gpt2.tokenizer import check_reads_alike, load_tokenizer
from path_patching.make_engine import make_engine
from path_patching.paths import PathSet
from path_patching.progress import progress
from path_patching.sweeps import Metric, effect, strongest
from path_patching.unembedding import logit_lens as logit_lens  # where the published code had it
from reproduction.paper import PAPER, named_as_read
from reproduction.publication import record_path
from reproduction.run import Artifacts, Run, check_finite, read_artifacts, start_run
from reproduction.settings import BUILT_IN, Settings

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel


def prob_diff(year_probs: torch.Tensor, years_yy: torch.Tensor, valid: ValidYears = "greater") -> torch.Tensor:
    """Probability of the valid end years minus that of the others, (N, 100) and (N,) to (N,) in [-1, 1].

    Paper, section 3.1: Σ_{y>YY} p_y − Σ_{y≤YY} p_y. With `valid="less"`, for the less-than prompts of section 5, the
    valid years are y < YY. Raises ValueError if the shapes do not fit.
    """
    _check_shapes(year_probs, years_yy)
    years = torch.arange(100, device=year_probs.device)
    start = years_yy.to(year_probs.device)[:, None]  # (N, 1)
    is_valid = years > start if valid == "greater" else years < start  # (N, 100)
    return torch.where(is_valid, year_probs, -year_probs).sum(-1)


def greater_than(years_yy: torch.Tensor, valid: ValidYears = "greater") -> Metric:
    """The probability difference of sentences with these YY, (N,)."""
    return partial(prob_diff, years_yy=years_yy, valid=valid)


def cutoff_sharpness(year_probs: torch.Tensor, years_yy: torch.Tensor, valid: ValidYears = "greater") -> torch.Tensor:
    """How sharply probability rises from one side of YY to the other, (N, 100) and (N,) to (N,) in [-1, 1].

    Paper, section 3.1: p_{YY+1} − p_{YY−1}; with `valid="less"` its negative. Raises ValueError if the shapes do not
    fit or a YY lies outside 1 ... 98, where one of the two neighbours does not exist.
    """
    _check_shapes(year_probs, years_yy)
    start = years_yy.to(year_probs.device)[:, None]  # (N, 1)
    if ((start < 1) | (start > 98)).any():
        raise ValueError("cutoff sharpness needs a year on either side: every YY must lie in 01 ... 98")
    rise = (year_probs.gather(1, start + 1) - year_probs.gather(1, start - 1)).squeeze(1)
    return rise if valid == "greater" else -rise


def collate(values: torch.Tensor, years_yy: torch.Tensor) -> torch.Tensor:
    """Mean of a per-sentence quantity over the sentences of each YY: (N, ...) and (N,) to (97, ...), rows 02 ... 98.

    Sentences with another YY are left out. Raises UserError if a YY from 02 to 98 has no sentence, ValueError if the
    lengths do not fit.
    """
    collated = Collated()
    collated.add(values, years_yy)
    return collated.means()


@dataclass
class Collated:
    """`collate` of a quantity of which not all sentences are there at once."""

    sums: torch.Tensor | None = None
    """Over the sentences of each YY, (97, ...)."""
    counts: torch.Tensor = field(default_factory=lambda: torch.zeros(len(COLLATED_YY), dtype=torch.int64))

    def add(self, values: torch.Tensor, years_yy: torch.Tensor) -> None:
        """Some more sentences, (n, ...) and their YY (n,). Raises ValueError if the lengths do not fit."""
        if years_yy.ndim != 1 or len(values) != len(years_yy):
            raise ValueError(f"one YY a sentence is needed: values {tuple(values.shape)}, YY {tuple(years_yy.shape)}")
        years_yy = years_yy.to(values.device)
        inside = (years_yy >= FIRST_YY) & (years_yy <= LAST_YY)
        rows = years_yy[inside] - FIRST_YY
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


def has_every_yy(years_yy: torch.Tensor) -> bool:
    """Whether each YY from 02 to 98 has a sentence, as `collate` needs it; if not, a line says what is left out."""
    absent = sorted(set(COLLATED_YY) - set(years_yy.tolist()))
    if absent:
        missing = f"of {len(years_yy)} sentences none has YY = {absent[0]:02d}"
        print(f"left out: what is made for each YY; {missing}. Give a larger --n")
    return not absent


def _check_shapes(year_probs: torch.Tensor, years_yy: torch.Tensor) -> None:
    if year_probs.shape != (*years_yy.shape, 100) or years_yy.ndim != 1:
        raise ValueError(f"expected (N, 100) and (N,), got {tuple(year_probs.shape)} and {tuple(years_yy.shape)}")


def later_above_others(year_logits: torch.Tensor, years_yy: torch.Tensor) -> torch.Tensor:
    """Mean logit of the years above YY minus that of the others, (N, 100) and (N,) with YY < 99 to (N,), in nats."""
    later = torch.arange(100) > years_yy[:, None]  # (N, 100)
    return (year_logits * later).sum(1) / later.sum(1) - (year_logits * ~later).sum(1) / (~later).sum(1)


@dataclass(frozen=True, eq=False)
class YearExperiment:
    """All that a question needs: a model, sentences, and an engine that evaluates them at the 100 year tokens.

    Nothing is written anywhere; `open_run` makes a run of it that publishes.
    """

    settings: Settings
    model: Model
    dataset: YearDataset
    engine: Engine
    warnings: tuple[str, ...] = ()
    """What has to be said beside every result, in a line each."""

    @property
    def END(self) -> int:  # noqa: N802
        """Position of END, where the end year is predicted."""
        return self.dataset.end

    @property
    def YY(self) -> int:  # noqa: N802
        """Position of YY, at which clean and corrupted sentences differ."""
        return self.dataset.yy

    @property
    def metric(self) -> Metric:
        """The probability difference of the sentences."""
        return greater_than(self.dataset.years_YY)

    @property
    def clusters(self) -> Clusters:
        """The nouns and the YYs of which the sentences were made, (N,) each; intervals draw these again."""
        return clusters_of(self.dataset.as_table())

    def effect(self, paths: PathSet) -> Estimate:
        """What patching a path set adds to the mean probability difference, with its interval."""
        return effect(self.engine, paths, self.metric, self.settings.seed, self.clusters)

    def engine_for(self, dataset: AnyDataset) -> Engine:
        """An engine like that of the experiment, which was checked, for other sentences.

        Raises `UserError` if a checkpoint's own tokenizer reads them otherwise.
        """
        return self.engine.like(_sentences(self.settings, dataset))


@dataclass(frozen=True, eq=False)
class TransformersExperiment:
    """The parts of an experiment that asks `transformers` for the next token and patches nothing."""

    settings: Settings
    model: Model
    hf_model: GPT2LMHeadModel
    device: str
    warnings: tuple[str, ...] = ()


def start_experiment(settings: Settings | None = None, balanced: bool = True, **changed: Any) -> YearExperiment:
    """Load the model, draw the sentences, make and check the engine.

        experiment = start_experiment(model="standin", n=97)
        print(experiment.effect(PathSet.parse("a9.h1 → m9 → logits", end=experiment.END)))

    `changed` are fields of `Settings`. Raises `UserError` for whatever of these cannot be had.
    """
    settings = Settings() if settings is None else settings
    if not isinstance(settings, Settings):
        raise UserError(f'{settings!r} are no Settings; name what you give, as start_experiment(model="standin")')
    settings = replace(settings, **changed)
    model = load_model(settings.model, settings.as_published)
    settings.check_fits(model)
    dataset = draw_sentences(settings, balanced)
    sentences = _sentences(settings, dataset)
    engine = make_engine(settings.engine, settings.device, model, sentences, settings.memory_gb)
    some = engine.like(sentences.rows(slice(SENTENCES_LOOKED_AT)))
    return YearExperiment(settings, model, dataset, engine, warnings_of(model, some.clean()))


def start_transformers_experiment(settings: Settings) -> TransformersExperiment:
    """Load the model and choose the device. Raises `UserError` like `start_experiment`."""
    model = load_model(settings.model, settings.as_published)
    settings.check_fits(model)
    hf_model, device = to_transformers(model), resolve_device(settings.device)
    some = _sentences(settings, draw_sentences(replace(settings, n=SENTENCES_LOOKED_AT), balanced=True))
    said = predict_next(hf_model, some.clean, some.answers, 1, device)
    return TransformersExperiment(settings, model, hf_model, device, warnings_of(model, said.answers))


def check_tokens(settings: Settings, texts: Sequence[str], tokens: torch.Tensor) -> None:
    """Raise `UserError` if a checkpoint's own tokenizer reads these texts, tokens (N, T), or the years as other ids."""
    if settings.model not in BUILT_IN:
        row_of = {text: row for row, text in enumerate(texts)}  # of many sentences, many are the same
        years = dict(zip(YEARS, year_indices().tolist(), strict=True))
        rows = tokens[list(row_of.values())].tolist()
        check_reads_alike(checkpoint_folder(settings.model), list(row_of), rows, years)


def _sentences(settings: Settings, dataset: AnyDataset) -> Sentences:
    """A data set as engines take it; its tokens are checked."""
    texts, tokens = (*dataset.good_sentences, *dataset.bad_sentences), torch.cat([dataset.good_toks, dataset.bad_toks])
    check_tokens(settings, texts, tokens)
    return Sentences(dataset.good_toks, dataset.bad_toks, dataset.answers)


SENTENCES_LOOKED_AT = 20
LEAST_ON_YEARS = 0.05  # of the probability: a metric of the years can then be no larger


def warnings_of(model: Model, year_probs: torch.Tensor) -> tuple[str, ...]:
    """A warning, which is printed too, if year probabilities (N, 100) say that a model does not answer with years."""
    on_years = year_probs.sum(1).mean().item()
    if on_years >= LEAST_ON_YEARS:
        return ()
    warning = f"{model.name} puts {on_years:.2%} of its probability on the 100 years: it does not continue year spans"
    print(f"warning: {warning}")
    return (warning,)


def open_run(script: str, experiment: YearExperiment | TransformersExperiment) -> Run:
    """A run of `script` that records and publishes. Raises `UserError` if its folder is busy or cannot be written."""
    if isinstance(experiment, YearExperiment):
        engine, device = experiment.engine.name, experiment.engine.device
    else:
        engine, device = "transformers", experiment.device
    return start_run(script, experiment.settings, experiment.model, engine, device, experiment.warnings)


def save_sweep(run: Run, artifact: str, key: str, effects: torch.Tensor, **about: object) -> None:
    """Save the effects (L, H + 1) of every head and MLP on something, and record the strongest nodes and heads."""
    run.save(artifact, effects, kind="sweep", **about)
    run.note(f"{key}/strongest", strongest(effects), f"strongest in {artifact}", kind="ranking")
    heads = strongest(effects, heads_only=True)
    run.note(f"{key}/strongest_heads", heads, f"strongest heads in {artifact}", kind="ranking")


METRICS: dict[str, Callable[..., torch.Tensor]] = {
    "probability_difference": prob_diff,
    "cutoff_sharpness": cutoff_sharpness,
}


@dataclass(frozen=True, eq=False)
class Evaluations:
    """What a run measures of each of its sentences: means for its record, and one table that it publishes.

    An evaluation is a key, such as `late_half`, and what is measured in it a column: its mean is recorded as
    `late_half/probability_difference`. A cell that is run again replaces what it had added. For other sentences of the
    same run: `dataclasses.replace(evaluations, sentences=..., valid=...)`.
    """

    run: Run
    sentences: pd.DataFrame
    """What tells the N sentences apart, a row each; with YY."""
    valid: ValidYears = "greater"
    tables: dict[str, tuple[pd.DataFrame, dict[str, torch.Tensor]]] = field(default_factory=dict)
    """By evaluation: its sentences, and the columns (N,) measured of them, NaN where nothing was."""

    @property
    def seed(self) -> int:
        """The seed of the intervals."""
        return int(self.run.provenance["settings"]["seed"])

    @property
    def clusters(self) -> Clusters:
        """What the intervals draw again, (N,) each."""
        return clusters_of(self.sentences)

    def column(self, evaluation: str, column: str) -> torch.Tensor:
        """What was measured of each sentence, (N,) float64."""
        return self.tables[evaluation][1][column]

    def add(self, evaluation: str, column: str, values: torch.Tensor, rows: torch.Tensor | None = None) -> None:
        """Keep a per-sentence quantity (N,) for the table, or that of some `rows` (n,), (n,).

        Raises `UserError` if it is not finite.
        """
        check_finite(f"{column} of {evaluation}", values)
        _, columns = self.tables.setdefault(evaluation, (self.sentences, {}))
        values = values.double().cpu()
        if rows is None:
            columns[column] = values
            return
        if column not in columns:
            columns[column] = torch.full((len(self.sentences),), torch.nan, dtype=torch.float64)
        columns[column][rows] = values

    def note_mean(self, evaluation: str, column: str, values: torch.Tensor, words: str) -> None:
        """Keep a per-sentence quantity (N,), and record its mean with its interval."""
        self.add(evaluation, column, values)
        self.run.note(f"{evaluation}/{column}", mean(values, self.seed, self.clusters), words)

    def measure(
        self, evaluation: str, probabilities: torch.Tensor, rows: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Both metrics of year probabilities (N, 100), (N,) each, by column; kept for the table.

        With `rows` (n,), those of some of the sentences.
        """
        of_all = self.sentences["YY"].to_numpy()
        yy = torch.tensor(of_all if rows is None else of_all[rows.numpy()])
        measured = {column: metric(probabilities, yy, self.valid) for column, metric in METRICS.items()}
        for column, values in measured.items():
            self.add(evaluation, column, values, rows)
        return measured

    def note(
        self, evaluation: str, probabilities: torch.Tensor, words: str, clean: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """`measure`, and record both means; with the `clean` probability differences (N,) the share of theirs too."""
        self.measure(evaluation, probabilities)
        measured = self.note_measured(evaluation, words)
        if clean is not None:
            part = share(measured["probability_difference"], clean, self.seed, self.clusters)
            self.run.note(f"{evaluation}/probability_difference/share_of_clean", part, f"{words}: share of clean")
        return measured

    def note_measured(self, evaluation: str, words: str) -> dict[str, torch.Tensor]:
        """Record the means of both metrics of an evaluation that was measured. Returns them by column, (N,) each."""
        measured = {column: self.column(evaluation, column) for column in METRICS}
        for column, values in measured.items():
            found = mean(values, self.seed, self.clusters)
            self.run.note(f"{evaluation}/{column}", found, f"{words}: {column.replace('_', ' ')}")
        return measured

    def save(self) -> None:
        """Stage the table: a row for each evaluation and sentence, empty where a column was not measured."""
        every = [("evaluation", *sentences, *measured) for sentences, measured in self.tables.values()]
        header = list(dict.fromkeys(name for names in every for name in names))
        parts = (
            sentences.assign(evaluation=evaluation, **{name: values.numpy() for name, values in measured.items()})
            for evaluation, (sentences, measured) in self.tables.items()
        )
        whole = (part.reindex(columns=header) for part in parts)
        name, nan = f"{self.run.script}_sentences.csv", "a column that an evaluation does not measure"
        self.run.save_table(name, whole, kind="sentences_evaluated", nan=nan)


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


DISCOVERY = "circuit_discovery"  # the script whose artifacts have the circuit found automatically
CIRCUIT_FILE = "circuit.json"
SENTENCES = 490  # on which a script finds the circuit by itself, if it has as many


def circuit_asked_for(settings: Settings, model: Model) -> str:
    """What `--circuit` says, `paper`, `auto` or a file; by default `paper` for GPT-2 small, `auto` for other models."""
    if settings.circuit is not None:
        return settings.circuit
    return "paper" if settings.model == "gpt2" or is_gpt2_small(model) else "auto"


def choose_circuit(experiment: YearExperiment, run: Run | None = None) -> Circuit:
    """The circuit that the experiment's settings ask for; the run's record keeps it whole, and what was read for it.

    `auto` is the one that circuit_discovery.py found for this very model, where the script's artifacts go; without
    that it is searched for here. Raises `UserError` if the model lacks a node of the circuit, or that has none, and
    for a file that is no circuit's.
    """
    asked = circuit_asked_for(experiment.settings, experiment.model)
    if asked == "auto":
        before = _found_before(experiment.settings.artifact_folder(), experiment.model)
        if run is not None:
            run.note_read(CIRCUIT_FILE, before.record["artifacts"][CIRCUIT_FILE] if before else None)
        circuit = from_json(before.load(CIRCUIT_FILE)) if before else _found_now(experiment)
    else:
        circuit = PAPER if asked == "paper" else named_as_read(read_circuit(named_path(asked)))
        check_fits(circuit, experiment.model)
        if not circuit.members:
            raise UserError(f"{circuit.name} has no head and no MLP to ask about; give a circuit that has some")
    if run is not None:
        run.note_circuit(circuit)
    return circuit


def _found_before(folder: Path, model: Model) -> Artifacts | None:
    """What circuit_discovery.py made, if it found a circuit for this very model automatically."""
    if not record_path(folder, DISCOVERY).is_file():
        return None
    artifacts = read_artifacts(folder, DISCOVERY)
    if (
        artifacts.record["model"]["fingerprint"] != model.fingerprint
        or CIRCUIT_FILE not in artifacts.record["artifacts"]
    ):
        return None
    if "search" not in artifacts.load(CIRCUIT_FILE):
        return None
    print(f"circuit: as {DISCOVERY}.py found it, {folder / CIRCUIT_FILE}")
    return artifacts


def _found_now(experiment: YearExperiment) -> Circuit:
    """The circuit found on the experiment's first sentences."""
    engine, dataset = experiment.engine, experiment.dataset
    metric, fewer = greater_than(dataset.years_YY[:SENTENCES]), engine.sentences.rows(slice(SENTENCES))
    print(f"circuit: none found by {DISCOVERY}.py, so it is searched for on {len(fewer)} sentences")
    return find_circuit(engine.like(fewer), metric, dataset.yy, dataset.end).circuit


SENTENCES_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class NextToken:
    """The next token after N sentences; probabilities are float64, of the softmax over all V tokens."""

    answers: torch.Tensor
    """Probabilities of the tokens asked for, (N, A)."""
    top: torch.Tensor
    """Probabilities of the k likeliest tokens of each sentence, (N, k), falling."""
    top_tokens: torch.Tensor
    """Their ids, int64 (N, k)."""
    mean: torch.Tensor
    """Mean probability of every token, (V,)."""


def predict_next(
    hf_model: GPT2LMHeadModel, tokens: torch.Tensor, answers: torch.Tensor, k: int, device: str = "cpu"
) -> NextToken:
    """The next token after tokens (N, T), at `answers` (A,) and at the `k` likeliest of each sentence, on the CPU.

    Only a few sentences' softmaxes are in memory at a time. Raises `UserError` if the sentences are too long for the
    model, or it has not all of GPT-2's tokens that occur.
    """
    _check_fits(hf_model, torch.cat([tokens.flatten(), answers]), tokens.shape[1])
    with placing("the model's weights", device):
        hf_model.to(device)  # type: ignore[arg-type]  # transformers wraps it without its self

    def of_batch(batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        probabilities = end_logits(hf_model, batch.to(device)).double().softmax(-1)  # (B, V)
        found = probabilities[:, answers.to(device)], *probabilities.topk(k), probabilities.sum(0)
        return tuple(each.cpu() for each in found)

    batches, total = [], torch.zeros(hf_model.config.vocab_size, dtype=torch.float64)
    parts = in_parts(of_batch, tokens, SENTENCES_AT_ONCE, fewer("sentences", device), device)
    for _, (*of_sentences, summed) in progress(parts, "next tokens", -(-len(tokens) // SENTENCES_AT_ONCE)):
        batches.append(of_sentences)
        total += summed
    asked, top, top_tokens = (torch.cat(found) for found in zip(*batches, strict=True))
    return NextToken(asked, top, top_tokens, mean=total / len(tokens))


def _check_fits(hf_model: GPT2LMHeadModel, used: torch.Tensor, length: int) -> None:
    if length > hf_model.config.n_positions:
        raise UserError(f"sentences of {length} tokens; the model takes {hf_model.config.n_positions}: choose another")
    n_tokens = hf_model.config.vocab_size
    if used.max() >= n_tokens:
        raise UserError(
            f"the sentences use token {int(used.max())} of GPT-2's tokenizer; the model has {n_tokens} tokens: choose "
            "one with GPT-2's vocabulary"
        )
