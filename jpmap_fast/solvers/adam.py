"""Adam for the latent code, with moments, step count and stopping test per image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jpmap_fast._validate import count, positive
from jpmap_fast._working_set import WorkingSet
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
        steps = torch.zeros(batch, dtype=torch.int64, device=z.device)
        last = torch.zeros(batch, dtype=torch.float64, device=z.device)
        converged = torch.zeros(batch, dtype=torch.bool, device=z.device)
        factor = z.new_ones(batch) if scale is None else scale.to(z.dtype)
        active = torch.ones_like(converged)
        first, second = torch.zeros_like(z), torch.zeros_like(z)
        # Finished images are frozen at their own step until the device is asked.
        working = WorkingSet(batch, z.device, every=50)
        for step in range(self.max_steps + 1 if batch else 0):
            f, gradient = objective.gradient(z)
            last = torch.where(active, f, last)
            gradient = gradient * factor[:, None]
            small = torch.linalg.vector_norm(gradient, dim=-1) / k < self.tolerance
            converged = converged | (active & small)
            active = active & ~(small | ~torch.isfinite(f))
            if step == self.max_steps:
                break
            if working.due(step) and working.finish(active, z, last, steps, converged):
                objective = working.select(objective)
                z, last, steps, converged, active, factor, gradient, first, second = map(
                    working.select,
                    (z, last, steps, converged, active, factor, gradient, first, second),
                )
            if not working.left:
                break
            first.lerp_(gradient, 1 - self.betas[0])
            second.lerp_(gradient.square(), 1 - self.betas[1])
            corrected = first / (1 - self.betas[0] ** (step + 1))
            root = (second / (1 - self.betas[1] ** (step + 1))).sqrt() + self.epsilon
            z = torch.where(active[:, None], z - self.learning_rate * corrected / root, z)
            steps = steps + active
        z, last, steps, converged = working.results(z, last, steps, converged)
        return LatentSolution(z, last, steps, converged)
