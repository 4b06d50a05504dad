"""Priors for pictures of any size, small and with random weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import jpmap_fast as jf
from jpmap_fast.priors.hierarchical_prior import HierarchicalPhotoPrior
from jpmap_fast.priors.photo_network import Residual
from jpmap_fast.priors.photo_prior import PhotoPrior


def small_photo_prior(channels: int = 1) -> PhotoPrior:
    """Of two levels; it changes a picture by some of its noise level."""
    torch.manual_seed(0)
    prior = PhotoPrior(
        channels, widths=(8, 12), encoder_blocks=(1, 1), decoder_blocks=(1, 1)
    ).requires_grad_(False)
    prior.network.tail.weight.normal_(std=0.01)
    return prior.eval()


def small_hierarchical_prior(channels: int = 1) -> HierarchicalPhotoPrior:
    """Of three levels; all its layers do something."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        prior = HierarchicalPhotoPrior(channels, (8, 12, 16), (1, 1, 1), (2, 1, 1), 3)
        for parameter in prior.network.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(std=0.5 / max(1, parameter[0].numel()) ** 0.5)
        prior.log_gamma.data.fill_(-3.0)
    prior.low_precision = False
    return prior.requires_grad_(False).eval()


def deep_photo_prior(channels: int = 1) -> PhotoPrior:
    """Of three levels; all its layers do something."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        prior = PhotoPrior(channels, (8, 12, 16), (1, 1, 1), (1, 1, 1))
        for module in prior.network.modules():
            if isinstance(module, Residual):
                nn.init.normal_(module.second.weight, std=0.1)
        nn.init.normal_(prior.network.tail.weight, std=0.1)
    prior.low_precision = False
    with torch.no_grad():
        prior.log_gamma.fill_(-3.0)
    return prior.requires_grad_(False).eval()


def mixture_parts(components: int = 3, size: int = 9, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Weights and covariances of patches, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    factors = 0.1 * torch.randn(components, size, size, generator=generator, dtype=torch.float64)
    weights = torch.rand(components, generator=generator, dtype=torch.float64) + 0.1
    return weights / weights.sum(), factors @ factors.mT + 1e-3 * torch.eye(size)


def small_patch_prior(
    channels: int = 1, best: bool = False, mean_free: bool = True
) -> jf.PatchPrior:
    """Of three Gaussians of patches of 3 x 3 pixels."""
    weights, covariances = mixture_parts(size=9 * channels)
    mixture = jf.PatchMixture.of(weights, covariances, (channels, 3, 3), best)
    return jf.PatchPrior(mixture, mean_free).requires_grad_(False).eval()


def small_patch_network(channels: int = 1) -> jf.MLPVAE:
    """Of patches of 8 x 8 pixels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return jf.MLPVAE((channels, 8, 8), 4, (16,)).requires_grad_(False).eval()
