"""A variance that the decoder's own grey value decides."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from jpmap_fast._validate import positive


@dataclass(frozen=True)
class GreyValueVariance:
    r"""p(x|z) = N(G, diag(v(G))), independent from pixel to pixel, with

        v(G) = floor^2 + slope^2 G (1 - G):

    a decoder is sure where it draws black or white and unsure where it draws grey, at the edges of
    what it draws. The values of G are taken into [0, 1].

    Args:
        floor: standard deviation > 0 of black and white.
        slope: > 0; a mid grey has a variance of slope^2 / 4 more.

    Raises:
        ValueError, TypeError: out of range or no numbers.
    """

    floor: float
    slope: float

    def __post_init__(self) -> None:
        positive("floor", self.floor)
        positive("slope", self.slope)

    def variance(self, decoded: Tensor) -> Tensor:
        """v(G) of decoded images."""
        g = decoded.clamp(0, 1)
        return self.floor**2 + self.slope**2 * g * (1 - g)

    def derivative(self, decoded: Tensor) -> Tensor:
        """v'(G)."""
        g = decoded.clamp(0, 1)
        return self.slope**2 * (1 - 2 * g) * (g == decoded)
