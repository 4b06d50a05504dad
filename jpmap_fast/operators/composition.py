"""One operator after another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jpmap_fast.operators.base import Operator
from jpmap_fast.operators.bound import Place, unbound
from jpmap_fast.operators.compressed_sensing import CompressedSensing
from jpmap_fast.operators.diagonal import Denoising, Inpainting
from jpmap_fast.operators.matrix_free import MatrixFree


class Composition(MatrixFree):
    r"""y = outer.A(inner.A(x)) + noise, such as a mask after a blur.

    Solved by conjugate gradients, but for what has a closed form, which is used instead: a
    ``Denoising`` on either side, a mask after a mask, a dense matrix after an operator that is the
    same for all images.

    Args:
        outer: acts on what ``inner`` measures.
        inner: acts on the image.
        tolerance, max_iterations: of conjugate gradients, see ``MatrixFree``.

    Raises:
        TypeError: not operators. ValueError: on binding, operators that do not fit each other.

    Example:
        >>> import torch, jpmap_fast as jf
        >>> mask, blur = jf.Inpainting(torch.ones(28, 28)), jf.Blur(jf.gaussian_kernel(1.0))
        >>> jf.Composition(mask, blur).A(torch.ones(1, 1, 28, 28)).shape
        torch.Size([1, 1, 28, 28])
    """

    def __init__(
        self,
        outer: Operator,
        inner: Operator,
        *,
        tolerance: float | None = None,
        max_iterations: int = 500,
    ) -> None:
        outer, inner = unbound(outer), unbound(inner)
        for name, part in (("outer", outer), ("inner", inner)):
            if not isinstance(part, Operator):
                raise TypeError(f"{name}: expected an operator, got {type(part).__name__}")
        super().__init__(tolerance=tolerance, max_iterations=max_iterations)
        self.outer = outer
        self.inner = inner
        self._middle: tuple[int, ...] | None = None
        self._dtype = torch.get_default_dtype()
        self._device: torch.device | None = None

    def A(self, x: Tensor) -> Tensor:
        return self.outer.A(self.inner.A(x))

    def A_adjoint(self, y: Tensor) -> Tensor:
        back = self.outer.A_adjoint(y)
        if self._middle is not None:
            back = back.reshape(-1, *self._middle)
        return self.inner.A_adjoint(back)

    def measurement_shape(self, image_shape: Sequence[int], like: Tensor) -> tuple[int, ...]:
        middle = self.inner._fitted(tuple(image_shape)).measurement_shape(image_shape, like)
        return self.outer._fitted(middle).measurement_shape(middle, like)

    def image_shape_of(self, measured: Sequence[int]) -> tuple[int, ...] | None:
        if self.image_shape is not None:
            return self.image_shape
        middle = self.outer.image_shape_of(measured)
        return self.inner.image_shape if middle is None else self.inner.image_shape_of(middle)

    def _fitted(
        self, image_shape: tuple[int, ...], batch: int | None = None, place: Place | None = None
    ) -> Operator:
        shape = tuple(image_shape)
        if self.image_shape == shape and (batch is None or self.batch in (None, batch)):
            return self
        inner = self.inner._fitted(shape, batch, place)
        dtype, device = place or (self._dtype, self.device or self._device)
        like = torch.zeros((), dtype=dtype, device=device)
        middle = inner.measurement_shape(shape, like)
        outer = self.outer._fitted(middle, batch, place)
        closed = self._closed_form(outer, inner, shape, middle)
        if closed is not None:
            return closed._fitted(shape, batch, place)
        return self._changed(outer=outer, inner=inner, _middle=middle, image_shape=shape)

    def _closed_form(
        self, outer: Operator, inner: Operator, shape: tuple[int, ...], middle: tuple[int, ...]
    ) -> Operator | None:
        """The same A as one operator with an exact x-update, of bound parts; None if none is known.

        What costs something to make is made once.
        """
        if isinstance(inner, Denoising):
            return outer
        if isinstance(outer, Denoising):
            return inner
        if isinstance(inner, Inpainting) and isinstance(outer, Inpainting):
            return Inpainting(outer.mask * inner.mask)
        # A dense matrix is not learned: as one, a kernel would have no gradient.
        if isinstance(outer, CompressedSensing) and inner.batch is None and not inner._learned:
            matrix = outer.matrix

            def make() -> CompressedSensing:
                rows = inner.A_adjoint(matrix.reshape(-1, *middle))
                return CompressedSensing(rows.reshape(-1, math.prod(shape)), shape)

            return self._kept.get(("closed", shape), make)
        return None

    def _seen(self) -> Tensor | None:
        return self.outer._seen()

    def _norm(self) -> float | None:
        outer, inner = self.outer._norm(), self.inner._norm()
        return None if outer is None or inner is None else outer * inner

    def _row_sums(self) -> tuple[float, float] | None:
        outer, inner = self.outer._row_sums(), self.inner._row_sums()
        if outer is None or inner is None:
            return None
        (p, q), (r, s) = outer, inner
        return p * r + q * s, p * s + q * r

    @property
    def _learned(self) -> bool:  # type: ignore[override]
        return self.outer._learned or self.inner._learned

    @property
    def batch(self) -> int | None:
        counts = [part.batch for part in (self.outer, self.inner) if part.batch is not None]
        return max(counts, default=None)

    @property
    def device(self) -> torch.device | None:
        return self.inner.device if self.outer.device is None else self.outer.device

    def select(self, index: Tensor) -> Composition:
        if self.batch is None:
            return self
        return self._changed(outer=self.outer.select(index), inner=self.inner.select(index))

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> Composition:
        outer, inner = self.outer.to(device, dtype), self.inner.to(device, dtype)
        parts = outer is self.outer and inner is self.inner
        if parts and dtype in (None, self._dtype) and device in (None, self._device):
            return self
        found: dict[str, Any] = {"outer": outer, "inner": inner}
        found["_dtype"] = self._dtype if dtype is None else dtype
        found["_device"] = self._device if device is None else torch.device(device)
        if device is not None:
            return self._changed(**found)
        return self._keep(("to", dtype), lambda: self._changed(**found))

    def __repr__(self) -> str:
        return f"Composition({self.outer!r}, {self.inner!r})"
