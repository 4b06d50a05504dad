"""Usual blur kernels, float32 [kh, kw], of sum 1."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from jpmap_fast._surroundings import steady
from jpmap_fast._validate import count, number, positive

# How finely a motion kernel's pixels are sampled along the line, per pixel.
_SAMPLES = 32


@steady
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
    sigma = positive("sigma", sigma)
    size = count("size", 2 * math.ceil(3 * sigma) + 1 if size is None else size, 1)
    offset = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    # Measured from the nearest pixel: far from it every weight of a narrow one would underflow.
    profile = torch.exp(-(offset.square() - offset.square().min()) / (2 * sigma**2))
    profile = profile / profile.sum()
    return torch.outer(profile, profile).float()


@steady
def box_kernel(size: int) -> Tensor:
    """The mean of size x size pixels, float32 [size, size].

    Raises:
        ValueError: size < 1. TypeError: not an integer.
    """
    size = count("size", size, 1)
    return torch.full((size, size), 1 / size**2, dtype=torch.float32)


@steady
def bicubic_kernel(factor: int) -> Tensor:
    """The filter of a bicubic reduction by f, laid out for ``SuperResolution(f, kernel)``.

    Pixel i of the small image has its centre at f i + (f - 1) / 2 of the large one, and the
    weights w((p - f i - (f - 1) / 2) / f) on the pixels p within 2 f of it, along rows and columns:

        w(t) = 3/2 |t|^3 - 5/2 |t|^2 + 1 for |t| <= 1,
               -1/2 |t|^3 + 5/2 |t|^2 - 4 |t| + 2 for 1 < |t| < 2,

    scaled to sum 1. These are Pillow's ``resize(..., BICUBIC)`` and MATLAB's ``imresize``; torch's
    ``interpolate`` only with ``antialias=True``. Some weights are negative.

    Args:
        factor: f >= 1.

    Returns:
        float32 [s, s] whose entry (s // 2, s // 2) lies on pixel f i: the weights are off its
        centre by (f - 1) / 2 pixels.

    Raises:
        ValueError: factor < 1. TypeError: not an integer.

    Source: R. Keys, "Cubic convolution interpolation for digital image processing", IEEE Trans.
    Acoustics, Speech and Signal Processing 29, 1981.
    """
    factor = count("factor", factor, 1)
    last = (5 * factor - 1) // 2  # of the pixels from f i on that may have a weight
    offset = torch.arange(last, -last - 1, -1, dtype=torch.float64)  # a kernel is turned round
    t = ((offset - (factor - 1) / 2) / factor).abs()
    near = 1.5 * t**3 - 2.5 * t**2 + 1
    far = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    profile = torch.where(t <= 1, near, torch.where(t < 2, far, 0))
    profile = profile / profile.sum()
    return torch.outer(profile, profile).float()


@steady
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
    length, angle = positive("length", length), number("angle", angle)
    if size is None:
        size = 2 * math.ceil((length - 1) / 2) + 1 if length > 1 else 1
    size = count("size", size, 1)
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
