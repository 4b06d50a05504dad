"""What every measurement operator offers."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from jpmap_fast._validate import as_float_tensor, per_image, same_device
from jpmap_fast.objective import LatentObjective
from jpmap_fast.operators.kept import Kept
from jpmap_fast.priors.decoder import Decoder

Projection = Callable[[Tensor], LatentObjective]
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

    _kept: Kept

    def __new__(cls, *args: Any, **settings: Any) -> Any:
        # Here and not in a constructor, which a subclass may do without.
        operator = super().__new__(cls)
        operator._kept = Kept()
        return operator

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
    def projection(self, decoder: Decoder, beta: Tensor, sigma: Tensor) -> Projection:
        """The map from y to J(z) = min_x J1(x, z); beta = inf gives the latent objective.

        All that does not depend on y is done here, once.
        """

    def projected(
        self, decoder: Decoder, y: Tensor, beta: Tensor, sigma: Tensor
    ) -> LatentObjective:
        """``projection`` at the measurements y."""
        return self.projection(decoder, beta, sigma)(y)

    @property
    def stays_on_device(self) -> bool:
        """Whether ``x_update`` and a projection never wait for the device."""
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
