"""Test 4, against chance: does each link of the circuit matter more than most random links of its kind?

    δ(ℓ) = |F(C) − F(C∖{ℓ})| for a link ℓ of C,   δ(r) = |F(C ∪ P_r) − F(C)| for a random one
    p(ℓ) = P(Binomial(R, 0.9) ≤ #{r: δ(r) < δ(ℓ)}),  over R random links of the kind of ℓ

Shi et al. (2024) add random paths to a circuit, and ask whether a link of it matters more than 90 % of the added ones.
Here r is a link of a random circuit of the shape of C, and P_r is that circuit's paths through r. r is not in C, and of
the kind of ℓ: through the same input, between the same classes of nodes (test 4). For a redundant link, both δ are
measured without its class K: F((C∖K) ∪ P_r) − F(C∖K). The smallest p, corrected by Holm's method, is judged.

    >>> paths_of = lambda circuit: full_circuit(circuit, YY, END)
    >>> scale = Scale.of(engine, metric)
    >>> needed = minimality(engine, scale, paths_of(circuit), YY, END, "full circuit")
    >>> found = beside_random_links(engine, scale, circuit, paths_of, needed, YY, END)
    >>> link = next(iter(found.own))
    >>> found.less(link) <= len(found.others[link]) < 20  # this model has few circuits of the shape
    True
    >>> print(found.verdict())
    full circuit: does each link matter more than random links of its kind? Smallest p, one-sided, ...
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass

from path_patching.circuits.circuit import Circuit, Link, Step
from path_patching.circuits.validation.matched import random_parts
from path_patching.circuits.validation.measuring import ROUNDING, Scale, isolated, measured
from path_patching.circuits.validation.members import link_steps, listed
from path_patching.circuits.validation.minimality import Kind, LinkLoss, Minimality, class_of_link
from path_patching.circuits.validation.verdicts import BARS, Verdict, holm, joined, judge
from path_patching.engine import Engine, Request
from path_patching.errors import UserError
from path_patching.paths import PathSet

DRAWS = 20  # random links of each kind
FEWEST = 10  # random links of a kind that it takes to judge a link
QUANTILE = 0.9


@dataclass(frozen=True)
class BesideRandom:
    """How much each link of a circuit matters, and how much random links of its kind do."""

    subject: str
    own: Mapping[Link, float]
    """δ(ℓ)."""
    others: Mapping[Link, tuple[float, ...]]
    """δ(r) of the random links of its kind."""
    doubt: str = ""

    def less(self, link: Link) -> int:
        """How many random links matter less than a link of the circuit, by more than rounding."""
        return sum(each < self.own[link] - ROUNDING for each in self.others[link])

    def verdict(self) -> Verdict:
        """On the smallest p, corrected for the number of links; the remark names the links that fail."""
        judged = [link for link, drawn in self.others.items() if len(drawn) >= FEWEST]
        ps = holm([binomial_p(self.less(link), len(self.others[link])) for link in judged])
        idle = [str(link) for link, p in zip(judged, ps, strict=True) if BARS["random_links"].side(p)]
        rest = len(self.own) - len(judged)
        remark = joined(
            f"no more than random links (cut one at a time): {listed(idle)}" if idle else "",
            f"{rest} of {len(self.own)} links have too few random links of their kind" if rest and judged else "",
        )
        few = "" if judged else "too few random links of these kinds in circuits of this shape; a larger model has more"
        return judge("random_links", min(ps, default=math.nan), self.subject, remark, self.doubt or few)


def binomial_p(less: int, drawn: int) -> float:
    """P(Binomial(`drawn`, 0.9) ≤ `less`)."""
    return sum(math.comb(drawn, k) * QUANTILE**k * (1 - QUANTILE) ** (drawn - k) for k in range(less + 1))


def beside_random_links(
    engine: Engine,
    scale: Scale,
    circuit: Circuit,
    part: Callable[[Circuit], PathSet],
    needed: Minimality,
    yy: int,
    end: int,
    draws: int = DRAWS,
    seed: int = 0,
) -> BesideRandom:
    """The links of a part of a circuit beside up to `draws` random links of each kind; `needed` has what F loses.

    If no other circuit of the shape exists, there are no random links. Raises `PathSetError` like `minimality`.
    """
    paths = part(circuit)
    steps = link_steps(paths, yy, end, circuit.placed)
    of_kind: defaultdict[Kind, list[Link]] = defaultdict(list)
    for link in steps:
        of_kind[class_of_link(link)].append(link)
    groups: defaultdict[tuple[Kind, bool], list[LinkLoss]] = defaultdict(list)  # by kind, and whether others stand in
    for each in needed.links:
        groups[class_of_link(each.link), each.redundant].append(each)
    others: list[PathSet] = []
    with suppress(UserError):  # there is no other circuit of the shape
        others = random_parts(circuit, part, "any layers", engine.model.architecture, draws, seed)
    steps_of_others = [link_steps(each, yy, end, circuit.placed) for each in others]
    added = _drawn(others, steps_of_others, {*steps}, [*of_kind], seed)
    asked: dict[tuple[Kind, bool], list[Request]] = {}
    for kind, redundant in groups:
        of_class = [step for link in of_kind[kind] for step in steps[link]]
        base = paths.avoiding_steps(of_class) if redundant else paths
        more = (each if base is None else base | each for each in added[kind])
        asked[kind, redundant] = [isolated(base), *map(Request.isolate, more)]
    scores = measured(engine, [each for requests in asked.values() for each in requests], [scale.metric])[0]
    of_groups = zip(groups.values(), scale.of_means(scores).split([*map(len, asked.values())]), strict=True)
    own, beside = {}, {}
    for losses, found in of_groups:
        drawn = tuple((found[1:] - found[0]).abs().tolist())
        for each in losses:
            lost = each.given_class if each.redundant and each.given_class else each.alone
            own[each.link], beside[each.link] = abs(lost.value), drawn
    return BesideRandom(needed.subject, own, beside, scale.doubt)


def _drawn(
    others: Sequence[PathSet],
    steps_of_others: Sequence[Mapping[Link, frozenset[Step]]],
    own: Set[Link],
    kinds: Sequence[Kind],
    seed: int,
) -> dict[Kind, list[PathSet]]:
    """For each kind, the paths of each random circuit through one of its links that is not in the circuit, if any."""
    rng = random.Random(seed)
    found: dict[Kind, list[PathSet]] = {kind: [] for kind in kinds}
    for paths, steps in zip(others, steps_of_others, strict=True):
        for kind in kinds:
            outside = [link for link in steps if link not in own and class_of_link(link) == kind]
            through = paths.passing_steps(steps[rng.choice(outside)]) if outside else None
            found[kind] += [through] if through is not None else []
    return found
