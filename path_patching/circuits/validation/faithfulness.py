"""Test 1: does the circuit alone do what the model does? (Section 3; normalized as in later work.)

    F(C) = (m(C) − m(∅)) / (m(M) − m(∅)),  beside the paper's ratio m(C) / m(M)
    KL(C) = Σ_a p_M(a) log(p_M(a) / p_C(a))  over the answers and “anything else”, as a share of KL(∅)

C is the circuit alone, all else on corrupted data. Its complement M∖C is the model with only the circuit corrupted.
The paper's ratio takes 0 for nothing, but ∅ does not score 0, so both ends are shown. A mean can hide that the circuit
does too much on some sentences and nothing on others. So two tests ask about each sentence: is its own F within the
bar, and is its likeliest answer the model's? If the metric has a largest value (`Scale.most`), so has F, and the
remark says it. If that is below 1.2, no circuit can fail by doing too much. Log odds have no largest value.

    >>> paths, scale = late_half(circuit, END), Scale.of(engine, metric)
    >>> found = faithfulness(engine, scale, paths, "late half")
    >>> print(f"F(C) = {found.normalized}, F(M∖C) = {found.complement}, m(C) / m(M) = {found.ratio}")
    F(C) = ... [..., ...], F(M∖C) = ... [..., ...], m(C) / m(M) = ... [..., ...]
    >>> spread(found.each).keys()  # quantiles of F(C) over the sentences
    dict_keys([0.05, 0.25, 0.5, 0.75, 0.95])
    >>> apart = divergence(engine, divergence_scale(engine), paths, "late half")
    >>> print(f"KL(C) / KL(∅) = {apart.left}")  # 0 is perfect, 1 is no better than ∅
    KL(C) / KL(∅) = ... [..., ...]
    >>> for verdict in (*found.verdicts(), *apart.verdicts()):
    ...     print(verdict)
    late half: does it alone do what the model does? F: ...
    late half: does it do so on each sentence? ...
    late half: does it give the model's answer? ...
    late half: is the ability gone without it? ...
    late half: does it score higher than the model as often as lower? ...
    late half: are scores without it independent of the model's scores? ...
    late half: does it give the model's probabilities? ...
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from path_patching.bootstrap import Clusters, Estimate
from path_patching.circuits.twins import check_ends
from path_patching.circuits.validation.hypotheses import hypotheses
from path_patching.circuits.validation.measuring import Scale, measured
from path_patching.circuits.validation.verdicts import BARS, Verdict, joined, judge
from path_patching.engine import Engine, Request
from path_patching.numbers import with_unit
from path_patching.paths import PathSet
from path_patching.sweeps import Metric

SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)  # the quantiles of `spread`
LEAST = 1e-12  # a smaller probability counts as this, so that a divergence stays finite


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """The metric of a circuit alone, and of the model without it."""

    subject: str
    normalized: Estimate
    """F(C)."""
    complement: Estimate
    """F(M∖C)."""
    ratio: Estimate
    """m(C) / m(M), as in the paper."""
    each: torch.Tensor
    """F(C) of each sentence, (N,); not finite for a sentence without a span."""
    in_bar: Estimate
    """The share of the sentences with a span whose own F(C) is within the bar."""
    likeliest: Estimate
    """The share of the sentences whose likeliest answer is the model's."""
    scale: Scale
    scores: torch.Tensor
    """The metric of the circuit alone and of its complement, (2, N)."""

    def verdicts(self) -> tuple[Verdict, ...]:
        """On the circuit alone, its mean and each sentence, and on its complement."""
        sides = [BARS["faithfulness"].side(each) for each in self.each[self.each.isfinite()].tolist()]
        outside = f"F is below the bar on {sides.count(-1)}, above it on {sides.count(1)} of {len(sides)} sentences"
        return (
            self.verdict(),
            judge("by_sentence", self.in_bar, self.subject, outside),
            judge("likeliest", self.likeliest, self.subject),
            judge("complement", self.complement, self.subject, _left(self.complement)),
            *hypotheses(self.scale, self.scores[0], self.scores[1], self.subject),
        )

    def verdict(self) -> Verdict:
        """On the mean of the circuit alone."""
        ceiling = "" if self.scale.largest is None else f"F cannot be over {with_unit(self.scale.largest, '%')}"
        return judge("faithfulness", self.normalized, self.subject, joined(_lacking(self.normalized), ceiling))


