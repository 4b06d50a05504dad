"""Overlapping patches of pictures: each estimated, all averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F


def extract_patches(images: Tensor, size: int) -> Tensor:
    """All patches of ``size`` x ``size`` pixels, in columns.

    Args:
        images: [B, C, H, W].
        size: p.

    Returns:
        [B, C p p, (H - p + 1)(W - p + 1)].
    """
    return F.unfold(images, size)


def average_of_patches(
    estimate: Callable[[Tensor], Tensor], x: Tensor, size: int, patches: int
) -> Tensor:
    """The mean at every pixel of the estimates of all patches over it, [B, C, H, W].

    Pictures are continued by p - 1 pixels to each side, so that each of their own pixels is in p^2
    patches: mirrored, or, where a side is shorter than p, with their last pixel.

    Args:
        estimate: of patches [B, C p p, N], for any N.
        x: [B, C, H, W], from 1 x 1.
        size: p >= 1.
        patches: about so many of each picture at a time.
    """
    margin = size - 1
    for axis, length in ((0, x.shape[-1]), (1, x.shape[-2])):
        sides = [0, 0, margin, margin] if axis else [margin, margin, 0, 0]
        x = F.pad(x, sides, mode="reflect" if length >= size else "replicate")
    total = torch.zeros_like(x)
    height, width = (length - margin for length in x.shape[-2:])
    columns = min(width, patches)
    for top, bottom in _spans(height, max(1, patches // columns)):
        for left, right in _spans(width, columns):
            place = (..., slice(top, bottom + margin), slice(left, right + margin))
            band = x[place]
            found = estimate(extract_patches(band, size))
            total[place] += F.fold(found, band.shape[-2:], size)
    return total[..., margin:height, margin:width] / size**2


def _spans(length: int, step: int) -> Iterator[tuple[int, int]]:
    return ((begin, min(length, begin + step)) for begin in range(0, length, step))
