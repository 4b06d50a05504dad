"""Operators whose A is diagonal in the pixels: denoising and inpainting."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jpmap_fast import kernels
from jpmap_fast._arrays import TOGETHER, as_float_tensor, as_tensor, on_host
from jpmap_fast._surroundings import steady
from jpmap_fast._validate import image_batch
from jpmap_fast.operators import reach
from jpmap_fast.operators.base import Operator
from jpmap_fast.operators.bound import BoundOperator, Place
from jpmap_fast.operators.data_term import ClosedForm, Whitening


class Diagonal(Operator):
    """A = diag(m), m shared by all images, one an image, or all ones."""

    @abstractmethod
    def _fitted(
        self, image_shape: tuple[int, ...], batch: int | None = None, place: Place | None = None
    ) -> Diagonal: ...

    def _weight(self) -> Tensor | None:
        """M as [n] or [B, n]; None for the identity."""
        return None

    def measurement_shape(self, image_shape: Sequence[int], like: Tensor) -> tuple[int, ...]:
        return tuple(image_shape)

    def image_shape_of(self, measured: Sequence[int]) -> tuple[int, ...] | None:
        return tuple(measured) if len(measured) == 3 else None

    def _bound(self, image_shape: tuple[int, ...], place: Place | None) -> BoundOperator:
        return _BoundDiagonal(self, image_shape, place)

    def _row_sums(self) -> tuple[float, float]:
        return 1.0, 0.0


class _BoundDiagonal(BoundOperator):
    """The x-update in one pass over the pixels."""

    operator: Diagonal

    def _x_update(
        self, decoded: Tensor, y: Tensor, z: Tensor, beta: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        x, objective, gap = kernels.x_update_diagonal(
            decoded.flatten(1), y.flatten(1), self.operator._weight(), z, beta, sigma
        )
        return x.reshape(decoded.shape), objective, gap

    def closed_form(self, y: Tensor) -> ClosedForm | None:
        if type(self.operator) not in (Denoising, Inpainting):  # whose A may be another
            return None
        return ClosedForm(y.flatten(1), mask=self.operator._weight())

    def _data_term(self) -> Whitening:
        weight = self.operator._weight()
        if weight is None:
            return _WHITE
        if weight.dim() > 1 or self.operator._learned:
            return _observing(weight)
        return self._observing(weight)

    def _observing(self, weight: Tensor, host: Tensor | None = None) -> Whitening:
        """That of one mask [n] for all, which is the same in many calls: ``_observing`` asks."""
        kept = self.operator._kept
        return kept.get_of("data term", weight, lambda: _observing(weight), host)

    @steady
    def check_range(self, y: Tensor, sigma: Tensor) -> bool:
        weight = self.operator._weight()
        if weight is None or weight.dim() > 1 or self.operator._learned:
            return super().check_range(y, sigma)
        # Measurements and mask in one wait: whether the mask is the one before, the next asks.
        host, mask = on_host(y, weight)
        finite = reach.check(self.operator, y, sigma, host)
        self._kept.get("data term", lambda: self._observing(weight, mask))
        return finite


# The data term of A = I.
_WHITE = Whitening(1.0, lambda y: y.flatten(1))


def _observing(weight: Tensor) -> Whitening:
    """The data term of A = diag(m), m [n] or [B, n]."""
    unseen = weight == 0
    rows = None
    seen = (~unseen).to(weight.dtype)
    hidden = unseen.double()
    if weight.dim() == 1:
        rows = (~unseen).nonzero()[:, 0]
        if not rows.numel():
            rows = rows.new_zeros(1)  # nothing observed: one pixel, of weight zero
        weight, seen = weight[rows], seen[rows]

    def coordinates(y: Tensor) -> Tensor:
        return y.flatten(1) if rows is None else y.flatten(1).index_select(1, rows)

    def lost(y: Tensor) -> Tensor:
        """Of the type that it is summed in, at no pass more, unless it is of many images."""
        pixels = y.flatten(1)
        return pixels * (hidden if pixels.numel() <= TOGETHER else hidden.to(y.dtype))

    return Whitening(
        weight.square(),
        coordinates,
        scale=weight,
        rows=rows,
        seen=seen,
        # Pixels nobody observed add |y|^2 / (2 sigma^2) to J whatever z is.
        lost=lost,
    )


class Denoising(Diagonal):
    """A = I: y = x + noise, y [B, C, H, W]."""

    def A(self, x: Tensor) -> Tensor:
        return image_batch("x", self._taken("x", x))

    def A_adjoint(self, y: Tensor) -> Tensor:
        return image_batch("y", self._taken("y", y))

    def _fitted(
        self, image_shape: tuple[int, ...], batch: int | None = None, place: Place | None = None
    ) -> Denoising:
        return self

    def __repr__(self) -> str:
        return "Denoising()"


class Inpainting(Diagonal):
    """A = diag(mask): y = mask x + noise, y [B, C, H, W].

    Noise may be present where nothing was observed, as in the original code: J1 counts it over all
    of y, where it is a constant.

    Args:
        mask: 1 where a pixel is observed, 0 where it is missing, or a weight in between; boolean or
            floating point. [H, W] or [C, H, W] for one mask shared by all images, [B, C, H, W] for
            one an image (C may be 1; B = 1 serves any number of images).

    Raises:
        ValueError: wrong dimension, or a value outside [0, 1] or NaN.
        TypeError: an integer mask other than 0 and 1, or no numbers.
    """

    def __init__(self, mask: Any) -> None:
        mask = as_tensor("mask", mask)
        if not (mask.is_floating_point() or mask.is_complex()):
            if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
                raise TypeError(
                    f"mask: expected booleans, or values in [0, 1], got {mask.dtype} up to "
                    f"{int(mask.max())}; compare with a threshold, as in mask > 127"
                )
            mask = mask.to(torch.get_default_dtype())
        mask = as_float_tensor("mask", mask)
        if mask.dim() not in (2, 3, 4):
            raise ValueError(
                f"mask: expected shape [H, W], [C, H, W] or [B, C, H, W], got {list(mask.shape)}"
            )
        if not bool(((mask >= 0) & (mask <= 1)).all()):
            raise ValueError(
                "mask: expected values in [0, 1] (1 = observed), got values from "
                f"{float(mask.min())} to {float(mask.max())}"
            )
        self.mask = mask

    def _seen(self) -> Tensor | None:
        return self.mask != 0

    def _weight(self) -> Tensor | None:
        return self.mask.flatten(1 if self.mask.dim() == 4 else 0)

    @property
    def _learned(self) -> bool:  # type: ignore[override]
        return self.mask.requires_grad

    def A(self, x: Tensor) -> Tensor:
        return self._masked("x", x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self._masked("y", y)

    def _masked(self, name: str, value: Any) -> Tensor:
        x = image_batch(name, self._taken(name, value))
        spatial = tuple(self.mask.shape[-2:]) == tuple(x.shape[-2:])
        channels = self.mask.dim() == 2 or self.mask.shape[-3] in (1, x.shape[1])
        images = self.mask.dim() < 4 or self.mask.shape[0] in (1, x.shape[0])
        if not (spatial and channels and images):
            raise ValueError(
                f"{name}: expected images that the mask {list(self.mask.shape)} fits, "
                f"got {list(x.shape)}"
            )
        return self.mask.to(x.dtype) * x

    def _fitted(
        self, image_shape: tuple[int, ...], batch: int | None = None, place: Place | None = None
    ) -> Inpainting:
        shape, mask = image_shape, self.mask
        fits = mask.shape == shape or (batch is not None and mask.shape == (batch, *shape))
        if fits and mask.is_contiguous():
            return self
        if tuple(mask.shape[-2:]) != shape[-2:] or (
            mask.dim() > 2 and mask.shape[-3] not in (1, shape[0])
        ):
            raise ValueError(
                f"mask: expected one for images of shape {list(shape)}, got {list(mask.shape)}"
            )
        if mask.dim() == 4 and mask.shape[0] == 1 and batch != 1:
            mask = mask[0]
        if mask.dim() == 4 and batch is not None and mask.shape[0] != batch:
            raise ValueError(
                f"mask: expected one mask or one for each of {batch} images, got {mask.shape[0]}"
            )
        full = (mask.shape[0], *shape) if mask.dim() == 4 else shape
        new = copy.copy(self)  # with what is kept, which is compared with the mask
        new.mask = mask.expand(full).contiguous()
        return new

    @property
    def batch(self) -> int | None:
        return self.mask.shape[0] if self.mask.dim() == 4 else None

    @property
    def device(self) -> torch.device | None:
        return self.mask.device

    def select(self, index: Tensor) -> Inpainting:
        return self._changed(mask=self.mask[index]) if self.mask.dim() == 4 else self

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> Inpainting:
        if device is None and dtype in (None, self.mask.dtype):
            return self
        mask = self.mask.to(device=device, dtype=dtype)
        return self if mask is self.mask else self._changed(mask=mask)

    def __repr__(self) -> str:
        return f"Inpainting(mask {list(self.mask.shape)})"
