"""A bound operator under another model of p(x|z) than white noise."""

from __future__ import annotations

from torch import Tensor

from jpmap_fast.operators.bound import BoundOperator
from jpmap_fast.operators.coloured import ColouredOperator
from jpmap_fast.operators.grey_value import GreyValueOperator
from jpmap_fast.residuals import GreyValueVariance, Residual


def with_residual(
    operator: BoundOperator, residual: Residual | None, gamma: float, like: Tensor
) -> BoundOperator:
    """The operator where x - G(z) is of ``residual``; itself for None, the white model.

    Args:
        operator: bound to images.
        residual: the model.
        gamma: of the prior; beta = 1 / gamma^2 then has the model as it is, and another beta one
            of gamma^2 beta times less variance.
        like: of the type and device of the images.

    Raises:
        ValueError: a model for images of another size, or one that the operator cannot have.
    """
    if residual is None:
        return operator
    if isinstance(residual, GreyValueVariance):
        return GreyValueOperator(operator, residual, gamma)
    return ColouredOperator(operator, residual, gamma, like)
