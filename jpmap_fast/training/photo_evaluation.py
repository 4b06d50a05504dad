"""How good a prior for any size is on pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from jpmap_fast.priors.any_size import AnySizePrior


@torch.no_grad()
def denoising_psnr(prior: AnySizePrior, pictures: Sequence[Tensor], s: float) -> float:
    """Mean over pictures of the PSNR of autoencode(x + s n, s) against x, in dB.

    Args:
        prior: judged where it is.
        pictures: uint8 [C, H, W] each.
        s: noise level, in [0, 1] units; the noise of a picture is that of its place in the row.
    """
    device = prior.log_gamma.device
    total = 0.0
    for number, picture in enumerate(pictures):
        x = picture[None].to(device, torch.float32) / 255
        generator = torch.Generator().manual_seed(number)
        noise = torch.randn(x.shape, generator=generator).to(device)
        found = prior.autoencode(x + s * noise, x.new_tensor([s]))
        total -= 10 * math.log10(float((found.clamp(0, 1) - x).square().mean()))
    return total / len(pictures)
