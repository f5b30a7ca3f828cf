"""What a run measures: each sentence's values for its table, their means for its record.

A script adds one evaluation after another, each under a key. Means are recorded with intervals that draw the sentences'
nouns and YYs again. `save` makes one table of everything, sentence by sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from path_patching.bootstrap import Clusters, mean, means, share
from path_patching.sweeps import strongest
from reproduction.run import Run, check_finite

if TYPE_CHECKING:
    import pandas as pd

YearMetric = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # probabilities (n, A) and YYs (n,) to (n,)
DRAWN = ("noun", "YY")  # the columns of what was drawn to make a year span


def clusters_of(sentences: pd.DataFrame | Mapping[str, Iterable[Any]], drawn: Iterable[str] = DRAWN) -> Clusters:
    """The groups that intervals draw again: for each of these columns that the sentences have, int64 (N,)."""
    return [_numbered(sentences[name]) for name in drawn if name in sentences]


def _numbered(values: Iterable[Any]) -> torch.Tensor:
    """The number of each value, (N,) int64: equal values have the same."""
    number: dict[Any, int] = {}
    return torch.tensor([number.setdefault(value, len(number)) for value in values])


def save_sweep(run: Run, artifact: str, key: str, effects: torch.Tensor, **about: object) -> None:
    """Save the effects (L, H + 1) of every head and MLP on something, and record the strongest nodes and heads."""
    run.save(artifact, effects, kind="sweep", **about)
    run.note(f"{key}/strongest", strongest(effects), f"strongest in {artifact}", kind="ranking")
    heads = strongest(effects, heads_only=True)
    run.note(f"{key}/strongest_heads", heads, f"strongest heads in {artifact}", kind="ranking")


def sweep_intervals(changes: torch.Tensor, seed: int, clusters: Clusters) -> torch.Tensor:
    """The ends of the 95 % intervals of a sweep, given what it changes of each sentence: (L, H + 1, N) to (…, 2)."""
    ends = [[each.low, each.high] for each in means(changes.flatten(0, 1), seed, clusters)]
    return torch.tensor(ends, dtype=torch.float64).reshape(*changes.shape[:2], 2)


@dataclass(frozen=True, eq=False)
class Evaluations:
    """What a run measures for each of its sentences: means for its record, and one table that it publishes.

    An evaluation has a key, such as `late_half`, and a column for each thing measured: a mean is recorded as
    `late_half/probability_difference`. A cell that is run again replaces what it had added. For other sentences of the
    same run: `dataclasses.replace(evaluations, sentences=..., metrics=...)`.
    """

    run: Run
    sentences: pd.DataFrame
    """What tells the N sentences apart, a row each."""
    metrics: Mapping[str, YearMetric] = field(default_factory=dict)
    """By column: a function of the probabilities and of the sentences' column YY."""
    tables: dict[str, tuple[pd.DataFrame, dict[str, torch.Tensor]]] = field(default_factory=dict)
    """By evaluation: its sentences, and its columns (N,), NaN where nothing was measured."""

    @property
    def seed(self) -> int:
        """The seed of the intervals."""
        return int(self.run.provenance["settings"]["seed"])

    @property
    def clusters(self) -> Clusters:
        """The groups that the intervals draw again, (N,) each."""
        return clusters_of(self.sentences)

    def column(self, evaluation: str, column: str) -> torch.Tensor:
        """A column's value for each sentence, (N,) float64."""
        return self.tables[evaluation][1][column]

    def add(self, evaluation: str, column: str, values: torch.Tensor, rows: torch.Tensor | None = None) -> None:
        """Keep a per-sentence quantity (N,) for the table; with `rows` (n,), values (n,) for these sentences.

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
        """The metrics of answer probabilities (N, A), (N,) each, by column; kept for the table.

        With `rows` (n,), for these sentences only.
        """
        of_all = self.sentences["YY"].to_numpy()
        start_yy = torch.tensor(of_all if rows is None else of_all[rows.numpy()])
        measured = {column: metric(probabilities, start_yy) for column, metric in self.metrics.items()}
        for column, values in measured.items():
            self.add(evaluation, column, values, rows)
        return measured

    def note(
        self, evaluation: str, probabilities: torch.Tensor, words: str, clean: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """`measure`, and record the means; with the clean run's first metric (N,), also as a share of its mean."""
        self.measure(evaluation, probabilities)
        measured = self.note_measured(evaluation, words)
        if clean is not None:
            first = next(iter(self.metrics))
            part = share(measured[first], clean, self.seed, self.clusters)
            self.run.note(f"{evaluation}/{first}/share_of_clean", part, f"{words}: share of clean")
        return measured

    def note_measured(self, evaluation: str, words: str) -> dict[str, torch.Tensor]:
        """Record the means of the metrics of an evaluation that was measured. Returns them by column, (N,) each."""
        measured = {column: self.column(evaluation, column) for column in self.metrics}
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
