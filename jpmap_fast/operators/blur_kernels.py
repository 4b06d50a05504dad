"""Usual blur kernels, float32 [kh, kw], non-negative, of sum 1."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from jpmap_fast._validate import count, positive

# How finely a motion kernel's pixels are sampled along the line, per pixel.
_SAMPLES = 32


def gaussian_kernel(sigma: float, size: int | None = None) -> Tensor:
    """exp(-(i^2 + j^2) / (2 sigma^2)) over its sum, float32 [size, size].

    Args:
        sigma: standard deviation in pixels, > 0.
        size: side; None for 2 ceil(3 sigma) + 1, which leaves out less than 0.3%.

    Raises:
        ValueError: sigma <= 0 or size < 1. TypeError: not numbers.

    Example:
        >>> import jpmap_fast as jf
        >>> jf.gaussian_kernel(1.5).shape
        torch.Size([11, 11])
    """
    positive("sigma", sigma)
    if size is None:
        size = 2 * math.ceil(3 * sigma) + 1
    count("size", size, 1)
    offset = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    # Measured from the nearest pixel: far from it every weight of a narrow one would underflow.
    profile = torch.exp(-(offset.square() - offset.square().min()) / (2 * sigma**2))
    profile = profile / profile.sum()
    return torch.outer(profile, profile).float()


def box_kernel(size: int) -> Tensor:
    """The mean of size x size pixels, float32 [size, size].

    Raises:
        ValueError: size < 1. TypeError: not an integer.
    """
    count("size", size, 1)
    return torch.full((size, size), 1 / size**2)


def motion_kernel(length: float, angle: float, size: int | None = None) -> Tensor:
    """A straight line through the centre, antialiased: each sample is spread over four pixels.

    Args:
        length: of the line in pixels, > 0.
        angle: in degrees, counter-clockwise from the x axis of the image (rows count downwards).
        size: side; None for the least odd one that holds the line at any angle.

    Returns:
        float32 [size, size], sum 1.

    Raises:
        ValueError: length <= 0, size too small for the line. TypeError: not numbers.
    """
    positive("length", length)
    if isinstance(angle, bool) or not isinstance(angle, (int, float)) or not math.isfinite(angle):
        raise ValueError(f"angle: expected a finite number of degrees, got {angle!r}")
    if size is None:
        size = 2 * math.ceil((length - 1) / 2) + 1 if length > 1 else 1
    count("size", size, 1)
    reach = max(0.0, (length - 1) / 2)  # a line of one pixel's length is the pixel
    samples = max(1, math.ceil(length * _SAMPLES))
    along = torch.linspace(-reach, reach, samples, dtype=torch.float64) if samples > 1 else None
    along = torch.zeros(1, dtype=torch.float64) if along is None else along
    radians = math.radians(angle)
    centre = size // 2
    column = centre + along * math.cos(radians)
    row = centre - along * math.sin(radians)
    if float(torch.stack((row, column)).min()) < -1e-9 or (
        float(torch.stack((row, column)).max()) > size - 1 + 1e-9
    ):
        raise ValueError(
            f"size: expected at least {2 * math.ceil(reach) + 1} for a line of length {length}, "
            f"got {size}"
        )
    pixel = torch.arange(size, dtype=torch.float64)
    # Bilinear weights of each sample, [samples, size] by rows and by columns.
    by_row = (1 - (row[:, None] - pixel).abs()).clamp_min(0)
    by_column = (1 - (column[:, None] - pixel).abs()).clamp_min(0)
    kernel = by_row.T @ by_column
    return (kernel / kernel.sum()).float()
