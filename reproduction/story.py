"""The report's text: questions in the paper's order, and sentences whose numbers are looked up in the records.

`page/story.toml` has the text. A slot in it, `{script:key|unit}`, becomes the number of that key in this run, with its
unit and interval; if several scripts are named, from the first that measured it. The paper's number is added if it is
known and the run is of GPT-2 small. So no number in a sentence is typed by hand, and a sentence with a number that this
run did not measure is left out. What a validation comes to is looked up in its verdicts in the same way.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from path_patching.bootstrap import Estimate
from path_patching.circuits.circuit import Circuit
from path_patching.circuits.search import NAME as FOUND
from path_patching.circuits.validation.verdicts import BARS, NO_BAR
from path_patching.errors import UserError
from path_patching.numbers import in_unit, shown, with_unit
from reproduction.claims import Claim, is_of_paper
from reproduction.evidence import attention_of
from reproduction.experiments import EXPERIMENTS, Experiment
from reproduction.figures import hardly_on_years
from reproduction.numbers import NO_CONTROL, printed, unit_of
from reproduction.paper import is_the_papers
from reproduction.run import Artifacts
from reproduction.verdicts import KIND as VERDICTS
from reproduction.verdicts import corrected_counts, count_smallest_p, read_verdicts

STORY = Path(__file__).parent / "page" / "story.toml"
SLOT = re.compile(r"\{([\w,]+):([^|}]+)(?:\|([^}]*))?\}")
BARE = " bare"  # behind a unit: without the interval
NAMED = " named"  # behind a unit: what was edited, in the words of the record, not the node alone
IF_CORRECTED = " if corrected"  # behind an outcome: how many verdicts have it then
UNASKED = "no test of this run asks for it"  # why a circuit is not said to have a property
NO_BREAK = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Question:
    """A section of the report: its question, the sentences that answer it, and the figures that it shows."""

    id: str
    question: str
    sentences: tuple[str, ...]
    figures: tuple[str, ...]
    folded: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    """Words that stand in its figures and tables."""

    def of(self, figures: Iterable[str]) -> list[str]:
        """The names of those figures that belong here, in the order of its patterns."""
        names = list(figures)
        ordered = (name for pattern in self.figures for name in names if fnmatch(name, pattern))
        return list(dict.fromkeys(ordered))

    def folds(self, figure: str) -> bool:
        """Whether a figure of this name is seen only once the reader unfolds it."""
        return any(fnmatch(figure, pattern) for pattern in self.folded)


@cache
def questions() -> tuple[Question, ...]:
    """The sections in their order: those of the text, then one of each experiment for what the text does not name."""
    of_text = tuple(
        Question(
            each["id"],
            each["question"],
            tuple(each["sentences"]),
            tuple(each["figures"]),
            tuple(each.get("folded", ())),
            tuple(each.get("words", ())),
        )
        for each in _story()["section"]
    )
    told = " ".join(sentence for each in of_text for sentence in each.sentences)
    return of_text + tuple(
        Question(name, _asked(each), () if name in told else (f"Measured:{{{name}:*}}",), (*each.drawn,))
        for name, each in EXPERIMENTS.items()
    )


def _asked(experiment: Experiment) -> str:
    """What it asks, as a title, without what is added in brackets."""
    asks, _, _ = experiment.asks.partition(" (")
    return asks[0].upper() + asks[1:]


def summary() -> Question:
    """The answer at the top of the page."""
    return Question("answer", "How does it compute greater-than?", tuple(_story()["summary"]), ())


def words() -> dict[str, str]:
    """What the field's words mean."""
    return {each["word"]: each["means"] for each in _story()["word"]}


def forms() -> dict[str, str]:
    """The word for each form in which one may stand in a text."""
    return {form: each["word"] for each in _story()["word"] for form in (each["word"], *each.get("forms", ()))}


def bar_of(asked: str) -> str:
    """The name of the bar that asks this. Raises `UserError` if none does: bars of an earlier version asked it."""
    for name, bar in BARS.items():
        if bar.asked == asked:
            return name
    raise UserError(f"no bar asks “{asked}”: the validation is of another version; run circuit_validation.py again")


