"""Test 8: is the circuit found again? The search by rule on draws of the sentences, at several thresholds.

    membership(v) = share of the draws whose circuit has node v
    Jaccard(A, B) = |A ∩ B| / |A ∪ B|, 1 if both are empty; the mean over all pairs of draws
    consensus = the nodes of over half of the draws

A draw is a weight for each sentence, so that whole clusters can be drawn. Each sweep is made once for all sentences;
draws and thresholds that need it again only weigh it. At END draws share nearly all sweeps. At YY each set of heads
needs a sweep of its own. So searches end at END below `FOLLOWED_FROM`, where each draw keeps other heads, and if a draw
keeps too many nodes at END (`too_many_to_follow`), as in a model that cannot do the task.

    >>> from path_patching.bootstrap import sentence_weights
    >>> from path_patching.sweeps import remembered_effects
    >>> drawn = sentence_weights(97, seed=0, resamples=3)  # three draws, (draws, N)
    >>> found = stability(remembered_effects(engine, metric), drawn, YY, END, thresholds=(0.02,))
    >>> found.searches[0].membership  # by node with its place
    {...: ...}
    >>> for verdict in found.verdicts(circuit):
    ...     print(verdict)
    the search at 2 % of clean, at END: does it find the same nodes on other sentences? ...
    the search at 2 % of clean, at END and YY: ...
    the circuit at END, the search at 2 % of clean: is it what most of these searches find? ...
    the circuit at END and YY, the search at 2 % of clean: ...
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace
from itertools import combinations

import torch

from path_patching.circuits.circuit import Circuit, bare, place_of
from path_patching.circuits.overlap import jaccard
from path_patching.circuits.search import find_at_end, find_members, too_many_to_follow
from path_patching.circuits.validation.measuring import too_few
from path_patching.circuits.validation.verdicts import Verdict, judge
from path_patching.defaults import FOLLOWED_FROM, STABILITY_THRESHOLDS
from path_patching.errors import UserError
from path_patching.progress import progress
from path_patching.sweeps import Effects

DRAWS = 20
PLACES = {"at END": ("END",), "at END and YY": ("END", "YY")}
WITHOUT_PLACES: dict[str, tuple[str, ...]] = {"without places": ("",)}


@dataclass(frozen=True)
class Searches:
    """What searches at one threshold, a share of clean, found on each draw of the sentences."""

    threshold: float
    found: tuple[frozenset[str], ...]
    """By draw, the circuit's nodes with their place (`m10@END`, `m0@YY`); none if no head was found."""
    followed: bool = True
    """Whether the searches went on to YY; if not, `found` has the nodes kept at END."""

    def places(self, circuit: Circuit) -> dict[str, tuple[str, ...]]:
        """The places at which a circuit is compared with the searches, by words for them; the most places last."""
        if not circuit.placed:
            return WITHOUT_PLACES
        return PLACES if self.followed else {"at END": ("END",)}

    @property
    def membership(self) -> dict[str, float]:
        """The share of the draws that have a node, for all nodes found, most frequent first."""
        counts = Counter(sorted(node for members in self.found for node in members))
        return {node: count / len(self.found) for node, count in counts.most_common()}

    def within(self, places: Iterable[str]) -> Searches:
        """The same for the nodes at some places only."""
        return replace(self, found=tuple(at_places(members, places) for members in self.found))

    def without_places(self) -> Searches:
        """The same without places: nodes of one name count as one."""
        return replace(self, found=tuple(frozenset(map(bare, members)) for members in self.found))

    def jaccard(self) -> float:
        """The mean Jaccard index over all pairs of draws."""
        return mean_jaccard(self.found)

    def consensus(self) -> frozenset[str]:
        """The nodes that over half of the draws have, the consensus."""
        return frozenset(node for node, share in self.membership.items() if share > 0.5)


