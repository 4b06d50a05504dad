"""Adam for the latent code, with moments, step count and stopping test per image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jpmap_fast._validate import count, positive
from jpmap_fast.objective import LatentObjective
from jpmap_fast.solvers.base import LatentSolution


@dataclass(frozen=True)
class Adam:
    r"""The z-step of the original JPMAP code: Adam on c f(z).

    The factor c is 1 / beta where f carries a coupling weight beta, which makes the descent one on
    1/2 ||x - G(z)||^2 + ||z||^2 / (2 beta), and 2 sigma^2 for the latent objective, which makes it
    one on ||A G(z) - y||^2 + sigma^2 ||z||^2, as in CSGM. An image has converged when
    ||c grad f(z)||_2 / k < ``tolerance``.

    Adam does not descend at every step; the point returned is the last one, as published.

    Args:
        learning_rate: step size in units of z, > 0.
        tolerance: on the scaled gradient norm over k, > 0.
        max_steps: >= 1.
        betas: decay of the first and second moment, each in [0, 1).
        epsilon: added to the root of the second moment, > 0.

    Raises:
        ValueError: a setting is outside its range.

    Source: D. Kingma, J. Ba, "Adam", ICLR 2015; settings of arXiv 2103.01648.
    """

    learning_rate: float = 0.01
    tolerance: float = 1e-4
    max_steps: int = 3000
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        for name in ("learning_rate", "tolerance", "epsilon"):
            positive(f"Adam: {name}", getattr(self, name))
        count("Adam: max_steps", self.max_steps, 1)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"Adam: expected betas in [0, 1), got {self.betas!r}")

    @torch.no_grad()
    def minimise(
        self, objective: LatentObjective, z: Tensor, scale: Tensor | None = None
    ) -> LatentSolution:
        """Descend from z [B, k] on ``scale`` [B] times the objective (1 if None)."""
        batch, k = z.shape
        final_z = z.clone()
        final_f = torch.zeros(batch, dtype=torch.float64, device=z.device)
        steps = torch.zeros(batch, dtype=torch.int64, device=z.device)
        converged = torch.zeros(batch, dtype=torch.bool, device=z.device)
        if batch == 0:
            return LatentSolution(final_z, final_f, steps, converged)
        factor = z.new_ones(batch) if scale is None else scale.to(z.dtype)

        index = torch.arange(batch, device=z.device)
        active = torch.ones(batch, dtype=torch.bool, device=z.device)
        first, second = torch.zeros_like(z), torch.zeros_like(z)
        last = torch.zeros_like(final_f)
        count = torch.zeros_like(index)
        # Looking at `active` from Python waits for the device: look rarely there, and freeze
        # finished images at their own step meanwhile, so that the result does not depend on it.
        interval = 1 if z.device.type == "cpu" else 50
        for step in range(self.max_steps + 1):
            f, gradient = objective.gradient(z)
            last = torch.where(active, f, last)
            gradient = gradient * factor[:, None]
            small = torch.linalg.vector_norm(gradient, dim=-1) / k < self.tolerance
            finished = small | ~torch.isfinite(f)
            converged[index] |= active & small
            active = active & ~finished
            if step % interval == 0 or step == self.max_steps:
                stop = torch.ones_like(active) if step == self.max_steps else ~active
                if bool(stop.any()):
                    left = index[stop]
                    final_z[left], final_f[left], steps[left] = z[stop], last[stop], count[stop]
                    keep = (~stop).nonzero()[:, 0]
                    if keep.numel() == 0:
                        break
                    objective = objective.select(keep)
                    index, active, z, last = index[keep], active[keep], z[keep], last[keep]
                    first, second = first[keep], second[keep]
                    gradient, factor, count = gradient[keep], factor[keep], count[keep]
            first.lerp_(gradient, 1 - self.betas[0])
            second.lerp_(gradient.square(), 1 - self.betas[1])
            corrected = first / (1 - self.betas[0] ** (step + 1))
            root = (second / (1 - self.betas[1] ** (step + 1))).sqrt() + self.epsilon
            z = torch.where(active[:, None], z - self.learning_rate * corrected / root, z)
            count = count + active
        return LatentSolution(final_z, final_f, steps, converged)
