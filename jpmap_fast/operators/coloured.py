"""A bound operator under a covariance of x given z that is not a multiple of I."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from jpmap_fast.operators.bound import BoundOperator
from jpmap_fast.operators.coloured_systems import system_of
from jpmap_fast.operators.data_term import DataTerm, LinearSystem
from jpmap_fast.operators.over_white import OverWhite
from jpmap_fast.residuals import Covariance, ResidualCovariance


class ColouredOperator(OverWhite):
    r"""An operator for p(x|z) = N(G, K / beta), K = diag(d) + U U^T, in place of N(G, I / beta).

    J1 has the coupling term beta/2 (x - G)^T K^{-1} (x - G), and

        x = G + K A^T s / beta,      s = (sigma^2 I + A K A^T / beta)^{-1} (y - A G).

    Args:
        white: the bound operator.
        residual: of gamma^2 K = C; ``gamma`` is that of the prior, so that beta = 1 / gamma^2 has
            the covariance C.
        gamma: of the prior.
        like: of the type and device of the images.

    Raises:
        ValueError: images of another number of pixels.
    """

    def __init__(
        self,
        white: BoundOperator,
        residual: ResidualCovariance,
        gamma: float,
        like: Tensor,
    ) -> None:
        super().__init__(white, residual, gamma)
        self.residual, self._like = residual, like[:0]
        self.covariance = residual.over(gamma, white.image_shape, like)
        self._system = system_of(white, self.covariance)

    @property
    def stays_on_device(self) -> bool:
        return self._system.stays_on_device

    def _x_update(
        self, decoded: Tensor, y: Tensor, z: Tensor, beta: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        flat = decoded.flatten(1)
        moved, squares = self._system.innovation(flat, y, beta, sigma)
        x = flat + moved
        codes = z.double().square().sum(dim=1)
        gap = moved.double().square().sum(dim=1)
        objective = (0.5 * (squares + codes)).to(x.dtype)
        return x.reshape(decoded.shape), objective, gap.to(x.dtype)

    def evaluate(
        self, x: Tensor, decoded: Tensor, y: Tensor, z: Tensor, beta: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor]:
        apart = (x - decoded).flatten(1)
        left = (y - self.operator.A(x)).flatten(1).double().square().sum(dim=1)
        coupling = (apart.double() * self.covariance.solve(apart)).sum(dim=1)
        codes = z.double().square().sum(dim=1)
        total = 0.5 * (left / sigma.double().square() + beta.double() * coupling + codes)
        return total.to(x.dtype), apart.double().square().sum(dim=1).to(x.dtype)

    def coupling_term(self, beta: Tensor) -> LinearSystem:
        return _Coupling(self.covariance, beta)

    def _data_term(self) -> DataTerm:
        return self._system.data_term()

    def variance_x(self, decoded: Tensor, beta: Tensor, sigma: Tensor) -> Tensor | None:
        return self._system.variance(beta, sigma)

    def log_determinant(self, beta: Tensor, sigma: Tensor) -> Tensor | None:
        return self._system.log_determinant(beta, sigma)

    def _deviation(self, decoded: Tensor, beta: Tensor, normal: Tensor) -> Tensor:
        drawn = self.covariance.root(normal.flatten(1))
        return (beta.rsqrt()[:, None] * drawn).reshape(decoded.shape)

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> BoundOperator:
        like = self._like.to(device=device, dtype=dtype)
        return ColouredOperator(self.white.to(device, dtype), self.residual, self._gamma, like)

    def _of(self, white: BoundOperator) -> ColouredOperator:
        return ColouredOperator(white, self.residual, self._gamma, self._like)


class _Coupling:
    """A ``LinearSystem`` for the coupling term at a given x: A = I, W = beta K^{-1}."""

    def __init__(self, covariance: Covariance, beta: Tensor) -> None:
        self._covariance, self._beta = covariance, beta

    def measure(self, x: Tensor) -> Tensor:
        return x

    def measure_adjoint(self, y: Tensor) -> Tensor:
        return y

    def solve(
        self, rhs: Tensor, start: Tensor | None, rough: bool = False
    ) -> tuple[Tensor, Tensor]:
        return self._beta[:, None, None] * self._covariance.solve(rhs), torch.zeros_like(rhs)

    def select(self, index: Tensor) -> _Coupling:
        return _Coupling(self._covariance, self._beta[index])
