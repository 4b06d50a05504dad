"""How well a prior reproduces images."""

from __future__ import annotations

import torch
from torch import Tensor

from jpmap_fast._metrics import psnr
from jpmap_fast.priors.base import Prior


@torch.no_grad()
def reconstruction_psnr(prior: Prior, images: Tensor, batch_size: int = 2048) -> float:
    """Mean over the images of the PSNR of G(mu_phi(x)) against x, in dB.

    Args:
        prior: to be judged.
        images: [N, C, H, W], uint8 or floating point in [0, 1], on the prior's device.
        batch_size: images at a time.
    """
    total = 0.0
    for batch in images.split(batch_size):
        x = batch.float() / 255 if batch.dtype == torch.uint8 else batch
        total += float(psnr(prior.decode(prior.encode(x)[0]), x).sum())
    return total / len(images)
