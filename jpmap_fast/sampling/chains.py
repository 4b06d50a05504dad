"""Whether Markov chains agree, and how many independent draws they are worth."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def r_hat_and_ess(chains: Tensor) -> tuple[Tensor, Tensor]:
    """The largest rank-normalised split R-hat and the least bulk ESS over the coordinates, [B].

    R-hat is that of the draws and of their distances from the median, the greater of the two.

    Args:
        chains: [B, C, T, D], T >= 8.

    Source: A. Vehtari et al., "Rank-normalization, folding, and localization", Bayesian Analysis
    16, 2021.
    """
    batch, number, length, width = chains.shape
    half = length // 2
    x = chains[:, :, : 2 * half].permute(0, 3, 1, 2).double()
    x = x.reshape(batch, width, 2 * number, half)
    middle = x.flatten(2).median(dim=-1).values[..., None, None]
    normal = _rank_normal(x)
    r_hat = torch.maximum(_r_hat(normal), _r_hat(_rank_normal((x - middle).abs())))
    return r_hat.amax(dim=1), _effective(normal).amin(dim=1)


def _rank_normal(x: Tensor) -> Tensor:
    flat = x.flatten(2)
    rank = flat.argsort(dim=-1, stable=True).argsort(dim=-1, stable=True).double() + 1
    return torch.special.ndtri((rank - 0.375) / (flat.shape[-1] + 0.25)).reshape(x.shape)


def _r_hat(x: Tensor) -> Tensor:
    length = x.shape[-1]
    within = x.var(dim=-1).mean(dim=-1)
    between = x.mean(dim=-1).var(dim=-1)
    return ((length - 1) / length + between / within.clamp_min(1e-12)).sqrt()


def _effective(x: Tensor) -> Tensor:
    """Draws by Geyer's initial monotone sequence, of chains [..., C, T]."""
    number, length = x.shape[-2:]
    centred = x - x.mean(dim=-1, keepdim=True)
    size = 1 << (2 * length - 1).bit_length()
    spectrum = torch.fft.rfft(centred, size)
    power = spectrum.real.square() + spectrum.imag.square()
    covariance = torch.fft.irfft(power.to(spectrum.dtype), size)[..., :length] / length
    unbiased = length / (length - 1)
    within = covariance[..., 0].mean(dim=-1) * unbiased
    between = x.mean(dim=-1).var(dim=-1) if number > 1 else torch.zeros_like(within)
    total = (within / unbiased + between).clamp_min(1e-300)
    rho = 1 - (within[..., None] - covariance.mean(dim=-2) * unbiased) / total[..., None]
    rho[..., 0] = 1
    pairs = rho[..., 0 : length - length % 2 : 2] + rho[..., 1:length:2]
    pairs = torch.where((pairs > 0).double().cumprod(dim=-1) > 0, pairs, 0.0)
    time = -1 + 2 * torch.cummin(pairs, dim=-1).values.sum(dim=-1)
    return number * length / time.clamp_min(1 / math.log10(number * length))