@dataclass(frozen=True)
class Property:
    """What a circuit should be (`sufficient`), what that means, and the bars that ask for it, of each of its parts."""

    word: str
    means: str
    bars: tuple[str, ...]
    parts: tuple[str, ...]
    unasked: str
    """Why no verdict may ask for it of a part."""

    def of(self, bar: str, part: str, subject: str) -> bool:
        """Whether a verdict by this bar, on this subject, tells whether a part has the property."""
        return bar in self.bars and part in subject


def properties() -> tuple[Property, ...]:
    """What a circuit should be, in the order of the report."""
    return tuple(
        Property(each["word"], each["means"], tuple(each["bars"]), tuple(each["parts"]), each.get("unasked", UNASKED))
        for each in _story()["property"]
    )


def changed() -> Mapping[str, str]:
    """What a verdict means that is corrected to an outcome, with a gap for the number of verdicts."""
    found: Mapping[str, str] = _story()["changed"]
    return found


@cache
def _story() -> Mapping[str, Any]:
    return tomllib.loads(STORY.read_text(encoding="utf-8"))


class Answers:
    """The answers of runs (by script) to the questions; `claims` are the paper's numbers, for GPT-2 small."""

    def __init__(self, runs: Mapping[str, Artifacts], claims: Sequence[Claim]) -> None:
        self.runs = runs
        self.claims = {(claim.script, claim.key): claim for claim in claims}

    def of(self, question: Question) -> list[str]:
        """The sentences of a section, without those that need something that was not measured."""
        filled = (self.filled(sentence) for sentence in question.sentences)
        return [sentence for sentence in filled if sentence is not None]

    def filled(self, sentence: str) -> str | None:
        """A sentence with its numbers; None if one was not measured."""
        found = {slot[0]: self._said(*slot.groups()) for slot in SLOT.finditer(sentence)}
        if None in found.values():
            return None
        return SLOT.sub(lambda slot: str(found[slot[0]]), sentence)

    def _said(self, script: str, key: str, unit: str | None) -> str | None:
        if script == "circuit":
            return self._of_circuit(key)
        if script == "prompts":
            return self._of_prompts()
        if script == "verdicts":
            return self._of_verdicts(key)
        return next(filter(None, (self._of_run(each, key, unit or "") for each in script.split(","))), None)

    def _of_run(self, script: str, key: str, unit: str) -> str | None:
        run = self.runs.get(script)
        if run is None:
            return None
        if key == "*":
            words = {each: number["words"] for each, number in run.record["numbers"].items()}
            return _as_lines(f"{words[each]}: {printed(run.number(each), unit_of(each))}" for each in run.keys)
        if "*" not in key:
            return self._number(run, key, unit)
        before, after = key.split("*")
        named = {each: each.removeprefix(before).removesuffix(after) for each in run.keys if fnmatch(each, key)}
        told = [each for each, name in named.items() if "/" not in name]
        if unit.endswith(NAMED):
            unit = unit.removesuffix(NAMED)
            named = {each: run.record["numbers"][each]["words"].partition(": ")[0] for each in told}
        return (
            ", ".join(f"{named[each].removesuffix(' at END')} {self._number(run, each, unit)}" for each in told) or None
        )

    def _of_prompts(self) -> str | None:
        """Which prompts hardly any year continues, by the mean probabilities for each YY."""
        run = self.runs.get("sequence_generalization")
        if run is None:
            return None
        found = run.find(kind="probabilities", evaluation="clean")
        probs = {run.number(f"task_{about['task']}/prompt"): run.load(name) for name, about in found.items()}
        return hardly_on_years(probs) or None

    def _of_circuit(self, part: str) -> str | None:
        """Names of its nodes, whose circuit it is, or where its heads look."""
        circuit = next((run.circuit for run in self.runs.values() if run.circuit is not None), None)
        if circuit is None:
            return None
        if part == "origin":
            return _origin(circuit)
        if part in ("attention", "few"):
            return self._of_attention(circuit.heads, part)
        names: Sequence[str] = getattr(circuit, part)
        return _listed(names) if names else None

    def _of_attention(self, heads: Sequence[str], part: str) -> str | None:
        """What heads give YY; or, for "few", what it is the mean of where a run kept too few patterns for all."""
        discovery = self.runs.get("circuit_discovery")
        looks = {head: attention_of(head, discovery) for head in heads} if discovery else {}
        if part == "few":
            return next((look.few for look in looks.values() if look and look.few), None)
        return ", ".join(f"{head} {look.words}" for head, look in looks.items() if look and look.words) or None

    def _of_verdicts(self, what: str) -> str | None:
        """What all verdicts come to, why some are not judged, or what those with an outcome ask and of which parts."""
        if not any(self._verdicts.values()):
            return None
        if what == "conclusion":
            outcome = next((each for each in ("failed", "unclear") if self._verdicts[each]), "passed")
            return str(_story()["conclusions"][outcome])
        if what.endswith(IF_CORRECTED):
            return str(corrected_counts(self._table)[what.removesuffix(IF_CORRECTED)])
        if what == "smallest p":
            return str(count_smallest_p(self._table) or "") or None
        if what == "not judged":
            return _as_lines(f"{why} ({len(subjects)})" for why, subjects in self._verdicts[what].items())
        asked = _story()["asked"]
        return _as_lines(f"{asked[bar]} ({'; '.join(subjects)})" for bar, subjects in self._verdicts[what].items())

    @cached_property
    def _table(self) -> pd.DataFrame:
        """All verdicts, a row each; none without a validation."""
        run = self.runs.get("circuit_validation")
        return read_verdicts(run) if run is not None and run.find(kind=VERDICTS) else pd.DataFrame()

    @cached_property
    def _verdicts(self) -> Mapping[str, Mapping[str, Sequence[str]]]:
        """The subjects of all verdicts by outcome and bar, those not judged by the reason.

        Those that failed by the width of an interval alone are `unclear`.
        """
        found: dict[str, dict[str, list[str]]] = {each: {} for each in ("failed", "unclear", "not judged", "passed")}
        for line in self._table.to_dict("records"):
            outcome, by = line["verdict"], bar_of(line["asked"])
            if outcome == "failed" and BARS[by].side(line["value"]) == 0:
                outcome = "unclear"
            if outcome == "not judged":
                by = line["remark"].partition("; ")[0] if line["bar"] != NO_BAR else "only described"
            found[outcome].setdefault(by, []).append(line["subject"])
        return found

    def _number(self, run: Artifacts, key: str, unit: str) -> str | None:
        number = run.number(key)
        if number is None:
            return None
        if unit == "n":
            return f"{number.n:,}"
        if unit == "count":
            return f"{len(number):,}" if isinstance(number, list) else f"{number:,}"
        if isinstance(number, Mapping):
            first = list(number.items())[: int(unit.removeprefix("nodes "))]
            return _listed([f"{name} ({in_unit(effect, 'points')}{NO_BREAK}points)" for name, effect in first])
        if unit == "none":
            return _uncapitalized(number.removeprefix(NO_CONTROL)) if number.startswith(NO_CONTROL) else None
        if isinstance(number, str):
            return number
        if unit.endswith(BARE):
            return with_unit(number.value if isinstance(number, Estimate) else number, unit.removesuffix(BARE))
        return f"{shown(_without_plain(number), unit)}{self._beside(run, key)}"

    def _beside(self, run: Artifacts, key: str) -> str:
        """What the paper says about this number, if anything."""
        claim = self.claims.get((run.script, key))
        return f" (the paper: {claim.expected})" if claim and claim.stated and is_of_paper(claim, run) else ""


def _uncapitalized(text: str) -> str:
    return text[0].lower() + text[1:]


def _origin(circuit: Circuit) -> str:
    origin = "paper" if is_the_papers(circuit) else "found" if circuit.name == FOUND else "given"
    return str(_story()["origins"][origin]).format(circuit.name)


def _without_plain(number: float | Estimate) -> float | Estimate:
    return number.without_plain() if isinstance(number, Estimate) else number


def _as_lines(items: Iterable[str]) -> str | None:
    """Each in a line of its own; None without any."""
    return "".join(f"\n{each}" for each in items) or None


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
