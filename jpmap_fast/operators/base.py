"""What every measurement operator offers."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from jpmap_fast._arrays import normal_like
from jpmap_fast._kept import Kept
from jpmap_fast._surroundings import steady
from jpmap_fast._validate import as_float_tensor, per_image, same_device
from jpmap_fast.operators.bound import BoundOperator, Place

# What users call, and what therefore must not depend on autocast or a default device around it.
_PUBLIC = ("__init__", "A", "A_adjoint", "measurement_shape", "image_shape_of")

# What no subclass changes: its bound form does.
_OF_BOUND = ("bind", "x_update", "data_term", "check_range")

_Self = TypeVar("_Self", bound="Operator")
_Value = TypeVar("_Value")


class Operator(ABC):
    r"""A linear A from images x [B, C, H, W] to measurements y, the noise model y = A x + noise.

    What a user writes. Bound to the shape of images it is a ``BoundOperator``, which restorations
    work with.

    Operators are immutable: ``to``, ``bind`` and ``select`` return new ones. What they make once,
    such as a factorisation, they keep, and leave out of their pickles.

    ``A`` and ``A_adjoint`` compute in the precision of what they are applied to, float32 or
    float64 whatever that of the operator, and give that type: half precision becomes float32, an
    array a tensor on the operator's device. Integer and complex values are refused with a
    TypeError, tensors on another device with a ValueError. Both can be differentiated.
    """

    image_shape: tuple[int, ...] | None = None  # (C, H, W) once bound, where it matters
    _learned = False  # whether what is made of it has a gradient to go through
    _kept: Kept

    def __new__(cls, *args: Any, **settings: Any) -> Any:
        # Here and not in a constructor, which a subclass may do without.
        operator = super().__new__(cls)
        operator._kept = Kept()
        return operator

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        for name in _OF_BOUND:
            # It would never be asked.
            if name in vars(cls):
                raise TypeError(
                    f"{cls.__name__}: expected no {name} of its own, which a BoundOperator has; "
                    "write A, A_adjoint and measurement_shape of a subclass of MatrixFree"
                )
        for name in _PUBLIC:
            method = vars(cls).get(name)
            if callable(method):
                setattr(cls, name, steady(method))

    @abstractmethod
    def A(self, x: Tensor) -> Tensor:
        """A x: measurements of images [B, C, H, W]."""

    @abstractmethod
    def A_adjoint(self, y: Tensor) -> Tensor:
        """A^T y: images [B, C, H, W] of measurements."""

    @abstractmethod
    def measurement_shape(self, image_shape: Sequence[int], like: Tensor) -> tuple[int, ...]:
        """Shape of one image's measurements, without the batch dimension.

        An operator known only as a function is asked, in the type and on the device of ``like``.
        """

    @abstractmethod
    def _fitted(
        self, image_shape: tuple[int, ...], batch: int | None = None, place: Place | None = None
    ) -> Operator:
        """This operator with what it holds written out for such images, see ``bind``.

        Itself where it is so already; of another class where that has a closed form.
        """

    @abstractmethod
    def _bound(self, image_shape: tuple[int, ...], place: Place | None) -> BoundOperator:
        """The bound form of a fitted operator."""

    @steady
    def bind(
        self, image_shape: Sequence[int], batch: int | None = None, *, like: Tensor | None = None
    ) -> BoundOperator:
        """This operator for ``batch`` images (None: any number) of ``image_shape`` (C, H, W).

        It takes the precision of ``like``, or keeps its own; its tensors stay on their device. An
        operator known only as a function is asked in the type and on the device of ``like``.

        Raises:
            ValueError: it cannot act on such images, or not on so many.
        """
        operator, place = self, None
        if like is not None:
            operator, place = self.to(dtype=like.dtype), (like.dtype, like.device)
        shape = tuple(image_shape)
        return operator._fitted(shape, batch, place)._bound(shape, place)

    def _measured_shape(self, image_shape: tuple[int, ...], like: Tensor) -> tuple[int, ...]:
        """``BoundOperator.measurement_shape`` of this one bound to such images."""
        key = ("measurement shape", image_shape, like.dtype, like.device)
        return self._kept.get(key, lambda: self.bind(image_shape, like=like).measurement_shape)

    @steady
    def x_update(
        self, decoded: Tensor, y: Tensor, z: Tensor, beta: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``BoundOperator.x_update`` of the operator bound to these images, anew at every call."""
        bound = self.bind(decoded.shape[1:], len(decoded), like=decoded)
        return bound.x_update(decoded, y, z, beta, sigma)

    @property
    def batch(self) -> int | None:
        """Number of images this operator is made for, None if any."""
        return None

    @property
    def device(self) -> torch.device | None:
        """Where its tensors live, None if it has none."""
        return None

    def select(self, index: Tensor) -> Operator:
        """The operator of the images ``index`` of a batch (an index may repeat)."""
        return self

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> Operator:
        """The operator with its tensors on another device or in another precision."""
        return self

    @steady
    def measure(
        self, x: Tensor, sigma: float | Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Y = A x + sigma noise, noise standard normal.

        Args:
            x: images [B, C, H, W], values in [0, 1].
            sigma: standard deviation >= 0, a number or one an image; 0 gives A x.
            generator: source of the noise, on any device: one of the CPU gives the same noise
                wherever x is.

        Raises:
            ValueError: sigma is negative, NaN or infinite, or one for another number of images.
            TypeError: sigma or x of the wrong kind.
        """
        clean = self.A(x)
        deviation = per_image("sigma", sigma, clean.shape[0], clean, allow_zero=True)
        noise = normal_like(clean, generator)
        return clean + deviation.reshape(-1, *[1] * (clean.dim() - 1)) * noise

    def image_shape_of(self, measured: Sequence[int]) -> tuple[int, ...] | None:
        """The shape (C, H, W) of images whose measurements have a shape; None if that tells none.

        Args:
            measured: shape of one image's measurements, without the batch dimension.
        """
        return self.image_shape

    def _measured_apart(self, y: Tensor, sigma: Tensor) -> list[tuple[Operator, Tensor, Tensor]]:
        """Operators, measurements and noise deviations whose ranges are looked at one by one."""
        return [(self, y, sigma)]

    def _seen(self) -> Tensor | None:
        """Booleans, where y depends on x at all, [...] or [B, ...]; None for everywhere."""
        return None

    def _row_sums(self) -> tuple[float, float] | None:
        """The greatest sum of the positive entries of a row of A, and of the negative ones.

        None if not known. Those of the negative ones count as positive. A x is within the two, for
        x in [0, 1].
        """
        return None

    def _norm(self) -> float | None:
        """A bound on the norm of A, None if not known."""
        return None

    def _keep(self, key: Any, make: Callable[[], _Value]) -> _Value:
        """``make()``, made once; but for what is learned, whose gradient goes through it."""
        return make() if self._learned else self._kept.get(key, make)

    def _not_bound(self) -> ValueError:
        """The error of what only a bound operator can be asked."""
        return ValueError(f"{self!r}: expected a bound operator; call bind(image_shape) first")

    def _taken(self, name: str, value: Any) -> Tensor:
        """What ``A`` or ``A_adjoint`` is applied to, as this class says."""
        device = self.device
        taken = as_float_tensor(name, value, device=device)
        if device is not None:
            same_device(name, taken.device, "the operator", device)
        return taken

    def _changed(self: _Self, **attributes: Any) -> _Self:
        """A copy with other attributes, past the constructor's checks, and nothing kept."""
        new = copy.copy(self)
        vars(new).update(attributes, _kept=Kept())
        return new

    def _converted(
        self: _Self,
        held: Tensor,
        device: Any,
        dtype: torch.dtype | None,
        make: Callable[[], _Self],
    ) -> _Self:
        """An operator that holds tensors such as ``held`` elsewhere, or in another precision.

        Itself where that changes nothing, ``make()`` otherwise, which is kept where it stays on
        its device: a float64 operator and a float32 prior meet at every restoration.
        """
        if device is not None and held.new_empty(0).to(device).device != held.device:
            return make()
        if dtype in (None, held.dtype):
            return self
        return self._kept.get(("to", dtype), make)
