"""Priors for pictures of any size, small and with random weights."""

from __future__ import annotations

import torch

from jpmap_fast.priors.hierarchical_prior import HierarchicalPhotoPrior
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
