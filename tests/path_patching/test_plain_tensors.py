"""Numbers are a tensor however they are handed over; anything else is one line."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from path_patching.bootstrap import mean
from path_patching.errors import UserError
from path_patching.plain_tensors import as_tensor
from path_patching.subspaces import as_classes, as_number, leace, principal_components

ONES = torch.ones(3)


@pytest.mark.parametrize("given", [[1.0, 2.0], (1, 2), np.array([1.0, 2.0]), torch.tensor([1.0, 2.0]), [True, False]])
def test_numbers_are_a_tensor(given):
    assert as_tensor(given, "it").tolist() == list(given)


@pytest.mark.parametrize(
    "given", ["12", None, [[1.0], [1.0, 2.0]], [1j], ONES.to_sparse(), ONES.to("meta"), {"a": 1.0}, ["1.0"]]
)
@pytest.mark.parametrize(
    "ask", [mean, as_number, as_classes, principal_components, lambda given: leace(torch.eye(3), given)]
)
def test_anything_else_is_one_line(ask, given):
    with pytest.raises(UserError, match=r"^[^\n]+ has to be a tensor of numbers, not "):
        ask(given)


def test_an_activation_without_width_is_none():
    with pytest.raises(UserError, match=r"an activation is \(N, D\) of floats"):
        principal_components(torch.ones(3, 0))
