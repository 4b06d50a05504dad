"""What priors for pictures of any size, without codes, have in common."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

from jpmap_fast.priors.vae import VAE

# The bundled priors for photographs, by their channels: grey, and in colour.
PHOTOGRAPHS = {1: "photos-grey", 3: "photos"}

_Own = TypeVar("_Own", bound="AnySizePrior")


class AnySizePrior(VAE, ABC):
    """A prior without codes that ``autoencode(x, s)`` is all of.

    Attributes:
        image_shape: (C, H, W); None until bound.
        method: the name of the method that restores with it where nobody says another.
    """

    latent_dim = 0
    image_shape: tuple[int, ...] | None = None  # type: ignore[assignment]
    method = "encoder"

    @property
    @abstractmethod
    def channels(self) -> int:
        """1 for grey pictures, 3 for colour."""

    @abstractmethod
    def autoencode(self, x: Tensor, s: Tensor) -> Tensor:
        """Pictures of pictures [B, C, H, W] with noise of level s [B]."""

    def bind(self: _Own, image_shape: Sequence[int]) -> _Own:
        """The same prior, its weights shared, for pictures (C, H, W).

        Raises:
            ValueError: another number of channels, or no pixels.
        """
        shape = tuple(image_shape)
        if len(shape) != 3 or shape[0] != self.channels or min(shape) < 1:
            kind, others = ("grey", 3) if self.channels == 1 else ("colour", 1)
            raise ValueError(
                f"prior: expected {kind} pictures, of shape [{self.channels}, H, W], got "
                f"{list(shape)}; the prior {PHOTOGRAPHS[others]!r} takes the other kind"
            )
        new = copy.copy(self)
        new.image_shape = shape
        return new

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """There are no codes: see the class.

        Raises:
            ValueError: always.
        """
        raise ValueError(self._no_codes)

    def decode(self, z: Tensor) -> Tensor:
        """There are no codes: see the class.

        Raises:
            ValueError: always.
        """
        raise ValueError(self._no_codes)

    @property
    def _no_codes(self) -> str:
        return (
            f"prior: expected one with latent codes, got a {type(self).__name__}, which has none; "
            f'restore with method="{self.method}"'
        )