@dataclass(frozen=True)
class Stability:
    """Searches on the same draws of the sentences, at several thresholds."""

    searches: tuple[Searches, ...]
    doubt: str = ""
    """Why nothing can be judged (`too_few`); "" if it can."""

    def judged_at(self, circuit: Circuit, found_at: float | None = None) -> float:
        """The threshold of the search that is judged; see `verdicts`."""
        thresholds = [each.threshold for each in self.searches]
        if found_at is None:
            claimed = members_of(circuit)
            alike = {
                each.threshold: jaccard(each.consensus(), at_places(claimed, [*each.places(circuit).values()][-1]))
                for each in self.named_as(circuit)
                if each.followed or not any(other.followed for other in self.searches)
            }
            return max(alike, key=lambda threshold: alike[threshold])
        if found_at not in thresholds:
            raise UserError(f"no search was made at {found_at:g}; there are {', '.join(map(str, thresholds))}")
        return found_at

    def verdicts(self, circuit: Circuit, found_at: float | None = None) -> tuple[Verdict, ...]:
        """Whether searches find the same again, and whether that is the circuit: at END, and at END and YY.

        The search at the threshold `found_at`, where the circuit was found, is judged; the others are shown. Without
        `found_at`, the search whose consensus is most like the circuit is judged, of those followed to YY if any was.
        If the circuit has no places, nodes are compared without theirs. If no draw has a node, nothing is judged.
        Raises `UserError` if `found_at` is not one of the thresholds.
        """
        claimed, judged = members_of(circuit), self.judged_at(circuit, found_at)
        why = "its consensus is most like the circuit" if found_at is None else "where the circuit was found"
        again, alike = [], []
        for each in self.named_as(circuit):
            other, named = each.threshold != judged, f"the search at {100 * each.threshold:g} % of clean"
            remark, shown = ("", "another threshold, for comparison") if other else (why, self.doubt)
            for place, places in each.places(circuit).items():
                within, own = each.within(places), at_places(claimed, places)
                index, subject = jaccard(within.consensus(), own), f"the circuit {place}, {named}"
                unjudged = shown or ("" if within.membership else "nothing to judge: the searches found no node")
                again.append(judge("stability", within.jaccard(), f"{named}, {place}", remark, unjudged))
                alike.append(judge("consensus", index, subject, remark, unjudged))
        return (*again, *alike)

    def named_as(self, circuit: Circuit) -> tuple[Searches, ...]:
        """The searches with places if the circuit has places, else without."""
        return self.searches if circuit.placed else tuple(each.without_places() for each in self.searches)


def stability(
    effects: Effects,
    weights: torch.Tensor,
    yy: int,
    end: int,
    thresholds: Sequence[float] = STABILITY_THRESHOLDS,
    followed_from: float = FOLLOWED_FROM,
    doubt: str = "",
) -> Stability:
    """Searches on draws of the sentences, at each threshold; `weights` (draws, N) say how often each was drawn.

    `doubt` says why nothing can be judged, if so (`too_few` sentences or clusters). Searches end at END for thresholds
    below `followed_from`, and if they keep too many nodes there. Raises `UserError` for weights of another shape, and
    for a metric whose clean value may be zero, so that a threshold is no share of it.
    """
    if weights.ndim != 2 or len(weights) < 2:
        raise UserError(f"weights have the shape {tuple(weights.shape)}; give those of two draws or more, (draws, N)")
    if not thresholds:
        raise UserError("no threshold is given; give one, such as 0.02")
    drawn = [effects.weighted(each) for each in weights]
    cleans, sizes = [each.clean for each in drawn], effects.values.engine.model.architecture
    least, most = min(cleans), max(cleans)
    if not least * most > 0:
        raise UserError(
            f"the metric's clean value, {effects.clean:.4f}, may be zero ({least:.4f} to {most:.4f} on {len(drawn)} "
            "draws of the sentences), so that a threshold is no share of it"
        )

    def searched(threshold: float) -> Searches:
        at_end = tuple(_kept_at_end(each, yy, end, threshold) for each in drawn)
        if threshold < followed_from or any(too_many_to_follow(kept, sizes) for kept in at_end):
            return Searches(threshold, at_end, followed=False)
        return Searches(threshold, tuple(_found(each, yy, end, threshold) for each in drawn))

    found = tuple(map(searched, progress(thresholds, f"{len(drawn)} searches at each threshold")))
    return Stability(found, doubt or too_few(weights.shape[1]))


def _found(effects: Effects, yy: int, end: int, threshold: float) -> frozenset[str]:
    return members_of(find_members(effects, yy, end, threshold))


def _kept_at_end(effects: Effects, yy: int, end: int, threshold: float) -> frozenset[str]:
    return frozenset(f"{name}@END" for name in find_at_end(effects, yy, end, threshold))


def members_of(circuit: Circuit | None) -> frozenset[str]:
    """A circuit's nodes as named in links: `m10@END`, `m0@YY`; none without a circuit."""
    return frozenset(circuit.members if circuit is not None else ())


def at_places(members: Iterable[str], places: Iterable[str]) -> frozenset[str]:
    """The nodes at one of some places: `END`, `YY`, or "" for none."""
    wanted = {*places}
    return frozenset(node for node in members if place_of(node) in wanted)


def mean_jaccard(sets: Sequence[Set[str]]) -> float:
    """The mean Jaccard index over all pairs of two or more sets."""
    pairs = [jaccard(*pair) for pair in combinations(sets, 2)]
    return sum(pairs) / len(pairs)
