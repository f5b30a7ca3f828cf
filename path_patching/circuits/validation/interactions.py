"""Test 11: do the effects of the circuit's nodes add up? Pairs of nodes; direct and indirect effects of MLPs.

    eff(K) = m(M∖K) − m(M),   interaction(a, b) = eff({a, b}) − eff({a}) − eff({b})

M∖K is the model with the circuit's paths through K on corrupted data. The interaction is zero if effects add up. Its
sign is *against* that of the single effects if one node needs the other, as two in a chain do: each alone takes e, and
both take e, so that it is e − e − e = −e. Its sign is *with* that of the joint effect if one node can stand in for the
other: each alone takes 0, and both take e, so that it is e − 0 − 0 = e.

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
from path_patching.numbers import with_unit
from path_patching.paths import Node, PathSet


@dataclass(frozen=True)
class Interactions:
    """The effects of single nodes, and the interactions of pairs; nodes by name with their place."""

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

    def verdicts(self, unit: str = "") -> tuple[Verdict, ...]:
        """On the largest interaction, without a bar; none with fewer than two nodes. `unit` is the metric's."""
        if not self.pairs:
            return ()
        pair = max(self.pairs, key=lambda each: abs(self.pairs[each].value))
        single = [self.alone[name].value for name in pair]
        alone = " and ".join(with_unit(each, unit) for each in single)
        less = abs(self.pairs[pair].value + sum(single)) < abs(sum(single))
        says = "less together: one needs the other" if less else "more together: one can stand in for the other"
        return (
            judge(
                "interactions",
                self.pairs[pair],
                " and ".join(pair),
                f"the largest interaction; each alone, with all its paths in the circuit: {alone}; {says}",
                unit=unit,
            ),
        )


@dataclass(frozen=True)
class MlpShares:
    """The effect of an MLP's direct edge to the logits, and of its paths through later MLPs of the circuit, if any."""

    direct: Estimate
    indirect: Estimate | None


def interactions(engine: Engine, scale: Scale, paths: PathSet, members: Mapping[str, Node]) -> Interactions:
    """The effects of members of a circuit, and of their pairs, on the metric's mean; `paths` are the circuit's.

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
        raise UserError("no node is given; give nodes of the circuit")
    changes = measured(engine, requests, [scale.metric])[0] - scale.whole  # (k + pairs, N)
    eff, pairs = dict(zip(groups, changes, strict=True)), [*combinations(members, 2)]
    beyond = [eff[a, b] - eff[a,] - eff[b,] for a, b in pairs]
    found = scale.means(torch.stack([*(eff[name,] for name in members), *beyond]))
    return Interactions(
        alone=dict(zip(members, found[: len(members)], strict=True)),
        pairs=dict(zip(pairs, found[len(members) :], strict=True)),
    )


def mlp_shares(engine: Engine, scale: Scale, circuit: Circuit, end: int) -> dict[str, MlpShares]:
    """The direct and the indirect effect of each MLP, as shares of the metric's clean mean."""
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
