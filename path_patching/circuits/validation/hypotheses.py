"""Test 1, sentence by sentence: two hypotheses of Shi et al. (2024) that hold for a complete circuit.

    equivalence    |P(Δ > 0) − ½| < ε,  Δ = s(C) − s(M),  ε = 0.1
                   p = Σ_j Binomial(j; N, ½ + ε)  over all j with |j/N − ½| ≥ |k/N − ½|,  k = #{Δ > 0} + ½ #{Δ = 0}
    independence   s(M∖C) − s(∅) does not depend on s(M) − s(∅)
                   p = (1 + #{HSIC(permuted) ≥ HSIC}) / (1 + R),  HSIC = tr(K H L H) / (N − 1)²

s is the metric of a sentence. K and L are Gaussian kernels of the two differences, as wide as the median distance; H
subtracts the mean. s(∅) is subtracted, since the metric itself depends on the sentence. Less than a hundredth of the
span counts as zero: such a Δ is a tie, and a difference that varies by no more is independent. A small p rejects a
hypothesis; a large p does not prove it.

    >>> equivalence_p(higher=50, n=100) > 0.99, equivalence_p(higher=80, n=100) < 0.001
    (True, True)
    >>> one = torch.linspace(-1, 1, 50).double()
    >>> independence_p(one, one.square()) < 0.01  # no correlation, and yet dependent
    True
"""

from __future__ import annotations

import math

import torch

from path_patching.circuits.validation.measuring import CHANGE, FEWEST_CLUSTERS, Scale
from path_patching.circuits.validation.verdicts import Verdict, judge

EPSILON = 0.1
PERMUTATIONS = 999
MOST = 200  # sentences in a kernel, since time and memory grow with their square


def hypotheses(scale: Scale, alone: torch.Tensor, without: torch.Tensor, subject: str) -> tuple[Verdict, Verdict]:
    """On equivalence and independence, from the metric of the circuit alone and of its complement, (N,)."""
    n, nothing = len(alone), CHANGE * abs(scale.span.mean().item())
    few = f"{n} sentences; give {FEWEST_CLUSTERS} or more" if n < FEWEST_CLUSTERS else ""
    higher, lower = (int((sign * (alone - scale.whole) > nothing).sum()) for sign in (1, -1))
    says = f"higher than the model on {higher}, lower on {lower} of {n} sentences; faithfulness measures by how much"
    left = without - scale.nothing
    p = independence_p(left, scale.span) if left.max() - left.min() > nothing else 1.0
    tells = f"something is left on {int((left.abs() > nothing).sum())} of {n} sentences; complement measures how much"
    return (
        judge("equivalence", equivalence_p((n + higher - lower) / 2, n), subject, says, scale.doubt or few),
        judge("independence", p, subject, tells, scale.doubt or few),
    )


def equivalence_p(higher: float, n: int) -> float:
    """p of equivalence if Δ > 0 on `higher` of n sentences; ties count half."""
    j = torch.arange(n + 1, dtype=torch.float64)
    logs = torch.lgamma(torch.tensor(n + 1.0).double()) - torch.lgamma(j + 1) - torch.lgamma(n - j + 1)
    chances = (logs + j * math.log(0.5 + EPSILON) + (n - j) * math.log(0.5 - EPSILON)).exp()
    return min(1.0, chances[(2 * j - n).abs() >= abs(2 * higher - n)].sum().item())


def independence_p(one: torch.Tensor, other: torch.Tensor) -> float:
    """p of independence of two numbers of each sentence, (N,) each; `MOST` sentences at random are used."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randperm(len(one), generator=generator)[:MOST]
    centred, kernel = _kernel(one[rows]), _kernel(other[rows])
    centred = centred - centred.mean(0) - centred.mean(1, keepdim=True) + centred.mean()
    observed = (centred * kernel).sum() * (1 - 1e-9)  # rounding must not make a circuit fail
    orders = (torch.randperm(len(rows), generator=generator) for _ in range(PERMUTATIONS))
    as_much = sum(((centred * kernel[order][:, order]).sum() >= observed).item() for order in orders)
    return (1 + as_much) / (1 + PERMUTATIONS)


def _kernel(values: torch.Tensor) -> torch.Tensor:
    """The Gaussian kernel of numbers (N,), as wide as the median distance between two that differ: (N, N)."""
    distances = (values[:, None] - values).abs().double()
    return (-(distances / distances[distances > 0].median()).square() / 2).exp()
