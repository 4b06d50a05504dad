"""Solves with the covariance of measurements by a diagonal A: a diagonal and low rank."""

from __future__ import annotations

import torch
from torch import Tensor

from jpmap_fast.kernels.products import solved_by, weighted_product
from jpmap_fast.operators.bound import BoundOperator
from jpmap_fast.residuals import Covariance


def mask_of(white: BoundOperator) -> tuple[Tensor | float, Tensor | None]:
    """What a diagonal A multiplies pixels with, [n] or [B, n] or 1, and 1 where it sees nothing."""
    weight = white.operator._weight()  # type: ignore[attr-defined]
    if weight is None:
        return 1.0, None
    return weight, (weight == 0).to(weight.dtype)


class LowRankSystem:
    r"""A ``LinearSystem`` with S = E + V V^T / beta, E = sigma^2 + m^2 d / beta, V = diag(m) U.

    By Woodbury's identity

        S^{-1} = E^{-1} - E^{-1} V (beta I + V^T E^{-1} V)^{-1} V^T E^{-1}.
    """

    def __init__(
        self,
        covariance: Covariance,
        weight: Tensor | float,
        unseen: Tensor | None,
        precision: Tensor,
        inner: Tensor,
    ) -> None:
        self._covariance, self._weight, self.unseen = covariance, weight, unseen
        self._precision, self._inner = precision, inner  # E^{-1} [B, n], Cholesky [B, r, r]

    @classmethod
    def of(
        cls, white: BoundOperator, covariance: Covariance, beta: Tensor, sigma: Tensor
    ) -> LowRankSystem:
        """That of bound operators, beta [B] and sigma [B]."""
        weight, unseen = mask_of(white)
        assert covariance.factor is not None
        d = covariance.diagonal
        precision = 1 / (sigma.square()[:, None] + weight * weight * d / beta[:, None])
        seen = (weight * weight * precision).double()
        # beta = inf leaves E alone; a finite number that large does as well.
        scale = beta.double().clamp_max(1e30)
        inner = weighted_product(covariance.factor.double().T[None], seen)
        inner.diagonal(dim1=-2, dim2=-1).add_(scale[:, None])
        return cls(covariance, weight, unseen, precision, torch.linalg.cholesky_ex(inner).L)

    def measure(self, x: Tensor) -> Tensor:
        return self._weighted(x)

    def measure_adjoint(self, y: Tensor) -> Tensor:
        return self._weighted(y)

    def _weighted(self, rows: Tensor) -> Tensor:
        weight = self._weight
        if isinstance(weight, Tensor) and weight.dim() == 2 and rows.dim() == 3:
            weight = weight[:, None]
        return rows * weight

    def solve(
        self, rhs: Tensor, start: Tensor | None, rough: bool = False
    ) -> tuple[Tensor, Tensor]:
        precision = self._precision[:, None]
        first = rhs * precision
        gathered = self._covariance.gather(self._weighted(first)).double()
        inner = solved_by(self._inner, gathered.mT).mT.to(rhs.dtype)
        back = self._weighted(self._covariance.spread(inner))
        return first - precision * back, torch.zeros_like(rhs)

    def variance(self, beta: Tensor, sigma: Tensor) -> Tensor:
        r"""The diagonal of K / beta - K A^T S^{-1} A K / beta^2, float64 [B, n].

        Given the factor's code w each pixel is on its own, with variance q d / beta and mean q U w,
        q = sigma^2 / E; the covariance of w is (beta I + V^T E^{-1} V)^{-1}.
        """
        factor = self._covariance.factor
        assert factor is not None
        kept = sigma.double().square()[:, None] * self._precision.double()
        alone = kept * self._covariance.diagonal.double() / beta.double()[:, None]
        rows = factor.double().T[None]
        spread = [  # a few images at a time: r n numbers each
            torch.linalg.solve_triangular(part, rows, upper=False).square().sum(dim=1)
            for part in self._inner.split(16)
        ]
        return alone + kept.square() * torch.cat(spread)

    def log_determinant(self, beta: Tensor) -> Tensor:
        """Log det S over what is observed, float64 [B]."""
        logs = -self._precision.double().log()
        if self.unseen is not None:
            logs = logs * (1 - self.unseen.double())
        inner = self._inner.diagonal(dim1=-2, dim2=-1)
        grown = 2 * inner.log().sum(dim=1) - inner.shape[1] * beta.double().log()
        return logs.sum(dim=1) + grown

    def select(self, index: Tensor) -> LowRankSystem:
        weight, unseen = self._weight, self.unseen
        if isinstance(weight, Tensor) and weight.dim() == 2:
            weight = weight[index]
            unseen = None if unseen is None else unseen[index]
        return LowRankSystem(
            self._covariance, weight, unseen, self._precision[index], self._inner[index]
        )
