from __future__ import annotations

import numpy as np
import pytest
import torch

from path_patching.errors import UserError
from path_patching.subspaces import (
    ablations,
    as_classes,
    as_number,
    erasures,
    fitted_edits,
    leace,
    means_by_label,
    principal_components,
)


@pytest.fixture
def activation():
    """400 activations of width 12 that vary in 7 directions by different amounts, far from the origin."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(7, 12, generator=generator) * torch.arange(7, 0, -1)[:, None]
    return 5 + torch.randn(400, 7, generator=generator) @ mix


@pytest.fixture
def years():
    return torch.arange(400) % 97 + 2


@pytest.fixture
def dated(activation, years):
    """Activations from which YY can be read linearly, beside other things."""
    generator = torch.Generator().manual_seed(1)
    directions = torch.randn(2, 12, generator=generator)
    u = (years / 50 - 1)[:, None]
    return 0.1 * activation + u * directions[0] + u.square() * directions[1]


def explained(activation: torch.Tensor, concept: torch.Tensor) -> float:
    """Share of a concept's variance (N,) that the best linear predictor explains, by least squares in NumPy."""
    inputs = np.column_stack([activation.double().numpy(), np.ones(len(activation))])
    target = concept.double().numpy()
    fitted = inputs @ np.linalg.lstsq(inputs, target, rcond=None)[0]
    return 1 - ((target - fitted) ** 2).sum() / ((target - target.mean()) ** 2).sum()


def test_principal_components_are_the_eigenvectors_of_the_covariance(activation):
    components = principal_components(activation)
    values, vectors = np.linalg.eigh(np.cov(activation.double().numpy().T))
    assert len(components) == 7, "rounding is not a direction"
    np.testing.assert_allclose(components.shares, values[::-1][:7] / values.sum(), atol=1e-9)
    overlap = components.directions.numpy() @ vectors[:, ::-1][:, :7]
    np.testing.assert_allclose(np.abs(overlap), np.eye(7), atol=1e-5)
    assert (components.directions.gather(1, components.directions.abs().argmax(1, keepdim=True)) > 0).all()


def test_coordinates_are_of_variance_as_the_shares_say(activation):
    components = principal_components(activation)
    variances = components.coordinates(activation).var(0)
    torch.testing.assert_close(variances / variances.sum(), components.shares)


@pytest.mark.parametrize("count", [1, 3])
def test_ablation_takes_the_top_components_and_nothing_else(activation, count):
    components = principal_components(activation)
    ablated = components.first(count).ablate(activation)
    before, after = components.coordinates(activation), components.coordinates(ablated)
    torch.testing.assert_close(after[:, :count], torch.zeros(400, count, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(after[:, count:], before[:, count:])
    torch.testing.assert_close(ablated.mean(0), activation.double().mean(0))
    torch.testing.assert_close(components.first(count).ablate(ablated), ablated)


def test_ablation_of_everything_is_the_mean(activation):
    components = principal_components(activation)
    mean = activation.double().mean(0).expand(400, -1)
    torch.testing.assert_close(components.ablate(activation), mean, atol=1e-4, rtol=0)


def test_what_does_not_vary_has_no_components_and_stays():
    constant = torch.full((5, 3), 0.1)
    components = principal_components(constant)
    assert len(components) == 0
    torch.testing.assert_close(components.ablate(constant), constant.double())


@pytest.mark.parametrize("offset", [1e2, 1e4, 1e5])
def test_how_far_from_the_origin_an_activation_lies_changes_no_component(offset):
    """In float32, whose numbers of 1e5 are 0.008 apart: seven directions vary, and rounding in all."""
    varied = torch.randn(400, 7, generator=torch.Generator().manual_seed(0))
    near, far = principal_components(varied), principal_components(varied + offset)
    assert len(far) == len(near) == 7
    torch.testing.assert_close(far.shares, near.shares, atol=1e-3, rtol=0)
    torch.testing.assert_close(far.mean, near.mean + offset, atol=1e-2, rtol=0)


@pytest.mark.parametrize("offset", [1e4, 1e5])
def test_rounding_of_numbers_far_from_the_origin_is_no_direction(activation, offset):
    components = principal_components(activation + offset)
    assert len(components) == 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(5, 3), (400, 12), (1, 4), (97, 1)])
def test_equal_activations_have_no_components_whatever_their_numbers(dtype, shape):
    for number in (0.1, 1e4 + 0.1, -3e-5, 0.0):
        assert len(principal_components(torch.full(shape, number, dtype=dtype))) == 0


