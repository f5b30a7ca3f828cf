"""Directions in which an activation is edited: the principal ones (PCA), random ones, and those that tell YY (LEACE).

An activation is (N, D): N sentences, width D. What is fitted on some sentences can edit the activations of others.
Everything is computed in float64.

    >>> stream = engine.residual(Node.mlp(1, END))  # what an MLP reads, (N, D)
    >>> principal = principal_components(stream)
    >>> without_two = principal.first(2).ablate(stream)  # the first two replaced by their mean
    >>> bool(principal.first(2).coordinates(without_two).abs().max() < 1e-9)
    True
    >>> erase_yy = leace(stream, as_number(sentences.clean[:, YY]))  # an edit of these activations, or of others
    >>> erase_yy(stream).shape
    torch.Size([97, 8])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from concept_erasure import LeaceEraser

from path_patching.errors import UserError
from path_patching.plain_tensors import as_tensor

Edit = Callable[[torch.Tensor], torch.Tensor]  # of an activation (n, D), to (n, D) float64

NEGLIGIBLE = 1e-8  # share of the variance; fainter directions, and random draws from them, depend on rounding
FAINTEST = 1e-6  # the least correlation with a concept that is erased; the library's own least is 0.01
LABELS = "labels of sentences"


@dataclass(frozen=True, eq=False)
class Subspace:
    """`count` orthonormal directions (count, D) about a mean (D,), and the share of the variance in each (count,)."""

    mean: torch.Tensor
    directions: torch.Tensor
    shares: torch.Tensor

    def __len__(self) -> int:
        return len(self.directions)

    def first(self, count: int) -> Subspace:
        """The subspace of the first `count` directions only."""
        return Subspace(self.mean, self.directions[:count], self.shares[:count])

    def coordinates(self, activation: torch.Tensor) -> torch.Tensor:
        """How far an activation (N, D) lies from the mean along each direction: (N, count)."""
        return (activation.double() - self.mean) @ self.directions.T

    def ablate(self, activation: torch.Tensor) -> torch.Tensor:
        """An activation (N, D) with its part within the subspace replaced by the mean's, (N, D) float64."""
        return activation.double() - self.coordinates(activation) @ self.directions

    def random(self, count: int, generator: torch.Generator) -> Subspace:
        """`count` random directions within this subspace, to compare with its principal ones."""
        weights = torch.randn(len(self), count, generator=generator, dtype=torch.float64)
        mix = torch.linalg.qr(weights).Q.T  # (count, len(self)), orthonormal
        return Subspace(self.mean, mix @ self.directions, mix.square() @ self.shares)


def principal_components(activation: torch.Tensor) -> Subspace:
    """All directions in which an activation (N, D) varies, the most important first.

    PCA leaves their signs open; here the largest entry of each direction is positive. Directions that come from the
    rounding of the activation alone are left out. Raises `UserError` for what is no activation.
    """
    activation = _checked(activation)
    rounding = torch.finfo(activation.dtype).eps
    activation = activation.double()
    mean = activation.mean(0)
    mean = mean + (activation - mean).mean(0)  # the mean's own rounding, which all sentences would share
    unit = (activation - mean).abs().max().item() or 1.0  # in which squares are neither too large nor too small
    _, scales, directions = torch.linalg.svd((activation - mean) / unit, full_matrices=False)
    variances = scales.square()
    from_rounding = rounding**2 * (activation / unit).square().sum() / min(activation.shape)
    varying = variances > torch.maximum(NEGLIGIBLE * variances.sum(), from_rounding)
    directions, variances = directions[varying], variances[varying]
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return Subspace(mean, directions * largest.sign(), variances / variances.sum())


def _checked(activation: torch.Tensor) -> torch.Tensor:
    """An activation; `UserError` for what is not (N, D) of finite floats."""
    activation = as_tensor(activation, "an activation")
    if (
        activation.ndim != 2
        or 0 in activation.shape
        or not activation.is_floating_point()
        or not activation.isfinite().all()
    ):
        given = f"{tuple(activation.shape)} of {activation.dtype}"
        raise UserError(f"an activation is (N, D) of floats, all finite; this one, {given}, is not")
    return activation


