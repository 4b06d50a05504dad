"""What the networks share: gamma as a parameter, and checks of what they are given."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from jpmap_fast._made_of_weights import made_of_weights
from jpmap_fast._validate import SCALE_HINT
from jpmap_fast.residuals import Residual


class VAE(nn.Module):
    """A network with ``log_gamma``, read as ``gamma``.

    Attributes:
        residuals: models of x - G(z) that it carries beside the white one, by name.
    """

    image_shape: tuple[int, int, int]
    latent_dim: int
    # `starts` and `n2` of JPMAP and MAPz for this prior where the caller says nothing.
    restoration: dict[str, int]
    # Whether Jacobians on a GPU may be bfloat16.
    low_precision: bool = True

    def __init__(self) -> None:
        super().__init__()
        self.log_gamma = nn.Parameter(torch.zeros(()))
        self.restoration = {}
        self.residuals: dict[str, Residual] = {}

    @property
    def gamma(self) -> float:
        """Standard deviation of p(x|z)."""
        held = self.log_gamma

        def read() -> float:
            return math.exp(float(held.detach()))

        # To read a GPU's waits for it: where all weights are looked at its number comes with them.
        gamma: float = made_of_weights(self, "gamma").get([held], read)
        return gamma

    def _check_images(self, x: Tensor) -> None:
        """Raise TypeError or ValueError unless x is [B, C, H, W], floating point."""
        if not x.is_floating_point():
            raise TypeError(f"x: expected floating-point images, got {x.dtype}; {SCALE_HINT}")
        if x.dim() != 4 or tuple(x.shape[1:]) != self.image_shape:
            expected = ", ".join(map(str, ("B", *self.image_shape)))
            raise ValueError(f"x: expected shape [{expected}], got {list(x.shape)}")

    def _check_codes(self, z: Tensor) -> None:
        """Raise ValueError unless z is [B, k]."""
        if z.dim() != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"z: expected shape [B, {self.latent_dim}], got {list(z.shape)}")