def test_random_directions_are_orthonormal_within_what_varies_and_drawn_from_the_generator(activation):
    components = principal_components(activation)
    drawn = [components.random(3, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    directions = drawn[0].directions
    torch.testing.assert_close(directions @ directions.T, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(directions @ components.directions.T @ components.directions, directions)
    assert torch.equal(directions, drawn[1].directions)
    assert not torch.allclose(directions, drawn[2].directions, atol=0.1)
    ablated = drawn[0].ablate(activation)
    lost = 1 - ablated.var(0).sum() / activation.double().var(0).sum()
    torch.testing.assert_close(lost, drawn[0].shares.sum())


def test_means_are_of_the_sentences_of_a_label():
    activation = torch.tensor([[1.0, 0.0], [5.0, 4.0], [3.0, 2.0]])
    means = means_by_label(activation, torch.tensor([7, 2, 7]))
    assert means.tolist() == [[5.0, 4.0], [2.0, 1.0]]


X = torch.arange(12.0).reshape(4, 3).sin()


@pytest.mark.parametrize("wrong", [X[0], X.long(), X / 0, X[None]])
def test_what_is_no_activation_is_one_line(wrong):
    for ask in (principal_components, lambda activation: leace(activation, as_number(torch.arange(4)))):
        with pytest.raises(UserError, match=r"an activation is \(N, D\) of floats, all finite"):
            ask(wrong)


@pytest.mark.parametrize("concept", [torch.arange(4), as_number(torch.arange(3)), torch.full((4, 1), torch.nan)])
def test_what_is_no_concept_of_the_sentences_is_one_line(concept):
    with pytest.raises(UserError, match=r"a concept is \(N, C\), .* for 4 sentences"):
        leace(X, concept)


@pytest.mark.parametrize("size", [1e160, 1e-200])
def test_components_do_not_depend_on_how_large_an_activation_is(size):
    of_one, of_size = principal_components(X.double()), principal_components(size * X.double())
    torch.testing.assert_close(of_size.directions, of_one.directions)
    torch.testing.assert_close(of_size.shares, of_one.shares)


def test_leace_of_no_sentence_is_one_line():
    with pytest.raises(UserError, match=r"an activation is \(N, D\) of floats"):
        leace(X[:0], as_number(torch.arange(0)))


def test_leace_leaves_no_linear_trace_of_a_number(dated, years):
    assert explained(dated, years) > 0.99
    erased = leace(dated, as_number(years))(dated.double())
    assert abs(explained(erased, years)) < 1e-9
    assert explained(erased, (years - 50).square()) > 0.5, "what is not linear in YY stays"
    torch.testing.assert_close(erased.mean(0), dated.double().mean(0))
    changed = torch.linalg.matrix_rank(erased - dated.double(), rtol=1e-6)
    assert changed == 1
    torch.testing.assert_close(leace(dated, years[:, None])(dated), erased)  # whole numbers are numbers too


@pytest.mark.parametrize("concept", [as_number, as_classes])
@pytest.mark.parametrize("n", [1, 400])
def test_a_label_that_all_sentences_share_cannot_be_erased(dated, concept, n):
    """Its deviation is 0, and dividing by that gave NaN, or an error within the library."""
    with pytest.raises(UserError, match=f"^of {n} sentences all have the same label: nothing can be erased"):
        leace(dated[:n], concept(torch.full((n,), 7)))


def test_leace_of_classes_makes_their_means_equal(dated, years):
    decades = years // 10
    assert explained(dated, decades == 3) > 0.05
    erased = leace(dated, as_classes(decades))(dated.double())
    means = means_by_label(erased, decades)
    torch.testing.assert_close(means, means[:1].expand_as(means), atol=1e-6, rtol=0)
    assert abs(explained(erased, decades == 3)) < 1e-9


def test_leace_erases_from_sentences_that_it_was_not_fitted_on(dated, years):
    half = torch.arange(400) % 2 == 0
    erased = leace(dated[half], as_number(years[half]))(dated[~half].double())
    covariance = torch.cov(torch.cat([erased, years[~half, None].double()], 1).T)[-1, :-1]
    before = torch.cov(torch.cat([dated[~half].double(), years[~half, None].double()], 1).T)[-1, :-1]
    assert covariance.norm() < 0.25 * before.norm()


def test_leace_of_shuffled_years_leaves_the_years(dated, years):
    shuffled = years[torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    erased = leace(dated, as_number(shuffled))(dated.double())
    assert explained(erased, years) > 0.9
    assert abs(explained(erased, shuffled)) < 1e-9


def test_leace_erases_from_fewer_sentences_than_dimensions(years):
    wide = torch.randn(40, 100, generator=torch.Generator().manual_seed(0))
    wide[:, :10] += (years[:40] / 10)[:, None]
    erased = leace(wide, as_number(years[:40]))(wide.double())
    centred = years[:40].double() - years[:40].double().mean()
    assert (centred @ erased).abs().max() < 1e-8 * (centred @ wide.double()).abs().max()


def test_ablations_come_with_random_ones_of_their_rank(dated, years):
    generator = torch.Generator().manual_seed(0)
    edits = ablations(dated, years, (1, 4, 9, 10), 3, generator)
    assert list(edits) == [1, 4, 9], "the means vary in 9 directions"
    components = principal_components(means_by_label(dated, years))
    for rank, (own, *controls) in edits.items():
        torch.testing.assert_close(own(dated), components.first(rank).ablate(dated))
        assert len(controls) == 3
        moved = [control(dated) - dated for control in controls]
        assert {int(torch.linalg.matrix_rank(each, rtol=1e-6)) for each in moved} == {rank}
    lost = [(edit(dated) - dated).square().sum() for edit in edits[1]]
    assert lost[0] > max(lost[1:]), "the first component varies most"


@pytest.mark.parametrize(("labels", "controls"), [([1, 2, 3, 4, 5, 6], 0), ([1, 2, 3, 4, 5, 5], 2)])
def test_classes_of_one_sentence_each_have_no_control_for_shuffled_they_are_the_same(labels, controls):
    activation = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    edits = fitted_edits(activation, torch.tensor(labels), (1,), 2, torch.Generator().manual_seed(0))
    assert {name: len(each) - 1 for name, each in edits.items()} == {
        "pca_top_1": 2, "leace_number": 2, "leace_classes": controls, "by_mean": 0,
    }  # fmt: skip


def test_erasures_come_with_those_of_shuffled_labels(dated, years):
    own, *controls = erasures(dated, years, as_number, 3, torch.Generator().manual_seed(0))
    assert abs(explained(own(dated), years)) < 1e-9
    assert [explained(control(dated), years) > 0.5 for control in controls] == [True] * 3
    assert not torch.equal(controls[0](dated), controls[1](dated))
