"""A covariance of the residual that does not depend on the code: diagonal plus low rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from jpmap_fast._kept import Kept
from jpmap_fast._made_of_weights import made_of_weights
from jpmap_fast._validate import as_float_tensor
from jpmap_fast.kernels.products import RowProduct


@dataclass(frozen=True, eq=False)
class ResidualCovariance:
    r"""p(x|z) = N(G(z), C),   C = diag(d) + U U^T.

    Args:
        diagonal: d > 0 [n], in the units of pixels squared, n = C H W.
        factor: U [n, r], r >= 1; None for independent pixels.

    Raises:
        ValueError: shapes or values that do not fit. TypeError: no floating-point tensors.
    """

    diagonal: Tensor
    factor: Tensor | None = None

    def __post_init__(self) -> None:
        d = _own("diagonal", self.diagonal)
        if d.dim() != 1 or not bool(((d > 0) & (d < math.inf)).all()):
            raise ValueError(f"diagonal: expected variances > 0 [n], got shape {list(d.shape)}")
        object.__setattr__(self, "diagonal", d)
        if self.factor is None:
            return
        u = _own("factor", self.factor)
        if u.dim() != 2 or len(u) != len(d) or not u.shape[1] or not bool(u.isfinite().all()):
            raise ValueError(
                f"factor: expected finite values [{len(d)}, r], got shape {list(u.shape)}"
            )
        object.__setattr__(self, "factor", u)

    def over(self, gamma: float, image_shape: Sequence[int], like: Tensor) -> Covariance:
        """K = C / gamma^2, of the type and on the device of ``like``.

        Raises:
            ValueError: images of another number of pixels.
        """
        if math.prod(image_shape) != len(self.diagonal):
            raise ValueError(
                f"residual: expected a covariance of {math.prod(image_shape)} pixels, for images "
                f"of shape {list(image_shape)}, got one of {len(self.diagonal)}"
            )

        def make() -> Covariance:
            factor = None if self.factor is None else self.factor.to(like) / gamma
            return Covariance(self.diagonal.to(like) / gamma**2, factor)

        own = [t for t in (self.diagonal, self.factor) if t is not None]
        kept = made_of_weights(self, (gamma, like.dtype, like.device))
        made: Covariance = kept.get(own, make)
        return made

    def __repr__(self) -> str:
        rank = 0 if self.factor is None else self.factor.shape[1]
        return f"ResidualCovariance({len(self.diagonal)} pixels, rank {rank})"


def _own(name: str, value: Any) -> Tensor:
    """A tensor of its own, as the caller's may change, and one that derivatives take."""
    with torch.inference_mode(False):
        return as_float_tensor(name, value).detach().clone()


@dataclass(frozen=True, eq=False)
class Covariance:
    """K = diag(d) + U U^T on rows [..., n]: the covariance of x given z is K / beta.

    Attributes:
        diagonal: d [n].
        factor: U [n, r]; None for a diagonal K.
    """

    diagonal: Tensor
    factor: Tensor | None
    _kept: Kept = field(default_factory=Kept, init=False, repr=False)

    @cached_property
    def _spread(self) -> RowProduct:
        assert self.factor is not None
        return RowProduct(self.factor)

    @cached_property
    def _capacitance(self) -> Tensor:
        """The Cholesky factor of I + U^T D^{-1} U [r, r], float64."""
        assert self.factor is not None
        u, d = self.factor.double(), self.diagonal.double()
        inner = u.T @ (u / d[:, None])
        inner.diagonal().add_(1)
        return torch.linalg.cholesky_ex(inner).L

    def spread(self, codes: Tensor) -> Tensor:
        """U w of rows w [..., r]."""
        return self._spread(codes)

    def gather(self, rows: Tensor) -> Tensor:
        """U^T v of rows v [..., n]."""
        return self._spread.adjoint(rows)

    def apply(self, rows: Tensor) -> Tensor:
        """K v."""
        out = self.diagonal * rows
        return out if self.factor is None else out + self.spread(self.gather(rows))

    def solve(self, rows: Tensor) -> Tensor:
        """K^{-1} v of rows [..., n]."""
        out = rows / self.diagonal
        if self.factor is None:
            return out
        inner = self.gather(out).double()
        solved = torch.cholesky_solve(inner.reshape(-1, inner.shape[-1], 1), self._capacitance)
        return out - self.spread(solved.reshape(inner.shape).to(rows.dtype)) / self.diagonal

    @cached_property
    def _inner_root(self) -> Tensor:
        """M [r, r] with (I + V V^T)^{1/2} = I + V M V^T, V = D^{-1/2} U."""
        assert self.factor is not None
        v = self.factor.double() / self.diagonal.double().sqrt()[:, None]
        values, vectors = torch.linalg.eigh(v.T @ v)
        values = values.clamp_min(1e-12)
        scale = ((1 + values).sqrt() - 1) / values
        return ((vectors * scale) @ vectors.T).to(self.diagonal)

    def root(self, rows: Tensor) -> Tensor:
        """S v of rows v [B, n], S S^T = K: draws of N(0, K) of standard normal numbers."""
        deviation = self.diagonal.sqrt()
        if self.factor is None:
            return deviation * rows
        inner = self.gather(rows / deviation)  # V^T v
        mixed = (self._inner_root @ inner[:, :, None])[:, :, 0]
        return deviation * rows + self.spread(mixed)

    def variances(self) -> Tensor:
        """The diagonal of K [n], float64."""
        d = self.diagonal.double()
        return d if self.factor is None else d + self.factor.double().square().sum(dim=1)

    def matrix(self) -> Tensor:
        """K [n, n], float64."""
        dense = self.diagonal.double().diag()
        if self.factor is None:
            return dense
        return dense + self.factor.double() @ self.factor.double().T
