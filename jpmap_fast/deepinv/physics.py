"""An operator of this package as a physics of DeepInverse."""

from __future__ import annotations

from typing import Any

import torch
from deepinv.physics import GaussianNoise, LinearPhysics
from torch import Tensor

from jpmap_fast._validate import per_image
from jpmap_fast.operators.base import Operator
from jpmap_fast.operators.bound import BoundOperator


class OperatorPhysics(LinearPhysics):
    """A linear physics with the A of an operator and Gaussian noise.

    What deepinv solves by conjugate gradients, the proximal map of the data term, is the
    operator's exact x-update here.

    Args:
        operator: bound to the shape of the images (``operator.bind``).
        sigma: standard deviation of the noise, > 0, for values in [0, 1]: a number or one an
            image [B].

    Raises:
        ValueError, TypeError: sigma is not finite and positive, or no number; operator is none.

    Example:
        >>> import torch, jpmap_fast as jf
        >>> from jpmap_fast.deepinv.physics import OperatorPhysics
        >>> operator = jf.Denoising().bind((1, 2, 2))
        >>> physics = OperatorPhysics(operator, sigma=0.1)
        >>> z, y = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
        >>> float(physics.prox_l2(z, y, gamma=1.0)[0, 0, 0, 0])
        0.5
    """

    def __init__(self, operator: Operator | BoundOperator, sigma: Any) -> None:
        if not isinstance(operator, (Operator, BoundOperator)):
            raise TypeError(f"operator: expected one of jpmap_fast, got {type(operator).__name__}")
        like = torch.zeros((), device=operator.device)
        count = len(sigma) if getattr(sigma, "ndim", isinstance(sigma, (list, tuple))) else 1
        level = per_image("sigma", sigma, count, like)
        super().__init__(noise_model=GaussianNoise(level if count > 1 else float(level)))
        self.operator = operator
        super().to(operator.device)

    def A(self, x: Tensor, **_: Any) -> Tensor:
        """A x [B, ...] of images [B, C, H, W]."""
        return self.operator.A(x)

    def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:
        """A^T y [B, C, H, W]."""
        return self.operator.A_adjoint(y)

    def prox_l2(self, z: Tensor | float | None, y: Tensor, gamma: Any, **_: Any) -> Tensor:
        r"""The proximal map of gamma/2 ||A x - y||^2,

            argmin_x gamma/2 ||A x - y||^2 + 1/2 ||x - z||^2.

        Args:
            z: [B, C, H, W], or one number for all pixels; None for 0.
            y: measurements [B, ...].
            gamma: > 0, a number or one an image [B], [B, 1, 1, 1].

        Raises:
            ValueError: gamma is not finite and positive, or of another number of images.
        """
        if not isinstance(z, Tensor):
            z = torch.full_like(self.operator.A_adjoint(y), 0.0 if z is None else float(z))
        factor = per_image("gamma", gamma, len(y), y)
        one = torch.ones_like(factor)
        # The x-update has 1 / (2 sigma^2) and beta / 2 in place of gamma / 2 and 1 / 2.
        x, _objective, _gap = self.operator.x_update(
            z.contiguous(), y, y.new_zeros(len(y), 1), 1 / factor, one
        )
        return x

    def to(self, *args: Any, **kwargs: Any) -> OperatorPhysics:
        """This physics with the operator's tensors elsewhere as well, in place as in torch."""
        super().to(*args, **kwargs)
        if "operator" in vars(self):  # deepinv's constructor calls it before there is one
            device, dtype, _, _ = torch._C._nn._parse_to(*args, **kwargs)
            self.operator = self.operator.to(device, dtype)
        return self
