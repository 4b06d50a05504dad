"""Compressed sensing without a stored matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from jpmap_fast._surroundings import steady
from jpmap_fast._validate import as_float_tensor, as_tensor, choice, count, counts
from jpmap_fast.kernels.products import RowProduct
from jpmap_fast.operators.bound import Place
from jpmap_fast.operators.fourier import DENSE_ENTRIES
from jpmap_fast.operators.spectral import Diagonalised
from jpmap_fast.operators.transforms import (
    CosineTransform,
    HadamardTransform,
    Transform,
    hadamard_sizes,
)


class _SampledTransform:
    """A = R T S on flat images."""

    def __init__(self, transform: Transform, signs: Tensor, rows: Tensor) -> None:
        self._transform = transform
        self._signs = signs
        self._rows = rows

    def __call__(self, x: Tensor) -> Tensor:
        return self._transform(x * self._signs)[..., self._rows]

    @property
    def adjoint(self) -> Callable[[Tensor], Tensor]:
        def apply(y: Tensor) -> Tensor:
            full = y.new_zeros(*y.shape[:-1], self._signs.numel())
            full = full.index_copy(-1, self._rows, y)
            return self._transform.adjoint(full) * self._signs

        return apply

    @cached_property
    def dense(self) -> tuple[RowProduct, None] | None:
        n = self._signs.numel()
        if n * self._rows.numel() > DENSE_ENTRIES:
            return None
        images = torch.eye(n, dtype=self._signs.dtype, device=self._signs.device)
        return RowProduct(self(images).T), None

    def select(self, index: Tensor | slice) -> _SampledTransform:
        return self


class StructuredSensing(Diagonalised):
    r"""y = A x + noise with A = R T S, y [B, m], A A^T = I.

    S changes the signs of pixels at random, T is a fast orthonormal transform of all n = C H W of
    them, R keeps m of its n coefficients, chosen at random. As with a random matrix every
    measurement sees the whole image; nothing of size m n is stored, and a product costs n log n.
    Entries of A have mean square 1 / n, those of ``CompressedSensing.gaussian`` 1 / m.

    Made by ``StructuredSensing.dct`` or ``StructuredSensing.hadamard``.

    Args:
        kind: "dct" or "hadamard".
        image_shape: (C, H, W).
        signs: +1 or -1 [n].
        rows: indices of the coefficients measured, int64 [m], each once.

    Raises:
        ValueError: shapes or values that do not fit. TypeError: wrong types.
    """

    image_shape: tuple[int, ...]

    def __init__(self, kind: str, image_shape: Sequence[int], signs: Any, rows: Any) -> None:
        choice("kind", kind, ("dct", "hadamard"))
        self.kind = kind
        self.image_shape = counts("image_shape", image_shape, 1)
        n = math.prod(self.image_shape)
        if kind == "hadamard":
            hadamard_sizes(n)
        signs, rows = as_float_tensor("signs", signs), as_tensor("rows", rows)
        self.signs = signs
        self.rows = rows
        if tuple(signs.shape) != (n,) or not bool((signs.abs() == 1).all()):
            raise ValueError(f"signs: expected {n} values +1 or -1, got shape {list(signs.shape)}")
        if rows.dtype != torch.int64:
            raise TypeError(f"rows: expected int64 indices, got {rows.dtype}")
        distinct = torch.unique(rows)
        if rows.dim() != 1 or distinct.numel() != rows.numel() or rows.numel() == 0:
            raise ValueError(f"rows: expected distinct indices [m], got shape {list(rows.shape)}")
        if int(distinct[0]) < 0 or int(distinct[-1]) >= n:
            raise ValueError(f"rows: expected indices in [0, {n}), got {distinct.tolist()[-1]}")

    @classmethod
    @steady
    def dct(
        cls,
        m: int,
        image_shape: Sequence[int],
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> StructuredSensing:
        """T the orthonormal cosine transform (DCT-II) over channels, rows and columns.

        Args:
            m: measurements, 1 <= m <= C H W.
            image_shape: (C, H, W), any.
            generator: source of signs and rows.
            dtype: of the images.

        Raises:
            ValueError: m out of range. TypeError: m is no integer.
        """
        return cls._random("dct", m, image_shape, generator, dtype)

    @classmethod
    @steady
    def hadamard(
        cls,
        m: int,
        image_shape: Sequence[int],
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> StructuredSensing:
        """T a Hadamard matrix over sqrt(n), n = C H W = 2^a 12^b 20^c 28^d.

        28 x 28 and 64 x 64 x 3 are of that kind. Arguments as in ``dct``.

        Raises:
            ValueError: m out of range, or another n. TypeError: m is no integer.
        """
        return cls._random("hadamard", m, image_shape, generator, dtype)

    @classmethod
    def _random(
        cls,
        kind: str,
        m: int,
        image_shape: Sequence[int],
        generator: torch.Generator | None,
        dtype: torch.dtype,
    ) -> StructuredSensing:
        n = math.prod(counts("image_shape", image_shape, 1))
        m = count("m", m, 1)
        if m > n:
            raise ValueError(f"m: expected at most {n}, the numbers of an image, got {m}")
        device = None if generator is None else generator.device
        signs = torch.randint(0, 2, (n,), generator=generator, device=device) * 2 - 1
        rows = torch.randperm(n, generator=generator, device=device)[:m].sort().values
        return cls(kind, image_shape, signs.to(dtype), rows)

    def _fitted(
        self, image_shape: tuple[int, ...], batch: int | None = None, place: Place | None = None
    ) -> StructuredSensing:
        if tuple(image_shape) != self.image_shape:
            raise ValueError(
                f"A: expected images of shape {list(self.image_shape)}, which it was made for, "
                f"got {list(image_shape)}"
            )
        return self

    def measurement_shape(self, image_shape: Sequence[int], like: Tensor) -> tuple[int, ...]:
        return (self.rows.numel(),)

    def A(self, x: Tensor) -> Tensor:
        x = self._taken("x", x)
        self._fitted(x.shape[1:])
        return self.to(dtype=x.dtype)._map()(x.flatten(1))

    def A_adjoint(self, y: Tensor) -> Tensor:
        y = self._taken("y", y)
        if y.dim() != 2 or y.shape[1] != self.rows.numel():
            raise ValueError(f"y: expected shape [B, {self.rows.numel()}], got {list(y.shape)}")
        return self.to(dtype=y.dtype)._map().adjoint(y).reshape(-1, *self.image_shape)

    def _map(self) -> _SampledTransform:
        def make() -> _SampledTransform:
            transform: Transform
            if self.kind == "dct":
                transform = CosineTransform(self.image_shape, self.signs)
            else:
                transform = HadamardTransform(self.signs.numel(), self.signs)
            return _SampledTransform(transform, self.signs, self.rows)

        return self._kept.get("map", make)

    def _values(self) -> Tensor:
        return self._kept.get("values", lambda: self.signs.new_ones(self.rows.numel()))

    def _norm(self) -> float:
        return 1.0

    def _coordinates(self, y: Tensor) -> Tensor:
        return y

    @property
    def device(self) -> torch.device | None:
        return self.signs.device

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> StructuredSensing:
        def make() -> StructuredSensing:
            signs = self.signs.to(device=device, dtype=dtype)
            return self._changed(signs=signs, rows=self.rows.to(device=device))

        return self._converted(self.signs, device, dtype, make)

    def __repr__(self) -> str:
        return (
            f"StructuredSensing.{self.kind}(m={self.rows.numel()}, image_shape={self.image_shape})"
        )
