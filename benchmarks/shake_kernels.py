"""Blur kernels of a hand that shakes, as in Levin et al. 2009: eight of them, drawn from seeds."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SIZES = (13, 15, 17, 19, 21, 23, 25, 27)


def shake_kernels() -> list[Tensor]:
    """Eight kernels [s, s] of sum 1, s from 13 to 27."""
    return [shake_kernel(size, seed) for seed, size in enumerate(SIZES)]


def shake_kernel(size: int, seed: int, samples: int = 4000) -> Tensor:
    """A smooth random path of a point, spread over pixels and slightly blurred by the lens.

    The velocity follows an Ornstein-Uhlenbeck process, so that the hand turns and lingers; the path
    is scaled to fill the kernel but for a margin of one pixel, and lies about its centre of mass.
    """
    random = np.random.default_rng(seed)
    velocity, path = random.standard_normal(2), np.zeros((samples, 2))
    for step in range(1, samples):
        velocity += -4 * velocity / samples + 4 * random.standard_normal(2) / samples**0.5
        path[step] = path[step - 1] + velocity / samples
    path -= path.min(axis=0)
    path *= (size - 3) / path.max()
    path += (size - 1) / 2 - path.mean(axis=0)
    path = path.clip(0, size - 1.001)
    kernel = np.zeros((size, size))
    low = path.astype(int)
    part = path - low
    for i, row in ((0, 1 - part[:, 0]), (1, part[:, 0])):
        for j, column in ((0, 1 - part[:, 1]), (1, part[:, 1])):
            np.add.at(kernel, (low[:, 0] + i, low[:, 1] + j), row * column)
    lens = np.exp(-(np.arange(-2, 3) ** 2) / (2 * 0.5**2))
    for axis in (0, 1):
        kernel = np.apply_along_axis(np.convolve, axis, kernel, lens, "same")
    return torch.from_numpy(kernel / kernel.sum()).float()