def faithfulness(engine: Engine, scale: Scale, paths: PathSet, subject: str) -> Faithfulness:
    """Faithfulness of a circuit's paths, `subject` in verdicts, on the metric of a scale.

    Raises `PathSetError` for paths that the model or its sentences do not have, `UserError` for those that end where no
    twin differs.
    """
    check_ends(engine.sentences, paths)
    metrics = [scale.metric, likeliest_of(engine.clean())]
    scores, agrees = measured(engine, [Request.isolate(paths), Request.patch(paths)], metrics)
    alone, without = scores
    each = scale.each(alone)
    has_span = each.isfinite()
    in_bar = has_span & torch.tensor([BARS["faithfulness"].side(value) == 0 for value in each.tolist()])
    return Faithfulness(
        subject,
        normalized=scale.normalized(alone),
        complement=scale.normalized(without),
        ratio=scale.share(alone, scale.whole),
        each=each,
        in_bar=replace(scale.share(in_bar.double(), has_span.double()), doubt=scale.doubt),
        likeliest=replace(scale.mean(agrees[0]), doubt=scale.doubt),
        scale=scale,
        scores=scores,
    )


def likeliest_of(reference: torch.Tensor) -> Metric:
    """The metric that is 1 if the likeliest answer is that of the reference, else 0: (N, A) to (N,)."""
    likeliest = reference.argmax(1)
    return lambda probs: (probs.argmax(1) == likeliest.to(probs.device)).double()


def _lacking(normalized: Estimate) -> str:
    """What a circuit may lack if F is outside the bar."""
    side = BARS["faithfulness"].side(normalized.value)
    return {-1: "it lacks something that the model uses", 1: "it lacks something that works against it"}.get(side, "")


def _left(complement: Estimate) -> str:
    """What it means if F of the complement is outside the bar."""
    side = BARS["complement"].side(complement.value)
    words = {-1: "what is outside the circuit does the opposite", 1: "what is outside the circuit does some of it, too"}
    return words.get(side, "")


def spread(each: torch.Tensor) -> dict[float, float]:
    """The quantiles of F over the sentences (N,), by share; sentences without a span are left out."""
    finite = each[each.isfinite()]
    if not len(finite):
        return dict.fromkeys(SHARES, float("nan"))
    return dict(zip(SHARES, finite.quantile(finite.new_tensor(SHARES)).tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class Divergence:
    """How far the probabilities of the answers are from the model's, in nats."""

    subject: str
    alone: Estimate
    """KL(C)."""
    nothing: Estimate
    """KL(∅)."""
    left: Estimate
    """KL(C) / KL(∅)."""

    def verdicts(self) -> tuple[Verdict, ...]:
        """On KL(C) / KL(∅)."""
        off = BARS["divergence"].side(self.left.value) == 1
        remark = "its probabilities are not the model's, whatever F is" if off else ""
        return (judge("divergence", self.left, self.subject, remark),)


def divergence(engine: Engine, scale: Scale, paths: PathSet, subject: str) -> Divergence:
    """The divergences of a circuit's paths; `scale` is that of `divergence_scale`.

    Raises `PathSetError` for paths that the model or its sentences do not have, `UserError` for those that end where no
    twin differs.
    """
    check_ends(engine.sentences, paths)
    alone = measured(engine, [Request.isolate(paths)], [scale.metric])[0, 0]
    left = replace(scale.share(alone, scale.nothing), doubt=scale.doubt)
    return Divergence(subject, scale.mean(alone), scale.mean(scale.nothing), left)


def divergence_scale(engine: Engine, clusters: Clusters = (), kinds: tuple[str, ...] = ()) -> Scale:
    """The scale of the divergence from the model's own probabilities: 0 for the whole model."""
    return Scale.of(engine, divergence_from(engine.clean()), clusters, kinds)


def divergence_from(reference: torch.Tensor) -> Metric:
    """The metric KL(reference ‖ ·) in nats over A answers and “anything else”: (N, A) to (N,).

    A probability under `LEAST` counts as `LEAST`.
    """
    expected = _with_anything_else(reference)

    def divergences(probs: torch.Tensor) -> torch.Tensor:
        logs = expected.clamp(min=LEAST).log() - _with_anything_else(probs).clamp(min=LEAST).log()
        return (expected * logs).sum(1)

    return divergences


def _with_anything_else(probs: torch.Tensor) -> torch.Tensor:
    """Probabilities of answers (N, A), then that of all other tokens: (N, A + 1)."""
    anything_else = (1 - probs.sum(1, keepdim=True)).clamp(min=0)
    return torch.cat([probs, anything_else], 1).double()
