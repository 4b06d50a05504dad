"""A prior for pictures of any size, small and with random weights."""

from __future__ import annotations

import torch

from jpmap_fast.priors.photo_prior import PhotoPrior


def small_photo_prior(channels: int = 1) -> PhotoPrior:
    """Of two levels; it changes a picture by some of its noise level."""
    torch.manual_seed(0)
    prior = PhotoPrior(
        channels, widths=(8, 12), encoder_blocks=(1, 1), decoder_blocks=(1, 1)
    ).requires_grad_(False)
    prior.network.tail.weight.normal_(std=0.01)
    return prior.eval()
