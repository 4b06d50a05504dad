"""What sampling asks of data terms: determinants and explained variance, against dense matrices."""

from __future__ import annotations

import pytest
import torch
from operator_kinds import BATCH, KINDS, PIXELS, SHAPE, bound
from torch import Tensor

from jpmap_fast.operators.data_term import Whitening

BETA = torch.tensor([4.0, 25.0, 100.0])
SIGMA = torch.tensor([0.05, 0.2, 0.5])


def dense(name: str) -> Tensor:
    """A of every image as a matrix [BATCH, m, PIXELS], float64."""
    operator = bound(name)
    images = torch.eye(PIXELS).reshape(PIXELS, *SHAPE)
    found = []
    for image in range(BATCH):
        one = operator.select(torch.full((PIXELS,), image))
        found.append(one.A(images).flatten(1).T.double())
    return torch.stack(found)


@pytest.mark.parametrize("name", KINDS)
def test_determinant_and_explained_variance_are_those_of_the_matrix(name):
    operator = bound(name)
    term = operator.data_term()
    if not isinstance(term, Whitening):
        pytest.skip("known by its action alone")
    matrix = dense(name)
    seen = torch.ones(BATCH, matrix.shape[1], dtype=torch.bool)
    if operator.seen is not None:
        shape = (BATCH, *operator.measurement_shape)
        seen = operator.seen.expand(shape).flatten(1)
    variance, beta = SIGMA.double().square(), BETA.double()
    whole = matrix @ matrix.mT / beta[:, None, None]
    whole = whole + variance[:, None, None] * torch.eye(matrix.shape[1])
    known = torch.stack([torch.logdet(w[s][:, s]) for w, s in zip(whole, seen, strict=True)])
    found = term.log_determinant(BETA, SIGMA, matrix.shape[1])
    # float32 eigenvalues: relative errors of 1e-5 in each of 60 logarithms at most.
    assert bool(((found - known).abs() < 60 * 1e-5 * (1 + known.abs() / 60)).all())
    share = term.explained(BETA, SIGMA, PIXELS)
    if name == "super-resolution-kernel":  # an A of each image that is no matrix
        assert share is None
        return
    assert share is not None
    exact = torch.linalg.solve(whole * beta[:, None, None], matrix)
    assert bool(((share - (matrix * exact).sum(dim=1)).abs() < 1e-4).all())