def means_by_label(activation: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The mean of an activation (N, D) over the sentences of each label (N,), labels ascending: (labels, D) float64."""
    return torch.stack([activation[labels == label].double().mean(0) for label in labels.unique()])


def as_number(labels: torch.Tensor) -> torch.Tensor:
    """Integer labels (N,) as a concept of one dimension, (N, 1): erasing it takes one direction."""
    return as_tensor(labels, LABELS)[:, None].double()


def as_classes(labels: torch.Tensor) -> torch.Tensor:
    """Integer labels (N,) as a concept with a dimension each, (N, labels): erasing it takes labels − 1 directions."""
    labels = as_tensor(labels, LABELS)
    distinct: torch.Tensor = labels.unique()
    return (labels[:, None] == distinct).double()


def leace(activation: torch.Tensor, concept: torch.Tensor) -> Edit:
    """Erasure of a concept (N, C) from an activation (N, D) by LEACE (Belrose et al. 2023).

    It is the smallest affine edit after which, on the fitted sentences, no linear predictor of the concept does better
    than a constant. Raises `UserError` if all sentences have the same concept: then there is nothing to erase;
    and for what is no activation, or no concept of its sentences.
    """
    activation, concept = _checked(activation), as_tensor(concept, "a concept")
    if concept.ndim != 2 or len(concept) != len(activation) or 0 in concept.shape or not concept.isfinite().all():
        shapes = f"{tuple(concept.shape)} for {len(activation)} sentences"
        raise UserError(f"a concept is (N, C), as as_number or as_classes makes it of labels, finite, not {shapes}")
    concept = concept.double()
    if (concept == concept[0]).all(0).any():
        raise UserError(f"of {len(concept)} sentences all have the same label: nothing can be erased; give two or more")
    standardized = (concept - concept.mean(0)) / concept.std(0)
    eraser = LeaceEraser.fit(activation.double(), standardized, svd_tol=FAINTEST)

    def erase(other: torch.Tensor) -> torch.Tensor:
        erased: torch.Tensor = eraser(other.double())
        return erased

    return erase


def ablations(
    activation: torch.Tensor, labels: torch.Tensor, ranks: Sequence[int], n_controls: int, generator: torch.Generator
) -> dict[int, list[Edit]]:
    """By rank, the ablation of so many principal components of the labels' means, followed by its controls.

    The means are those of an activation (N, D) over the sentences of each label (N,). Ranks larger than the number of
    components are left out. A control ablates as many random directions among those in which the means vary.
    """
    components = principal_components(means_by_label(activation, labels))
    return {
        rank: [components.first(rank).ablate, *(components.random(rank, generator).ablate for _ in range(n_controls))]
        for rank in ranks
        if rank <= len(components)
    }


def erasures(
    activation: torch.Tensor,
    labels: torch.Tensor,
    concept: Callable[[torch.Tensor], torch.Tensor],
    n_controls: int,
    generator: torch.Generator,
) -> list[Edit]:
    """The erasure of labels (N,), taken as `concept`, from an activation (N, D), followed by its controls.

    A control erases shuffled labels, which say nothing about the activation.
    """
    orders = [torch.arange(len(labels)), *(torch.randperm(len(labels), generator=generator) for _ in range(n_controls))]
    return [leace(activation, concept(labels[order])) for order in orders]


def all_differ(labels: torch.Tensor) -> bool:
    """Whether each label of some sentences, (N,), is there once."""
    return len(labels.unique()) == len(labels)


def fitted_edits(
    activation: torch.Tensor, labels: torch.Tensor, ranks: Sequence[int], n_controls: int, generator: torch.Generator
) -> dict[str, list[Edit]]:
    """Every edit by key, fitted to an activation (N, D) and labels (N,): the edit itself, then its controls.

    `pca_top_{rank}` ablate. LEACE erases the labels: `leace_number` as a number, which takes one direction,
    `leace_classes` as classes, which takes up to labels − 1. `by_mean` leaves only the mean, and has no control.
    Classes have none where each label is there once: shuffled, they are the same classes.
    """
    ablated = ablations(activation, labels, ranks, n_controls, generator)
    edits = {f"pca_top_{rank}": each for rank, each in ablated.items()}
    for name, concept in {"number": as_number, "classes": as_classes}.items():
        count = 0 if name == "classes" and all_differ(labels) else n_controls
        edits[f"leace_{name}"] = erasures(activation, labels, concept, count, generator)
    return edits | {"by_mean": [lambda other: activation.double().mean(0).expand_as(other)]}
