"""One step of steepest descent, with a length of its own for every image."""

from __future__ import annotations

import torch
from torch import Tensor

from jpmap_fast.objective import LatentObjective

# Part of the decrease that the slope promises which a step must bring, and halvings until one that
# brings nothing is left out.
SUFFICIENT = 1e-4
HALVINGS = 30


def gradient_step(objective: LatentObjective, z: Tensor) -> Tensor:
    r"""One step of descent, to z - s g with the gradient g of f at z [B, k].

    The first s is where the Gauss-Newton model of f is least along g, ||g||^2 / (g^T H g) <= 1 with
    H = I + J^T W J. It is halved until f falls by 1e-4 s ||g||^2; an image where thirty halvings do
    not get there stays where it is.

    Returns:
        The end [B, k].
    """
    f, g = objective.gradient(z)
    square = g.double().square().sum(dim=1)
    bent = (g.double() * objective.gauss_newton_product(z)(g)).sum(dim=1)
    length = torch.where(bent > 0, square / bent, 0.0)
    end, waiting = z, square > 0
    for _ in range(HALVINGS):
        if not bool(waiting.any()):
            break
        trial = z - length.to(z.dtype)[:, None] * g
        falls = waiting & (objective.value(trial) <= f - SUFFICIENT * length * square)
        end = torch.where(falls[:, None], trial, end)
        waiting = waiting & ~falls
        length = length / 2
    return end
