"""A convolutional network on pictures larger than its features fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor


def in_tiles(
    network: Callable[[Tensor], Tensor], x: Tensor, *, reach: int, stride: int, pixels: int
) -> Tensor:
    """What ``network(x)`` is, computed on parts of about ``pixels`` pixels a picture.

    Every part is cut with a halo of ``reach`` pixels, on a grid of ``stride``, so that each value
    is made of the same numbers as in one pass. Its sums may be rounded in another order: nothing
    but that differs.

    Args:
        network: maps [B, C, H, W] to the same shape; a value depends on no more than ``reach``
            pixels to each side, and its levels are aligned to a grid of ``stride`` pixels.
        x: [B, C, H, W].
        reach, stride: of the network.
        pixels: of a part of one picture, its halo included.
    """
    height, width = x.shape[-2:]
    if height * width <= pixels:
        return network(x)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    halo = -(-reach // stride) * stride
    side = max(stride, (int(pixels**0.5) - 2 * halo) // stride * stride)
    for top, bottom, above, below in _spans(height, side, halo):
        for left, right, before, after in _spans(width, side, halo):
            part = network(x[..., above:below, before:after])
            rows, columns = slice(top - above, bottom - above), slice(left - before, right - before)
            out[..., top:bottom, left:right] = part[..., rows, columns]
    return out


def _spans(length: int, side: int, halo: int) -> Iterator[tuple[int, int, int, int]]:
    """Parts of an axis: begin and end, without the halo and with it."""
    for begin in range(0, length, side):
        end = min(length, begin + side)
        yield begin, end, max(0, begin - halo), min(length, end + halo)
