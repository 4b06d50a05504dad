"""Compressed sensing by a dense matrix."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jpmap_fast._surroundings import steady
from jpmap_fast._validate import as_float_tensor, count, counts
from jpmap_fast.kernels.products import RowProduct
from jpmap_fast.operators.bound import Place
from jpmap_fast.operators.data_term import Whitening
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
        kept[-1] = True  # one at least, be it the zero of a matrix of zeros
        values, right = values[kept].clamp_min(0), right[:, kept]
        basis = a @ right / values.sqrt().clamp_min(torch.finfo(torch.float64).tiny)
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
        matrix: A [m, n], floating point, finite; an image's n = C H W pixels in row-major order. A
            sparse one is written out.
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
        self.matrix = matrix.detach()
        self.image_shape: tuple[int, ...] | None = None
        if image_shape is not None:
            self.image_shape = self._fitting(counts("image_shape", image_shape, 1))

    def _fitting(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        if math.prod(image_shape) != self.matrix.shape[1]:
            raise ValueError(
                f"A: expected {math.prod(image_shape)} columns for images of shape "
                f"{list(image_shape)}, got {self.matrix.shape[1]}"
            )
        return image_shape

    @classmethod
    @steady
    def gaussian(
        cls,
        m: int,
        image_shape: Sequence[int],
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> CompressedSensing:
        """A [m, n] with independent entries N(0, 1/m), for images of ``image_shape``."""
        m, image_shape = count("m", m, 1), counts("image_shape", image_shape, 1)
        device = None if generator is None else generator.device
        matrix = torch.randn(
            m, math.prod(image_shape), generator=generator, dtype=dtype, device=device
        )
        return cls(matrix / math.sqrt(m), image_shape)

    @property
    def factor(self) -> _Factor:
        """The cached factorisation."""
        return self._kept.get("factor", lambda: _factorise(self.matrix))

    @property
    def _product(self) -> RowProduct:
        return self._kept.get("product", lambda: RowProduct(self.matrix))

    def A(self, x: Tensor) -> Tensor:
        x = self._taken("x", x)
        if x.dim() < 2 or math.prod(x.shape[1:]) != self.matrix.shape[1]:
            raise ValueError(
                f"x: expected images of {self.matrix.shape[1]} pixels, got shape {list(x.shape)}"
            )
        return self.to(dtype=x.dtype)._product(x.flatten(1))

    def A_adjoint(self, y: Tensor) -> Tensor:
        y = self._taken("y", y)
        if y.dim() != 2 or y.shape[1] != self.matrix.shape[0]:
            raise ValueError(f"y: expected shape [B, {self.matrix.shape[0]}], got {list(y.shape)}")
        flat = self.to(dtype=y.dtype)._product.adjoint(y)
        return flat if self.image_shape is None else flat.reshape(-1, *self.image_shape)

    def measurement_shape(self, image_shape: Sequence[int], like: Tensor) -> tuple[int, ...]:
        return (self.matrix.shape[0],)

    def _fitted(
        self, image_shape: tuple[int, ...], batch: int | None = None, place: Place | None = None
    ) -> CompressedSensing:
        if self.image_shape == image_shape:
            return self
        new = copy.copy(self)  # with what is kept
        new.image_shape = self._fitting(image_shape)
        return new

    @property
    def device(self) -> torch.device | None:
        return self.matrix.device

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> CompressedSensing:
        def make() -> CompressedSensing:
            matrix = self.matrix.to(device=device, dtype=dtype)
            new = self._changed(matrix=matrix, image_shape=None)
            factor: _Factor | None = self._kept.peek("factor")
            if factor is not None and matrix.dtype == self.matrix.dtype:
                new._kept.get("factor", lambda: factor.to(device, dtype))
            return new

        new = self._converted(self.matrix, device, dtype, make)
        return new if self.image_shape is None else new._fitted(self.image_shape)

    def _norm(self) -> float:
        return self._kept.get("norm", lambda: math.sqrt(float(self.factor.values.max())))

    def _map(self) -> RowProduct:
        return self.factor.rows

    def _values(self) -> Tensor:
        return self.factor.values

    def _coordinates(self, y: Tensor) -> Tensor:
        return self.factor.basis_adjoint(y)

    def _whitening(self) -> Whitening:
        # The same for images of any shape: all of it is the factor's.
        return self._kept.get("data term", super()._whitening)

    def _lost_part(self) -> Callable[[Tensor], Tensor] | None:
        factor = self.factor
        return None if factor.complete else lambda y: y - factor.basis(factor.basis_adjoint(y))

    def __repr__(self) -> str:
        return f"CompressedSensing(A {list(self.matrix.shape)})"
