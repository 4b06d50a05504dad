"""Plain-torch twins of the compiled operators for weighted draws, for what no kernel takes.

Sums of whole tensors, one after the other: an image has the same bits alone and in any batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from jpmap_fast.kernels.code_products import log_sum, times, weighted_gram, weighted_sum


def weighted_moments(
    values: Tensor,  # [B, N, n]
    weights: Tensor,  # [B, N]
) -> Tensor:
    """``kernels.moments.weighted_moments``."""
    counted = values.double().masked_fill((weights == 0)[..., None], 0)
    return torch.stack([weighted_sum(weights, v) for v in (counted, counted.square())], dim=1)


def student_mixture(
    z: Tensor,  # [B, N, k]
    log_weight: Tensor,  # [B, C]
    mean: Tensor,  # [B, C, k]
    scale: Tensor,  # [B, C, k, k]
    degrees: float,
    defensive: float,
) -> Tensor:
    """``kernels.mixtures.student_mixture``."""
    parts, _ = _student_parts(z, log_weight, mean, scale, degrees)
    total = _log_total(parts)
    if not defensive:
        return total
    k = z.shape[-1]
    prior = -0.5 * z.square().sum(dim=-1) + math.log(defensive) - 0.5 * k * math.log(2 * math.pi)
    return log_sum(total + math.log1p(-defensive), prior)


def student_mixture_sums(
    z: Tensor,  # [B, N, k]
    weights: Tensor,  # [B, N]
    log_weight: Tensor,  # [B, C]
    mean: Tensor,  # [B, C, k]
    scale: Tensor,  # [B, C, k, k]
    degrees: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``kernels.mixtures.student_mixture_sums``."""
    parts, distances = _student_parts(z, log_weight, mean, scale, degrees)
    total = _log_total(parts)
    columns = []
    for c, (part, q) in enumerate(zip(parts, distances, strict=True)):
        own = weights * (part - total).exp()
        robust = own * (degrees + z.shape[-1]) / (degrees + q)
        steps = z - mean[:, c, None]
        found = (
            own.sum(dim=1),
            own.square().sum(dim=1),
            robust.sum(dim=1),
            weighted_sum(robust, steps),
            weighted_gram(robust, steps),
        )
        columns.append(found)
    sums = [torch.stack(column, dim=1) for column in zip(*columns, strict=True)]
    return sums[0], sums[1], sums[2], sums[3], sums[4]


def _student_parts(
    z: Tensor, log_weight: Tensor, mean: Tensor, scale: Tensor, degrees: float
) -> tuple[list[Tensor], list[Tensor]]:
    """Log of w_c t_c(z) and the squared distances [B, N] of each component.

    0 for the distances to a component of weight 0: an image with many modes leaves many such to the
    others.
    """
    k = z.shape[-1]
    constant = math.lgamma((degrees + k) / 2) - math.lgamma(degrees / 2)
    constant -= 0.5 * k * math.log(degrees * math.pi)
    size = scale.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
    eye = torch.eye(k, dtype=z.dtype, device=z.device)
    parts, distances = [], []
    for c, used in enumerate((log_weight > -torch.inf).unbind(dim=1)):
        rows = used.nonzero()[:, 0]
        inverse = torch.linalg.solve_triangular(scale[rows, c], eye, upper=False)
        own = times(inverse[:, None], z[rows] - mean[rows, c, None]).square().sum(dim=-1)
        q = torch.zeros_like(z[..., 0]).index_copy(0, rows, own)
        height = torch.where(used, constant - size[:, c] + log_weight[:, c], -torch.inf)
        parts.append(height[:, None] - 0.5 * (degrees + k) * torch.log1p(q / degrees))
        distances.append(q)
    return parts, distances


def _log_total(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = log_sum(total, part)
    return total
