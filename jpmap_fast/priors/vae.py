"""What the networks share: gamma as a parameter, and checks of what they are given."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

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
        self._gamma: tuple[nn.Parameter, tuple[int, int], float] | None = None

    @property
    def gamma(self) -> float:
        """Standard deviation of p(x|z)."""
        if self.training:
            return math.exp(float(self.log_gamma.detach()))
        # Reading a GPU parameter waits for the device: in evaluation mode it is read once.
        held = self.log_gamma
        # Weights loaded in inference mode count no versions: nobody can change them either.
        # Whoever gives a parameter other memory (vector_to_parameters) counts none either.
        state = held.data_ptr(), 0 if held.is_inference() else held._version
        kept = self._gamma
        if kept is None or kept[0] is not held or kept[1] != state:
            kept = self._gamma = (held, state, math.exp(float(held.detach())))
        return kept[2]

    def train(self, mode: bool = True) -> Any:
        """Switch to training mode, or out of it; see ``torch.nn.Module.train``."""
        # A CUDA graph changes parameters without counting their versions.
        self._gamma = None
        return super().train(mode)

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
