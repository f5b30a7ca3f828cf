"""Test 9: does a stronger patch do more? The patched change scaled by α.

    m(α) = mean of the metric with the circuit's paths carrying clean + α · (corrupted − clean)

at their lower ends. The paths are all of the late half, or those through one node. α = 0 is the clean run, α = 1 the
usual patch. Half of the effect is reached at the smallest α with m(α) − m(0) = (m(1) − m(0)) / 2.

    >>> scale, own = Scale.of(engine, metric), {"m2@END": Node.mlp(2, END)}
    >>> whole, of_m2 = strengths(engine, scale, late_half(circuit, END), own, "late half")
    >>> of_m2.subject, of_m2.alphas[:3], len(of_m2.means)
    ('m2@END', (0.0, 0.125, 0.25), 13)
    >>> print(*whole.verdicts())
    late half: does a stronger patch do more? ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from path_patching.bootstrap import Estimate
from path_patching.circuits.validation.measuring import Scale, is_nothing, measured
from path_patching.circuits.validation.verdicts import Verdict, judge
from path_patching.engine import Engine, Request
from path_patching.errors import UserError
from path_patching.paths import Node, PathSet

ALPHAS = tuple(step / 8 for step in range(13))  # 0 to 1.5
FLAT = 1e-3  # of the effect of α = 1: a step back by less is rounding of float32


@dataclass(frozen=True)
class Strengths:
    """The metric's mean at each strength of one patch."""

    subject: str
    alphas: tuple[float, ...]
    means: tuple[Estimate, ...]
    effect: Estimate
    """m(1) − m(0), as a share of the span."""

    @property
    def too_weak(self) -> bool:
        """Whether the effect of α = 1 may be zero by its interval."""
        return is_nothing(self.effect)

    def monotone(self) -> float:
        """The share of the steps from α = 0 to 1 that go in the direction of their sum, or stay."""
        values = [each.value for alpha, each in zip(self.alphas, self.means, strict=True) if alpha <= 1]
        total = values[-1] - values[0]
        with_it = [(after - before) * total >= -FLAT * total**2 for before, after in pairwise(values)]
        return sum(with_it) / len(with_it)

    def half_at(self) -> float | None:
        """The smallest α with half of the effect of α = 1, on a line between two strengths; None without an effect."""
        values = [each.value for each in self.means]
        total = self.means[self.alphas.index(1.0)].value - values[0]
        if total == 0:
            return None
        shares = [(value - values[0]) / total for value in values]
        after = next(place for place, share in enumerate(shares) if share >= 0.5)
        before = after - 1
        along = (0.5 - shares[before]) / (shares[after] - shares[before])
        return self.alphas[before] + along * (self.alphas[after] - self.alphas[before])

    def verdicts(self) -> tuple[Verdict, ...]:
        """On `monotone`; not judged without an effect."""
        half = self.half_at()
        reached = "no effect" if half is None else f"half of the effect at α = {half:.2f}"
        none = "the effect of α = 1 may be zero" if self.too_weak else ""
        return (judge("monotone", self.monotone(), self.subject, reached, self.effect.doubt or none),)


def strengths(
    engine: Engine,
    scale: Scale,
    paths: PathSet,
    members: Mapping[str, Node],
    subject: str,
    alphas: Sequence[float] = ALPHAS,
) -> tuple[Strengths, ...]:
    """A circuit's paths patched at each strength, `subject` in verdicts; then its paths through each of its `members`.

    Raises `UserError` unless strengths rise from 0, with 1 among them, and for a node on no path.
    """
    if list(alphas) != sorted({*alphas, 0.0, 1.0}) or alphas[0] != 0:
        raise UserError(f"strengths have to rise from 0 and include 1; these are {', '.join(map(str, alphas))}")
    parts = {subject: paths}
    for name, node in members.items():
        if (passing := paths.passing([node])) is None:
            raise UserError(f"no path passes {name}; give nodes of the circuit")
        parts[name] = passing
    requests = [Request.patch(part, strength=alpha) for part in parts.values() for alpha in alphas]
    values = measured(engine, requests, [scale.metric])[0].unflatten(0, (len(parts), len(alphas)))  # (parts, alphas, N)
    means = scale.means(values.flatten(0, 1))
    effects = scale.of_spans(values[:, list(alphas).index(1.0)] - values[:, 0])
    return tuple(
        Strengths(name, tuple(alphas), means[place * len(alphas) : (place + 1) * len(alphas)], effect)
        for place, (name, effect) in enumerate(zip(parts, effects, strict=True))
    )
