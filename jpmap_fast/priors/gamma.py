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
        self._gamma: tuple[int, float] | None = None

    @property
    def gamma(self) -> float:
        """Standard deviation of p(x|z)."""
        if self.training:
            return math.exp(float(self.log_gamma.detach()))
        # Reading a GPU parameter waits for the device: in evaluation mode it is read once.
        version = self.log_gamma._version
        if self._gamma is None or self._gamma[0] != version:
            self._gamma = (version, math.exp(float(self.log_gamma.detach())))
        return self._gamma[1]

    def train(self, mode: bool = True) -> Any:
        """Switch to training mode, or out of it; see ``torch.nn.Module.train``."""
        # A CUDA graph changes parameters without counting their versions.
        self._gamma = None
        return super().train(mode)
