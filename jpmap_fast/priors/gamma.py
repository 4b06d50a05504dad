"""The standard deviation of p(x|z), as a parameter that networks share."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn


class LearnedGamma(nn.Module):
    """A network with ``log_gamma``, read as ``gamma``."""

    def __init__(self) -> None:
        super().__init__()
        self.log_gamma = nn.Parameter(torch.zeros(()))
        self._gamma: tuple[nn.Parameter, int, float] | None = None

    @property
    def gamma(self) -> float:
        """Standard deviation of p(x|z)."""
        if self.training:
            return math.exp(float(self.log_gamma.detach()))
        # Reading a GPU parameter waits for the device: in evaluation mode it is read once.
        held = self.log_gamma
        # Weights loaded in inference mode count no versions: nobody can change them either.
        version = 0 if held.is_inference() else held._version
        kept = self._gamma
        if kept is None or kept[0] is not held or kept[1] != version:
            kept = self._gamma = (held, version, math.exp(float(held.detach())))
        return kept[2]

    def train(self, mode: bool = True) -> Any:
        """Switch to training mode, or out of it; see ``torch.nn.Module.train``."""
        # A CUDA graph changes parameters without counting their versions.
        self._gamma = None
        return super().train(mode)
