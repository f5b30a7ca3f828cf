"""The paper's claims, each beside what a run measures.

`claims.csv` has one claim on each line, in the order of the paper's sections: every number of the paper, every fact of
its figures that a run can be compared with, and, without a `stated` value, what else a reader may want. Its columns:

- `key`, `script`: the number, and the script that measures it; together they name a claim
- `section`, `words`: its section in the table of results, and its words there
- `paper_section`, `figure`: where it is in the paper, as far as we know
- `unit`: `%` (a share of one), `points` (a change of one, in hundredths), empty (a plain number), `text`, or `nodes` or
  `heads` for the strongest of a sweep
- `stated`, `tolerance`: a number in that unit, and how far from it a measurement still agrees; or `> 50` or `< 0`
  without a tolerance; or K names of nodes, and how many of them have to be among the K strongest
- `sure`: how sure we are that the paper says so, one of `SURE`
- `of_circuit`: `yes` if the claim is about the paper's own circuit

The tolerances are ours: a few points for means, because the paper's sentences differ from ours (it does not release its
seeds); more where it says “about”, and where we have a number at second hand.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from path_patching.bootstrap import Estimate
from path_patching.errors import UserError, first_line
from path_patching.numbers import HUNDREDTHS, in_unit, shown, with_unit
from path_patching.paths import Node, PathSetError
from reproduction.experiments import EXPERIMENTS
from reproduction.paper import is_the_papers
from reproduction.run import KEY, Artifacts

CLAIMS_FILE = "claims.csv"
RANKED = ("nodes", "heads")
UNITS = (*HUNDREDTHS, "", "text", *RANKED)
SOFT = "secondary source, medium confidence"
SURE = ("stated", "about", "read off a figure", "secondary source, high confidence", SOFT)
SHOWN = 5  # nodes shown where the paper names none
NUMBER, BOUND = re.compile(r"-?\d+(\.\d+)?"), re.compile(r"([<>]) (-?\d+(?:\.\d+)?)")

Verdict = Literal["agrees", "differs", "differs (soft target)"]


@dataclass(frozen=True)
class Claim:
    """A line of `claims.csv` (see the module). Raises `UserError` for one that is wrong."""

    key: str
    script: str
    section: str
    paper_section: str
    figure: str
    words: str
    unit: str
    stated: str
    tolerance: str
    sure: str
    of_circuit: str

    def __post_init__(self) -> None:
        for complaint in self._complaints():
            raise UserError(f"{self.script} {self.key}: {complaint}")

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes that the paper names in a claim about the strongest ones."""
        return tuple(self.stated.split())

    @property
    def limits(self) -> tuple[float, float]:
        """The ends between which a measured number agrees with the stated one."""
        if bound := BOUND.fullmatch(self.stated):
            limit = self._in_ones(bound[2])
            return (limit, math.inf) if bound[1] == ">" else (-math.inf, limit)
        middle, apart = self._in_ones(self.stated), self._in_ones(self.tolerance)
        return middle - apart, middle + apart

    @property
    def expected(self) -> str:
        """What the paper says, with the tolerance, and how sure we are where it is not plainly stated."""
        if not self.stated:
            return ""
        if self.unit in RANKED:
            named = ", ".join(self.nodes)
            return named if len(self.nodes) == 1 else f"{named} (≥ {self.tolerance} of {len(self.nodes)})"
        if bound := BOUND.fullmatch(self.stated):
            text = f"{bound[1]} {with_unit(self._in_ones(bound[2]), self.unit)}"
        else:
            text = f"{with_unit(self._in_ones(self.stated), self.unit)} ± {self.tolerance}"
        if self.sure == "about":
            return f"about {text}"
        return text if self.sure == "stated" else f"{text} ({self.sure})"

    def measure(self, made: Artifacts) -> Any:
        """What a run measured; of a ranking as many nodes as the paper names; None if it did not measure it.

        Raises `UserError` if the measurement does not fit the claim's unit.
        """
        number = made.number(self.key)
        if number is None:
            return None
        kind = "ranking" if isinstance(number, Mapping) else "text" if isinstance(number, str) else "number"
        if kind != self._kind:
            raise UserError(f"{CLAIMS_FILE}: {self.script} {self.key} is a {kind}, which has no unit {self.unit!r}")
        if kind != "ranking":
            return number
        return dict([*number.items()][: len(self.nodes) or SHOWN])

    def shown(self, measured: Any) -> str:
        """A measurement with its unit and, where it has one, its 95 % interval; each node with its effect in points."""
        if isinstance(measured, str):
            return measured
        if isinstance(measured, Mapping):  # no line break between a node and its effect
            effects = {name: in_unit(effect, "points") for name, effect in measured.items()}
            return ", ".join(f"{name}\N{NO-BREAK SPACE}{effect}" for name, effect in effects.items())
        return shown(measured, self.unit)

    def verdict(self, measured: Any) -> Verdict | None:
        """Whether a measurement agrees with what is stated; None if nothing is stated."""
        if not self.stated:
            return None
        if isinstance(measured, Mapping):
            alike = len({*measured} & {*self.nodes}) >= int(self.tolerance)
        else:
            value = measured.value if isinstance(measured, Estimate) else measured
            alike = self.limits[0] <= value <= self.limits[1]
        if alike:
            return "agrees"
        return "differs (soft target)" if self.sure == SOFT else "differs"

    @property
    def _kind(self) -> str:
        """The kind of number that the unit asks for."""
        return "ranking" if self.unit in RANKED else "text" if self.unit == "text" else "number"

    def _in_ones(self, text: str) -> float:
        return float(text) / (100 if self.unit in HUNDREDTHS else 1)

    def _complaints(self) -> list[str]:
        """What is wrong with the line."""
        complaints = []
        if not KEY.fullmatch(self.key):
            complaints.append("this is no key; write a path of lower-case parts")
        if self.script not in EXPERIMENTS:
            complaints.append(f"there is no such script; choose one of {', '.join(EXPERIMENTS)}")
        if self.unit not in UNITS:
            complaints.append(f"the unit {self.unit!r} is unknown; choose one of {', '.join(filter(None, UNITS))}")
        if self.of_circuit not in ("yes", ""):
            complaints.append(f"of_circuit is {self.of_circuit!r}; write yes, or nothing")
        if not self.words or not self.section:
            complaints.append("it has no words or no section; the table of results needs both")
        if self.sure not in (SURE if self.stated else ("",)):
            complaints.append(f"sure is {self.sure!r}; with a stated value it is one of: {'; '.join(SURE)}")
        return complaints or self._complaints_of_value()

    def _complaints_of_value(self) -> list[str]:
        """What is wrong with the stated value and its tolerance."""
        if not self.stated:
            return ["it has a tolerance, but nothing is stated"] if self.tolerance else []
        if self.unit in RANKED:
            return self._complaints_of_nodes()
        if self.unit == "text":
            return ["text cannot be judged; leave stated empty"]
        if BOUND.fullmatch(self.stated):
            return ["a bound has no tolerance"] if self.tolerance else []
        if not NUMBER.fullmatch(self.stated) or not NUMBER.fullmatch(self.tolerance) or float(self.tolerance) <= 0:
            return ["stated and tolerance are no numbers; write 81.7 and 3, or > 50 without a tolerance"]
        return []

    def _complaints_of_nodes(self) -> list[str]:
        """What is wrong with the names of nodes, and how many of them have to be found."""
        try:
            kinds = {Node.named(name, 0).kind for name in self.nodes}
        except PathSetError as error:
            return [str(error)]
        if len({*self.nodes}) < len(self.nodes):
            return [f"a node is twice in {self.stated!r}"]
        if not kinds <= ({"head"} if self.unit == "heads" else {"head", "mlp"}):
            return [f"{self.stated!r} are no {self.unit}"]
        if self.tolerance not in map(str, range(1, len(self.nodes) + 1)):
            return [f"the tolerance is how many of {len(self.nodes)} nodes have to be found, not {self.tolerance!r}"]
        return []


