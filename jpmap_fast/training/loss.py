"""The training objective of a VAE with a learned observation noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from jpmap_fast.priors.weights import Network


def negative_elbo(
    prior: Network,
    clean: Tensor,
    corruption: Tensor,
    noise: Tensor,
    sigma_dvae: float,
    closed_form: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Negative evidence lower bound with the denoising criterion, mean over the batch.

        nll = n/2 log(2 pi gamma^2) + ||x - G(z)||^2 / (2 gamma^2)
        kl  = 1/2 sum (mean^2 + std^2 - 1) - sum log_std
        z   = mean + std noise,   (mean, log_std) = encoder(x + sigma_dvae corruption)

    The encoder sees a noisy image and the decoder aims at the clean one, so that the encoder is of
    use away from the images the prior can draw.

    Args:
        prior: being trained.
        clean: images x [B, C, H, W] in [0, 1].
        corruption: standard normal [B, C, H, W].
        noise: standard normal [B, k].
        sigma_dvae: standard deviation of the encoder's input noise, in [0, 1] units.
        closed_form: take the gamma that minimises nll on this batch, gamma^2 = mse, not the
            prior's own.

    Returns:
        nll, kl and mse = ||x - G(z)||^2 / n, each a scalar.

    Source: D. Im, S. Ahn, R. Memisevic, Y. Bengio, "Denoising criterion for variational
    auto-encoding framework", AAAI 2017; arXiv 2103.01648; O. Rybkin, K. Daniilidis, S. Levine,
    "Simple and effective VAE training with calibrated decoders", ICML 2021 (closed form).
    """
    mean, log_std = prior.encode(clean + sigma_dvae * corruption)
    decoded = prior.decode(mean + log_std.exp() * noise)
    pixels = clean[0].numel()
    mse = (clean - decoded).flatten(1).square().mean()
    log_gamma = 0.5 * mse.log() if closed_form else prior.log_gamma
    nll = pixels * (0.5 * math.log(2 * math.pi) + log_gamma)
    nll = nll + 0.5 * pixels * mse * torch.exp(-2 * log_gamma)
    divergence = 0.5 * (mean.square() + (2 * log_std).exp() - 1) - log_std
    return nll, divergence.sum(dim=1).mean(), mse
