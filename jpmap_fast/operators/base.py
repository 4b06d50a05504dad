"""What every measurement operator offers."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from jpmap_fast._surroundings import steady
from jpmap_fast._validate import as_float_tensor, per_image, same_device
from jpmap_fast.operators import measured_range
from jpmap_fast.operators.data_term import DataTerm
from jpmap_fast.operators.kept import Kept

# Measurements so small are not looked at where nothing is known of A: its norm takes products.
_USUAL = 8.0
_POWER_ITERATIONS = 12

# What users call, and what therefore must not depend on autocast or a default device around it.
_PUBLIC = ("__init__", "A", "A_adjoint", "bind", "measurement_shape", "x_update", "data_term")

_Self = TypeVar("_Self", bound="Operator")


class Operator(ABC):
    r"""A linear A from images x [B, C, H, W] to measurements y, the noise model y = A x + noise.

    Operators are immutable: ``to``, ``bind`` and ``select`` return new ones. What they make once,
    such as a factorisation, they keep, and leave out of their pickles.

    ``A`` and ``A_adjoint`` compute in the precision of what they are applied to, float32 or
    float64 whatever that of the operator, and give that type: half precision becomes float32, an
    array a tensor on the operator's device. Integer and complex values are refused with a
    TypeError, tensors on another device with a ValueError. Both can be differentiated.
    """

    image_shape: tuple[int, ...] | None = None  # (C, H, W) once bound, where it matters
    _kept: Kept

    def __new__(cls, *args: Any, **settings: Any) -> Any:
        # Here and not in a constructor, which a subclass may do without.
        operator = super().__new__(cls)
        operator._kept = Kept()
        return operator

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
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
    def bind(self, image_shape: Sequence[int], batch: int | None = None) -> Operator:
        """This operator for ``batch`` images (None: any number) of ``image_shape`` (C, H, W).

        Raises:
            ValueError: it cannot act on such images, or not on so many.
        """

    @abstractmethod
    def x_update(
        self, decoded: Tensor, y: Tensor, z: Tensor, beta: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""The exact minimiser of J1 over x, in innovation form.

            x = G + A^T (A A^T + beta sigma^2 I)^{-1} (y - A G)

        Args:
            decoded: G(z) [B, C, H, W].
            y: measurements.
            z: latent codes [B, k]; they enter J1 alone.
            beta: coupling weights [B]; inf gives x = G.
            sigma: noise standard deviations [B].

        Returns:
            x [B, C, H, W], J1(x, z) [B] and the coupling gap ||x - G||^2 [B].
        """

    @abstractmethod
    def data_term(self) -> DataTerm:
        """The data term with the best x put in; of a bound operator.

        Nothing in it depends on y, beta or sigma.
        """

    @property
    def stays_on_device(self) -> bool:
        """Whether ``x_update`` and what is made of ``data_term`` never wait for the device."""
        return True

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
            generator: source of the noise.

        Raises:
            ValueError: sigma is negative, NaN or infinite, or one for another number of images.
            TypeError: sigma or x of the wrong kind.
        """
        clean = self.A(x)
        deviation = per_image("sigma", sigma, clean.shape[0], clean, allow_zero=True)
        noise = torch.randn(
            clean.shape, dtype=clean.dtype, device=clean.device, generator=generator
        )
        return clean + deviation.reshape(-1, *[1] * (clean.dim() - 1)) * noise

    def check_range(self, y: Tensor, sigma: Tensor) -> None:
        """Raise ValueError where y cannot be measurements of images with values in [0, 1].

        Values of 0 to 255 or of -1 to 1, and a sigma in other units than y. See
        ``measured_range`` for what is refused. Of a bound operator; waits for the device.

        Args:
            y: measurements [B, ...].
            sigma: noise deviations > 0 [B].
        """
        if y.numel():
            measured_range.check_noise(y, sigma)
            self._check_values(y, sigma)

    def _check_values(self, y: Tensor, sigma: Tensor) -> None:
        low, high = (float(end) for end in torch.aminmax(y))
        sums, norm = self._row_sums(), self._norm()
        # Most measurements are passed by these two numbers alone; NaN is not.
        if sums is not None:
            usual = measured_range.BEYOND * max(sums)
        elif norm is not None:
            usual = measured_range.BEYOND * norm * math.sqrt(self._pixels(y) / y[0].numel())
        else:
            usual = _USUAL
        if not max(high, -low) <= usual:
            reach, top = self._reach(y, sums, norm), None if sums is None else sums[0]
            measured_range.check_size(y, sigma, reach, top, self._seen())
        if sums is not None and y.dim() == 4 and not low >= measured_range.least(sums):
            measured_range.check_sign(y, sigma, sums, self._seen())

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

    def _reach(self, y: Tensor, sums: tuple[float, float] | None, norm: float | None) -> Tensor:
        """The largest norm of A x [B] for x in [0, 1], without what nobody observed."""
        reach = torch.full((len(y),), torch.inf, dtype=torch.float64, device=y.device)
        if sums is not None:
            seen = self._seen()
            entries = torch.ones_like(y[0]) if seen is None else seen
            count = entries.expand_as(y).flatten(1).sum(dim=1, dtype=torch.float64)
            reach = count.sqrt() * max(sums)
        if norm is None and sums is None:
            norm = self._estimated_norm(y)
        return reach if norm is None else reach.clamp_max(norm * math.sqrt(self._pixels(y)))

    def _pixels(self, y: Tensor) -> int:
        """How many numbers an image has."""
        return math.prod(self.image_shape or self.A_adjoint(y).shape[1:])

    def _estimated_norm(self, y: Tensor) -> float:
        """The norm of A by power iteration, at most a little too small; of measurements as y."""

        def estimate() -> float:
            generator = torch.Generator(y.device).manual_seed(0)
            options = {"dtype": y.dtype, "device": y.device, "generator": generator}
            x = self.A_adjoint(y if self.batch is not None else y[:1])
            x = torch.rand(x.shape, **options)  # type: ignore[call-overload]
            norm = 0.0
            for _ in range(_POWER_ITERATIONS):
                measured = self.A(x / x.flatten(1).norm(dim=1).reshape(-1, *[1] * (x.dim() - 1)))
                norm = max(norm, float(measured.flatten(1).norm(dim=1).nan_to_num().max()))
                x = self.A_adjoint(measured)
            return norm

        if self.batch is not None:
            return estimate()
        return self._kept.get(("norm", tuple(y.shape[1:]), y.dtype, y.device), estimate)

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
