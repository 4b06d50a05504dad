"""Patches of pictures at places drawn at random."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def random_patches(
    pictures: Sequence[Tensor], size: int, number: int, generator: torch.Generator
) -> Tensor:
    """About as many of each picture, in random order, half of them mirrored, half turned.

    Args:
        pictures: uint8 [C, H, W] each, of one C; those smaller than a patch are left out.
        size: p, of patches [C, p, p].
        number: of patches, >= 1. A picture with fewer places than its share gives all.
        generator: on the CPU.

    Returns:
        [number or fewer, C p p], float32 in [0, 1].

    Raises:
        ValueError: no picture is as large as a patch.
    """
    large = [picture for picture in pictures if min(picture.shape[1:]) >= size]
    if not large:
        raise ValueError(f"pictures: expected some of at least {size} x {size} pixels, got none")
    each = -(-number // len(large))
    parts = []
    for picture in large:
        places = (picture.shape[1] - size + 1) * (picture.shape[2] - size + 1)
        chosen = torch.randperm(places, generator=generator)[:each]
        # A copy of the chosen ones alone: all patches of a picture are 64 times its size.
        windows = picture.unfold(1, size, 1).unfold(2, size, 1).movedim(0, 2)  # [h, w, C, p, p]
        wide = windows.shape[1]
        parts.append(windows[chosen // wide, chosen % wide])
    patches = torch.cat(parts)
    patches = patches[torch.randperm(len(patches), generator=generator)[:number]]
    for turned in (patches.flip(-1), patches.mT):
        half = torch.rand(len(patches), generator=generator) < 0.5
        patches = torch.where(half[:, None, None, None], turned, patches)
    return patches.flatten(1).float() / 255
