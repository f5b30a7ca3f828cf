"""Test 11: do the circuit's nodes add up? Interactions of pairs; what MLPs do directly and by way of others.

    eff(K) = m(M∖K) − m(M),   interaction(a, b) = eff({a, b}) − eff({a}) − eff({b})

M∖K is the model with those paths of the circuit on corrupted data that pass a node of K. An interaction is zero where
effects add up. It goes *against* the sign of the single effects where one node needs the other, as two in a chain do:
either takes all, e and e, and so do both, e − e − e = −e. It goes *with* the sign of what both do together where one
can stand in for the other: neither takes anything, 0 and 0, and both take all, e − 0 − 0 = e.

    >>> scale, pair = Scale.of(engine, metric), {"m2@END": Node.mlp(2, END), "a1.h0@END": Node.head(1, 0, END)}
    >>> found = interactions(engine, scale, late_half(circuit, END), pair)
    >>> found.table.shape  # symmetric, 0 on the diagonal
    torch.Size([2, 2])
    >>> found.pairs["m2@END", "a1.h0@END"]  # with its interval
    Estimate(value=..., low=..., high=..., n=97, ...)
    >>> mlp_shares(engine, scale, circuit, END)["m2"].indirect is None  # of the last MLP
    True
    >>> print(*found.verdicts())
    m2@END and a1.h0@END: do their effects add up? ...
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import torch

from path_patching.bootstrap import Estimate
from path_patching.circuits.circuit import Circuit, in_order, indirect_into_mlp
from path_patching.circuits.validation.measuring import Scale, measured
from path_patching.circuits.validation.verdicts import Verdict, judge
from path_patching.engine import Engine, Request
from path_patching.errors import UserError
from path_patching.paths import Node, PathSet


@dataclass(frozen=True)
class Interactions:
    """Effects of nodes alone, and what pairs of them do beyond that; nodes by name with their place."""

    alone: Mapping[str, Estimate]
    pairs: Mapping[tuple[str, str], Estimate]
    """Each pair once, in the order of `alone`."""

    @property
    def table(self) -> torch.Tensor:
        """The interactions (k, k), symmetric, with 0 on the diagonal."""
        place = {name: index for index, name in enumerate(self.alone)}
        found = torch.zeros(len(place), len(place), dtype=torch.float64)
        for (one, other), estimate in self.pairs.items():
            found[place[one], place[other]] = found[place[other], place[one]] = estimate.value
        return found

    def verdicts(self) -> tuple[Verdict, ...]:
        """On the largest interaction, which is held to no bar; none of fewer than two nodes."""
        if not self.pairs:
            return ()
        pair = max(self.pairs, key=lambda each: abs(self.pairs[each].value))
        single = [self.alone[name].value for name in pair]
        alone = " and ".join(f"{each:.4f}" for each in single)
        less = abs(self.pairs[pair].value + sum(single)) < abs(sum(single))
        says = "less together: one needs the other" if less else "more together: one can stand in for the other"
        return (judge("interactions", self.pairs[pair], " and ".join(pair), f"the largest; alone {alone}; {says}"),)


@dataclass(frozen=True)
class MlpShares:
    """What an MLP's direct edge to the logits is worth, and its paths through later MLPs of the circuit, if any."""

    direct: Estimate
    indirect: Estimate | None


def interactions(engine: Engine, scale: Scale, paths: PathSet, members: Mapping[str, Node]) -> Interactions:
    """The effects of a circuit's members and of their pairs on the metric's mean; `paths` are the circuit's.

    Raises `UserError` for a node on no path.
    """
    groups = [*((name,) for name in members), *combinations(members, 2)]
    requests = []
    for names in groups:
        passing = paths.passing([members[name] for name in names])
        if passing is None:
            raise UserError(f"no path passes {names[0]}; give nodes of the circuit")
        requests.append(Request.patch(passing))
    if not requests:
        raise UserError("no node is given whose effect could be asked for; give those of the circuit")
    changes = measured(engine, requests, [scale.metric])[0] - scale.whole  # (k + pairs, N)
    eff, pairs = dict(zip(groups, changes, strict=True)), [*combinations(members, 2)]
    beyond = [eff[a, b] - eff[a,] - eff[b,] for a, b in pairs]
    found = scale.means(torch.stack([*(eff[name,] for name in members), *beyond]))
    return Interactions(
        alone=dict(zip(members, found[: len(members)], strict=True)),
        pairs=dict(zip(pairs, found[len(members) :], strict=True)),
    )


def mlp_shares(engine: Engine, scale: Scale, circuit: Circuit, end: int) -> dict[str, MlpShares]:
    """What the direct and the indirect effect of each MLP take of the metric's clean mean, as a share of it."""
    logits, requests = PathSet.at(Node.logits(end)), {}
    for mlp in in_order(circuit.mlps):
        requests[mlp, "direct"] = Request.patch(logits.through(Node.named(mlp, end)))
        if (indirect := indirect_into_mlp(circuit, mlp, end)) is not None:
            requests[mlp, "indirect"] = Request.patch(indirect)
    if not requests:
        return {}
    lost = scale.whole - measured(engine, list(requests.values()), [scale.metric])[0]
    shares = {key: scale.share(each, scale.whole) for key, each in zip(requests, lost, strict=True)}
    return {mlp: MlpShares(shares[mlp, "direct"], shares.get((mlp, "indirect"))) for mlp in in_order(circuit.mlps)}
