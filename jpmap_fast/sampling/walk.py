"""Langevin steps of many chains, on a GPU recorded once and replayed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from jpmap_fast._capture import Recorded
from jpmap_fast.kernels.code_products import times
from jpmap_fast.sampling.model import Model

# Acceptance that is best in many dimensions.
ACCEPTED = 0.574


class Walk:
    """Chains of a batch, and how large their next steps are; see ``MALA``.

    A step is some hundred small operations: recorded as a CUDA graph it takes their time on the
    GPU, not that of their launches.

    Args:
        model: of a batch.
        z: where the chains begin [B, C, k], float64.
        scale: L of each [B, C, k, k].

    Attributes:
        z: where they are, written anew by every step.
    """

    def __init__(self, model: Model, z: Tensor, scale: Tensor) -> None:
        self._model, self._scale = model, scale
        k = z.shape[-1]
        value, gradient = model.log_joint_gradient(z)
        begin = (z, value, gradient, torch.full_like(value, 1.65 * k ** (-1 / 6)))
        self.z, self._value, self._gradient, self._step = (one.clone() for one in begin)
        self._state = (self.z, self._value, self._gradient, self._step)
        self._noise, self._log_u = torch.zeros_like(z), torch.zeros_like(value)
        self._root = z.new_ones(())
        self._recorded: Recorded[None] | None = None
        if z.device.type == "cuda" and model.stays_on_device:
            self._recorded = Recorded(z.device, self._moved)
            self._put(begin)  # recording moved them

    def move(self, noise: Tensor, log_u: Tensor, number: int | None) -> None:
        """One step of all chains.

        Args:
            noise: standard normal [B, C, k].
            log_u: logarithms of uniform numbers [B, C].
            number: of the step, from 1, where acceptance sets the size of the next one; None where
                it stays as it is.
        """
        self._noise.copy_(noise)
        self._log_u.copy_(log_u)
        self._root.fill_(math.inf if number is None else math.sqrt(number))
        if self._recorded is None:
            self._moved()
        else:
            self._recorded()

    def _moved(self) -> None:
        z, value, gradient, step = self._state
        scale, noise, size = self._scale, self._noise, step[..., None]
        pull = times(scale.mT, gradient)
        z_new = z + size * times(scale, 0.5 * size * pull + noise)
        z_new = z_new.to(self._model.problem.y.dtype).double()
        value_new, gradient_new = self._model.log_joint_gradient(z_new)
        back = noise + 0.5 * size * (pull + times(scale.mT, gradient_new))
        ratio = value_new - value - 0.5 * (back.square() - noise.square()).sum(dim=-1)
        accept = self._log_u < ratio
        rate = ratio.exp().clamp_max(1).nan_to_num(0)
        self._put(
            (
                torch.where(accept[..., None], z_new, z),
                torch.where(accept, value_new, value),
                torch.where(accept[..., None], gradient_new, gradient),
                step * ((rate - ACCEPTED) / self._root).exp(),
            )
        )

    def _put(self, state: tuple[Tensor, ...]) -> None:
        for kept, new in zip(self._state, state, strict=True):
            kept.copy_(new)
