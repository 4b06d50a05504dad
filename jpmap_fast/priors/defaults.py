"""What holds for a prior that says nothing of its own: torch's derivatives, the mean of encode."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from jpmap_fast.priors.derivatives import differentiated
from jpmap_fast.priors.function_decoder import FunctionDecoder

if TYPE_CHECKING:
    from jpmap_fast.priors.base import Prior


def code_shape_of(prior: Prior) -> tuple[int, ...]:
    """The shape of one code: ``prior.code_shape``, or (latent_dim,) for a prior without.

    Raises:
        ValueError: it does not have latent_dim entries.
    """
    k = prior.latent_dim
    shape = tuple(getattr(prior, "code_shape", None) or (k,))
    if len(shape) > 1 or shape[0] != k:
        if not all(isinstance(n, int) and n > 0 for n in shape) or math.prod(shape) != k:
            raise ValueError(
                f"prior: expected a code_shape of latent_dim = {k} entries, got {shape}"
            )
    return shape


def low_precision_of(prior: Prior) -> bool:
    """``prior.low_precision``: whether Jacobians on a GPU may be bfloat16; True without."""
    return bool(getattr(prior, "low_precision", True))


def default_decoder(prior: Prior, like: Tensor) -> FunctionDecoder:
    """``prior.decode`` with the derivatives that torch has of it.

    Args:
        prior: bound to an image shape.
        like: of the type and device of the codes.

    Raises:
        ValueError: ``decode`` cuts the gradient, see ``derivatives.differentiated``.
    """
    return differentiated(
        _of_rows(prior), prior.latent_dim, _size(prior), low_precision_of(prior), like
    )


def undifferentiated(prior: Prior) -> FunctionDecoder:
    """The same without a look at its derivatives, for who needs none."""
    return FunctionDecoder(_of_rows(prior), prior.latent_dim, _size(prior))


def default_encoder(prior: Prior) -> Callable[[Tensor], Tensor]:
    """The mean of ``prior.encode``."""
    return lambda x: prior.encode(x)[0]


def _size(prior: Prior) -> int:
    assert prior.image_shape is not None
    return math.prod(prior.image_shape)


def _of_rows(prior: Prior) -> Callable[[Tensor], Tensor]:
    """``prior.decode`` as a function of codes [B, k], whatever shape it takes them in."""
    shape = code_shape_of(prior)
    if len(shape) == 1:
        return prior.decode
    return lambda z: prior.decode(z.unflatten(1, shape))
