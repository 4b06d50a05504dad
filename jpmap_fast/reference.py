"""Plain-torch twins of the compiled operators: the same names, arguments and results.

They are what the kernels are tested against (in float64), and read more easily than the kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def x_update_diagonal(
    decoded: Tensor,  # [B, n]
    y: Tensor,  # [B, n]
    weight: Tensor | None,  # [n] or [B, n]
    z: Tensor,  # [B, k]
    beta: Tensor,  # [B]
    sigma: Tensor,  # [B]
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``jpmap_fast.kernels.x_update_diagonal``."""
    w = torch.ones_like(decoded) if weight is None else weight.expand_as(decoded)
    variance = sigma.square()[:, None]
    residual = y - w * decoded
    step = w * residual / (w.square() + beta[:, None] * variance)
    data = (residual.square() / (variance + w.square() / beta[:, None])).sum(dim=1)
    return decoded + step, 0.5 * (data + z.square().sum(dim=1)), step.square().sum(dim=1)


def objective(
    x: Tensor,  # [B, n]
    decoded: Tensor,  # [B, n]
    residual: Tensor,  # [B, m]
    z: Tensor,  # [B, k]
    beta: Tensor,  # [B]
    sigma: Tensor,  # [B]
) -> tuple[Tensor, Tensor]:
    """See ``jpmap_fast.kernels.objective``."""
    gap = (x - decoded).square().sum(dim=1)
    data = residual.square().sum(dim=1) / sigma.square()
    coupling = torch.where(gap == 0, 0.0, beta * gap)
    return 0.5 * (data + coupling + z.square().sum(dim=1)), gap


def conjugate_gradient_step(
    x: Tensor,  # [B, n], changed
    r: Tensor,  # [B, n], changed
    p: Tensor,  # [B, n]
    q: Tensor,  # [B, n]
    rho: Tensor,  # [B]
    active: Tensor,  # [B] bool
) -> Tensor:
    """See ``jpmap_fast.kernels.conjugate_gradient_step``."""
    curvature = (p * q).sum(dim=1)
    moves = active & (curvature > 0) & (rho != 0)
    alpha = torch.where(moves, rho / curvature, 0.0)[:, None]
    x.copy_(torch.where(active[:, None], x + alpha * p, x))
    r.copy_(torch.where(active[:, None], r - alpha * q, r))
    return torch.where(active, r.square().sum(dim=1), rho)


def conjugate_gradient_direction(
    p: Tensor,  # [B, n], changed
    r: Tensor,  # [B, n]
    rho_new: Tensor,  # [B]
    rho: Tensor,  # [B]
    active: Tensor,  # [B] bool
) -> None:
    """See ``jpmap_fast.kernels.conjugate_gradient_direction``."""
    ratio = torch.where(rho == 0, 0.0, rho_new / rho)[:, None]
    p.copy_(torch.where(active[:, None], r + ratio * p, p))
