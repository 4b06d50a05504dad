"""Small random changes to training images, drawn on their device."""

from __future__ import annotations

import torch
from torch import Tensor


def augment(
    images: Tensor,
    generator: torch.Generator,
    *,
    shift: int = 3,
    gain: float = 0.1,
    offset: float = 0.05,
) -> Tensor:
    """Each image mirrored or not, shifted and with its colours changed a little.

    Args:
        images: [B, C, H, W] in [0, 1].
        generator: on the images' device.
        shift: largest shift in pixels, both ways; what comes in is reflected.
        gain: contrast is multiplied by a number within 1 +- gain, for each channel.
        offset: brightness changes by at most so much, all channels alike.

    Returns:
        Images of the same shape, in [0, 1].
    """
    batch, channels, height, width = images.shape

    def draw(*shape: int) -> Tensor:
        """Uniform in [-1, 1]."""
        return 2 * torch.rand(shape, generator=generator, device=images.device) - 1

    mirrored = draw(batch) < 0
    shifts = (draw(batch, 2) * (shift + 0.5)).round().long().clamp(-shift, shift)
    rows = _reflected(torch.arange(height, device=images.device) + shifts[:, :1], height)
    columns = _reflected(torch.arange(width, device=images.device) + shifts[:, 1:], width)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    index = torch.arange(batch, device=images.device)
    moved = images[index[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    moved = moved.permute(0, 3, 1, 2)
    mean = moved.mean(dim=(2, 3), keepdim=True)
    coloured = mean + (1 + gain * draw(batch, channels, 1, 1)) * (moved - mean)
    return (coloured + offset * draw(batch, 1, 1, 1)).clamp(0, 1)


def _reflected(position: Tensor, size: int) -> Tensor:
    """Positions outside of [0, size) mirrored at the border pixels' far edges."""
    position = torch.where(position < 0, -1 - position, position)
    return torch.where(position >= size, 2 * size - 1 - position, position)
