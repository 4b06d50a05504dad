"""What blur and super-resolution share: a kernel, and the closed form of circular convolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from jpmap_fast import kernels
from jpmap_fast._validate import as_float_tensor, image_batch
from jpmap_fast.operators.bound import BoundOperator, Place
from jpmap_fast.operators.fourier import FourierMap, irfft2, kernel_spectrum, rfft2
from jpmap_fast.operators.spectral import BoundDiagonalised, Diagonalised

_Self = TypeVar("_Self", bound="Convolution")


def as_kernel(kernel: Any) -> Tensor:
    """A kernel [C or 1, kh, kw] or [B, C or 1, kh, kw] of what the user gave.

    Raises:
        ValueError: wrong dimension, empty or not finite. TypeError: not floating point.
    """
    kernel = as_float_tensor("kernel", kernel)
    if kernel.dim() not in (2, 3, 4) or 0 in kernel.shape:
        raise ValueError(
            "kernel: expected shape [kh, kw], [C, kh, kw] or [B, C, kh, kw], "
            f"got {list(kernel.shape)}"
        )
    if not bool(torch.isfinite(kernel).all()):
        raise ValueError("kernel: expected finite values, got NaN or infinity")
    return kernel[None] if kernel.dim() == 2 else kernel


class Convolution(Diagonalised):
    """True convolution of images with a kernel, circular, then every ``factor``-th pixel.

    Attributes:
        kernel: [C or 1, kh, kw], or [B, C or 1, kh, kw] for one an image.
        factor: f, 1 for a blur.
        centre: the entry of the kernel that lies on the pixel itself.
        image_shape: (C, H, W) once bound, None before.
    """

    kernel: Tensor
    factor: int
    centre: tuple[int, int]
    image_shape: tuple[int, ...] | None

    def __init__(self, kernel: Tensor, factor: int, centre: tuple[int, int] | None = None) -> None:
        self.kernel = kernel
        self.factor = factor
        kh, kw = kernel.shape[-2:]
        self.centre = (kh // 2, kw // 2) if centre is None else centre
        self.image_shape = None

    def _fitted(
        self: _Self,
        image_shape: tuple[int, ...],
        batch: int | None = None,
        place: Place | None = None,
    ) -> _Self:
        shape = tuple(image_shape)
        if self.batch is not None and batch is not None and self.batch not in (1, batch):
            raise ValueError(
                f"kernel: expected one kernel or one for each of {batch} images, got {self.batch}"
            )
        shared = self.batch == 1 and batch != 1
        if shape == self.image_shape and not shared:
            return self

        def make() -> _Self:
            self._check_shape(shape)
            kernel = self.kernel[0] if shared else self.kernel
            return self._changed(kernel=kernel, image_shape=shape)

        # Kept, with its spectra: the same operator is bound again at every restoration.
        return self._keep(("bound", shape, shared), make)

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 3 or self.kernel.shape[-3] not in (1, shape[0]):
            raise ValueError(
                f"kernel: expected one for images of shape {list(shape)}, "
                f"got {list(self.kernel.shape)}"
            )
        if self.kernel.shape[-2] > shape[1] or self.kernel.shape[-1] > shape[2]:
            raise ValueError(
                f"kernel: expected at most {list(shape[1:])}, the size of the images, "
                f"got {list(self.kernel.shape[-2:])}; crop it"
            )
        if shape[1] % self.factor or shape[2] % self.factor:
            raise ValueError(
                f"factor: expected a divisor of the image sides {list(shape[1:])}, "
                f"got {self.factor}; crop or pad the images"
            )

    def _map(self) -> FourierMap:
        shape = self.image_shape
        if shape is None:
            raise self._not_bound()

        def make() -> FourierMap:
            spectrum = kernel_spectrum(self.kernel, shape[1], shape[2], self.centre)
            return FourierMap(spectrum, shape, self.factor)

        return self._keep("map", make)

    def _values(self) -> Tensor:
        return self._keep("values", lambda: self._map().values())

    def _norm(self) -> float | None:
        return self._keep("norm", lambda: math.sqrt(float(self._values().max())))

    def _row_sums(self) -> tuple[float, float]:
        def sums() -> tuple[float, float]:
            above, below = self.kernel.clamp_min(0), -self.kernel.clamp_max(0)
            return float(above.sum(dim=(-2, -1)).max()), float(below.sum(dim=(-2, -1)).max())

        return self._keep("row sums", sums)

    def _coordinates(self, y: Tensor) -> Tensor:
        return self._map().coordinates(y)

    def _multiplicity(self) -> Tensor:
        return self._map().multiplicity

    def _bound(self, image_shape: tuple[int, ...], place: Place | None) -> BoundOperator:
        return _BoundConvolution(self, image_shape, place)

    def A(self, x: Tensor) -> Tensor:
        x = image_batch("x", self._taken("x", x))
        return self.to(dtype=x.dtype)._fitted(x.shape[1:], x.shape[0])._map().measure(x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        y = image_batch("y", self._taken("y", y))
        shape = (y.shape[1], y.shape[2] * self.factor, y.shape[3] * self.factor)
        return self.to(dtype=y.dtype)._fitted(shape, y.shape[0])._map().measure_adjoint(y)

    def measurement_shape(self, image_shape: Sequence[int], like: Tensor) -> tuple[int, ...]:
        channels, height, width = image_shape
        return (channels, height // self.factor, width // self.factor)

    def image_shape_of(self, measured: Sequence[int]) -> tuple[int, ...] | None:
        if len(measured) != 3:
            return None
        channels, height, width = measured
        return (channels, height * self.factor, width * self.factor)

    @property
    def _learned(self) -> bool:  # type: ignore[override]
        return self.kernel.requires_grad

    @property
    def batch(self) -> int | None:
        return self.kernel.shape[0] if self.kernel.dim() == 4 else None

    @property
    def device(self) -> torch.device | None:
        return self.kernel.device

    def select(self: _Self, index: Tensor) -> _Self:
        if self.batch is None:
            return self
        new = self._changed(kernel=self.kernel[index])
        whole: FourierMap | None = self._kept.peek("map")
        if whole is not None:
            new._kept.get("map", lambda: whole.select(index))
        return new

    def to(self: _Self, device: Any = None, dtype: torch.dtype | None = None) -> _Self:
        def make() -> _Self:
            return self._changed(kernel=self.kernel.to(device=device, dtype=dtype))

        if self._learned:
            return make()
        return self._converted(self.kernel, device, dtype, make)


class _BoundConvolution(BoundDiagonalised):
    """What ``BoundDiagonalised`` says, in one pass between the transforms."""

    operator: Convolution

    def _x_update(
        self, decoded: Tensor, y: Tensor, z: Tensor, beta: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        h = self.operator._map()
        step, objective, gap = kernels.x_update_spectral(
            torch.view_as_real(rfft2(decoded, norm="backward")),
            torch.view_as_real(rfft2(y, norm="backward")),
            h.real_spectrum,
            z,
            beta,
            sigma,
            h.width,
            h.factor,
        )
        added = irfft2(torch.view_as_complex(step), h.height, h.width, norm="forward")
        return added.add_(decoded), objective, gap
