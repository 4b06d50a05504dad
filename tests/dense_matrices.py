"""Operators as dense matrices, straight from their definitions."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def source_pixel(position: int, size: int, boundary: str) -> int | None:
    """The pixel that stands at ``position`` of a row of ``size``, beyond its ends too."""
    if 0 <= position < size:
        return position
    if boundary == "circular":
        return position % size
    if boundary == "replicate":
        return min(max(position, 0), size - 1)
    if boundary == "reflect":
        return -position if position < 0 else 2 * (size - 1) - position
    return None


def convolution(kernel: Tensor, image_shape: tuple[int, ...], boundary: str = "circular") -> Tensor:
    """sum_ab kernel[a, b] x[i - a + kh // 2, j - b + kw // 2], for kernels [C or 1, kh, kw]."""
    channels, height, width = image_shape
    kh, kw = kernel.shape[-2:]
    index = torch.arange(channels * height * width).reshape(image_shape)
    rows = []
    top, left, out_height, out_width = 0, 0, height, width
    if boundary == "valid":
        top, left = (kh - 1) // 2, (kw - 1) // 2
        out_height, out_width = height - kh + 1, width - kw + 1
    for c in range(channels):
        for i in range(out_height):
            for j in range(out_width):
                row = torch.zeros(index.numel(), dtype=kernel.dtype)
                for a in range(kh):
                    for b in range(kw):
                        u = source_pixel(top + i - a + kh // 2, height, boundary)
                        v = source_pixel(left + j - b + kw // 2, width, boundary)
                        if u is not None and v is not None:
                            row[index[c, u, v]] += kernel[c % kernel.shape[0], a, b]
                rows.append(row)
    return torch.stack(rows)


def decimation(image_shape: tuple[int, ...], factor: int, dtype: torch.dtype) -> Tensor:
    """Every factor-th pixel, from the first on."""
    index = torch.arange(math.prod(image_shape)).reshape(image_shape)
    kept = index[:, ::factor, ::factor].flatten()
    return torch.eye(index.numel(), dtype=dtype)[kept]


def cosine_transform(image_shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The orthonormal DCT-II over all three dimensions."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    for n in image_shape:
        k, i = torch.arange(n)[:, None].double(), torch.arange(n)[None].double()
        one = torch.cos(math.pi * (2 * i + 1) * k / (2 * n)) * math.sqrt(2 / n)
        one[0] /= math.sqrt(2)
        matrix = torch.kron(matrix, one)
    return matrix.to(dtype)