def read_claims(path: Path | None = None) -> tuple[Claim, ...]:
    """The claims of `claims.csv`, or of another file. Raises `UserError` for a wrong claim, and for a repeated one."""
    path = path or Path(__file__).parent / CLAIMS_FILE
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        if not isinstance(table.index, pd.RangeIndex):  # pandas took the first cells of longer lines for row names
            raise ValueError("a line has more cells than there are columns")
        claims = tuple(Claim(**{str(name): value for name, value in line.items()}) for line in table.to_dict("records"))
    except (OSError, ValueError) as error:  # pandas raises ValueError for what is no CSV
        raise UserError(f"no claims can be read from {path} ({first_line(error)})") from error
    except TypeError as error:
        raise UserError(f"{path} has not the columns of a claim ({first_line(error)})") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if not claims:
        raise UserError(f"no claims can be read from {path}: it has no line but the header")
    seen: set[tuple[str, str]] = set()
    for claim in claims:
        if (claim.script, claim.key) in seen:
            raise UserError(f"{path}: {claim.script} {claim.key} is there twice")
        seen.add((claim.script, claim.key))
    return claims


def is_of_paper(claim: Claim, made: Artifacts) -> bool:
    """Whether the paper speaks of what was measured: GPT-2 small and, where that matters, its own circuit."""
    if not made.record["model"]["is_gpt2_small"]:
        return False
    return not claim.of_circuit or (made.circuit is not None and is_the_papers(made.circuit))
