"""Pareto-smoothed importance sampling."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def effective(log_weights: Tensor) -> Tensor:
    """1 / sum w^2 [B] of normalised weights w = exp(log_weights) / sum, [B, S]."""
    return 1 / torch.softmax(log_weights, dim=1).square().sum(dim=1)


def tail_size(size: int) -> int:
    """How many of S weights are smoothed, min(S / 5, 3 sqrt(S))."""
    return int(min(0.2 * size, 3 * math.sqrt(size)))


def largest_shape(size: Tensor, limit: float = 0.7) -> Tensor:
    """The k-hat up to which S draws do [B], min(limit, 1 - 1 / log10 S), of numbers S [B]."""
    return (1 - 1 / size.clamp_min(11).double().log10()).clamp_max(limit)


def smoothed(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    r"""Weights whose largest are replaced by quantiles of the Pareto law that fits them.

    Args:
        log_weights: [B, S], S >= 25.

    Returns:
        Smoothed log weights [B, S], the largest raw one being 0, and the shape k-hat of the law
        [B]; the weights are as they were where the tail has no spread.

    Source: A. Vehtari et al., "Pareto smoothed importance sampling", JMLR 25, 2024; the fit of
    J. Zhang, M. Stephens, Technometrics 51, 2009.
    """
    n = tail_size(log_weights.shape[1])
    log_weights = log_weights - log_weights.amax(dim=1, keepdim=True)
    ordered, order = log_weights.sort(dim=1, stable=True)
    cut = ordered[:, -n - 1, None].exp()
    excess = (ordered[:, -n:].exp() - cut).clamp_min(1e-300)  # ascending
    shape, scale = _fitted(excess)
    place = (torch.arange(n, dtype=excess.dtype, device=excess.device) + 0.5) / n
    quantile = torch.expm1(-shape[:, None] * torch.log1p(-place)) / shape[:, None]
    tail = (cut + scale[:, None] * quantile).log().clamp_max(0)
    good = torch.isfinite(shape) & torch.isfinite(tail).all(dim=1) & (excess[:, -1] > 1e-290)
    tail = torch.where(good[:, None], tail, ordered[:, -n:])
    found = torch.cat((ordered[:, :-n], tail), dim=1)
    # A tail without spread is a bounded one.
    flat = excess[:, -1] <= 1e-12
    shape = torch.where(torch.isfinite(shape), shape, torch.where(flat, -torch.inf, torch.inf))
    return torch.zeros_like(found).scatter(1, order, found), shape


def _fitted(excess: Tensor) -> tuple[Tensor, Tensor]:
    """Shape and scale [B] of the generalised Pareto law of ascending excesses [B, n]."""
    n = excess.shape[1]
    number = 30 + int(math.sqrt(n))
    i = torch.arange(1, number + 1, dtype=excess.dtype, device=excess.device)
    quartile = excess[:, int(n / 4 + 0.5) - 1, None]
    b = (1 - (number / (i - 0.5)).sqrt()) / (3 * quartile) + 1 / excess[:, -1:]
    k = torch.log1p(-b[:, :, None] * excess[:, None]).mean(dim=-1)
    likelihood = n * ((-b / k).log() - k - 1)
    b = (b * torch.softmax(likelihood, dim=1)).sum(dim=1)
    k = torch.log1p(-b[:, None] * excess).mean(dim=1)
    # Towards 1/2, as ten more excesses would pull it.
    return k * n / (n + 10) + 5 / (n + 10), -k / b
