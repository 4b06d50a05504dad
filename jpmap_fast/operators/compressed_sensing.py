"""Compressed sensing by a dense matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jpmap_fast._validate import as_float_tensor, count
from jpmap_fast.batch_invariant import RowProduct
from jpmap_fast.operators.spectral import Diagonalised


@dataclass(frozen=True)
class _Factor:
    """A = U R, with orthonormal U [m, r], and R R^T = diag(values), R [r, n].

    For m <= n the basis U is complete; for m > n it spans the range of A, and what y has outside
    of it is out of reach of every x.
    """

    basis: RowProduct  # by U
    basis_adjoint: RowProduct  # by U^T
    rows: RowProduct  # by R
    values: Tensor  # [r]
    complete: bool

    def to(self, device: Any, dtype: torch.dtype | None) -> _Factor:
        return _Factor(
            self.basis.to(device, dtype),
            self.basis_adjoint.to(device, dtype),
            self.rows.to(device, dtype),
            self.values.to(device=device, dtype=dtype),
            self.complete,
        )


def _factorise(matrix: Tensor) -> _Factor:
    """The factor of A [m, n], computed in float64 whatever the type of A."""
    a = matrix.double()
    m, n = a.shape
    if m <= n:
        values, basis = torch.linalg.eigh(a @ a.T)
        rows = basis.T @ a
    else:
        values, right = torch.linalg.eigh(a.T @ a)
        kept = values > values[-1] * n * torch.finfo(torch.float64).eps
        values, right = values[kept], right[:, kept]
        basis = a @ right / values.sqrt()
        rows = values.sqrt()[:, None] * right.T
    factor = _Factor(
        RowProduct(basis),
        RowProduct(basis.T),
        RowProduct(rows),
        values.clamp_min(0),
        m <= n,
    )
    return factor.to(matrix.device, matrix.dtype)


class CompressedSensing(Diagonalised):
    r"""y = A x + noise with a dense A [m, n], y [B, m].

    A A^T = U diag(lambda) U^T is computed once, when first needed, and serves every beta, every
    sigma and every image:

        x = G + A^T U diag(1 / (lambda + beta sigma^2)) U^T (y - A G).

    Args:
        matrix: A [m, n], floating point, finite; an image's n = C H W pixels in row-major order.
        image_shape: (C, H, W) that ``A_adjoint`` shapes its result to; flat [B, n] without it.
            ``restore`` takes it from the prior.

    Raises:
        ValueError: not a matrix, not finite, or image_shape does not have n pixels.
        TypeError: integer values.
    """

    def __init__(self, matrix: Any, image_shape: Sequence[int] | None = None) -> None:
        matrix = as_float_tensor("A", matrix)
        if matrix.dim() != 2 or 0 in matrix.shape:
            raise ValueError(f"A: expected a matrix [m, n], got shape {list(matrix.shape)}")
        if not bool(torch.isfinite(matrix).all()):
            raise ValueError("A: expected finite values, got NaN or infinity")
        self.matrix = matrix
        self.image_shape = None if image_shape is None else tuple(image_shape)
        if self.image_shape is not None and math.prod(self.image_shape) != matrix.shape[1]:
            raise ValueError(
                f"A: expected {math.prod(self.image_shape)} columns for images of shape "
                f"{list(self.image_shape)}, got {matrix.shape[1]}"
            )
        self._cache: dict[str, Any] = {}

    @classmethod
    def gaussian(
        cls,
        m: int,
        image_shape: Sequence[int],
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> CompressedSensing:
        """A [m, n] with independent entries N(0, 1/m), for images of ``image_shape``."""
        count("m", m, 1)
        device = None if generator is None else generator.device
        matrix = torch.randn(
            m, math.prod(image_shape), generator=generator, dtype=dtype, device=device
        )
        return cls(matrix / math.sqrt(m), image_shape)

    @property
    def factor(self) -> _Factor:
        """The cached factorisation."""
        if "factor" not in self._cache:
            self._cache["factor"] = _factorise(self.matrix)
        factor: _Factor = self._cache["factor"]
        return factor

    @property
    def _product(self) -> RowProduct:
        if "product" not in self._cache:
            self._cache["product"] = RowProduct(self.matrix)
        product: RowProduct = self._cache["product"]
        return product

    def A(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        if flat.shape[1] != self.matrix.shape[1]:
            raise ValueError(
                f"x: expected images of {self.matrix.shape[1]} pixels, got shape {list(x.shape)}"
            )
        return self._product(flat)

    def A_adjoint(self, y: Tensor) -> Tensor:
        if y.dim() != 2 or y.shape[1] != self.matrix.shape[0]:
            raise ValueError(f"y: expected shape [B, {self.matrix.shape[0]}], got {list(y.shape)}")
        flat = self._product.adjoint(y)
        return flat if self.image_shape is None else flat.reshape(-1, *self.image_shape)

    def measurement_shape(self, image_shape: Sequence[int], like: Tensor) -> tuple[int, ...]:
        return (self.matrix.shape[0],)

    def bind(self, image_shape: Sequence[int], batch: int | None = None) -> CompressedSensing:
        if self.image_shape == tuple(image_shape):
            return self
        new = CompressedSensing(self.matrix, image_shape)
        new._cache = self._cache
        return new

    @property
    def device(self) -> torch.device | None:
        return self.matrix.device

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> CompressedSensing:
        matrix = self.matrix.to(device=device, dtype=dtype)
        if matrix is self.matrix:
            return self
        new = CompressedSensing(matrix, self.image_shape)
        if "factor" in self._cache and dtype in (None, self.matrix.dtype):
            new._cache["factor"] = self.factor.to(device, dtype)
        return new

    def _map(self) -> RowProduct:
        return self.factor.rows

    def _values(self) -> Tensor:
        return self.factor.values

    def _coordinates(self, y: Tensor) -> Tensor:
        return self.factor.basis_adjoint(y)

    def _out_of_reach(self, y: Tensor) -> Tensor | None:
        factor = self.factor
        return None if factor.complete else y - factor.basis(factor.basis_adjoint(y))

    def __repr__(self) -> str:
        return f"CompressedSensing(A {list(self.matrix.shape)})"
