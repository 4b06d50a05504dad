"""The degradations of the paper, drawn once on the CPU and the same on every device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jpmap_fast.data import mnist_test_digits
from jpmap_fast.masks import random_masks
from jpmap_fast.operators import CompressedSensing, Denoising, Inpainting, Operator

MNIST_PROBLEMS = ("denoising", "compressed-sensing", "inpainting")


@dataclass(frozen=True)
class Problem:
    """Images, their degradation and their measurements.

    Attributes:
        name: of the degradation.
        title: the same in words, with its numbers.
        operator: A, on the device of ``y``.
        sigma: standard deviation of the noise, values in [0, 1].
        clean: images [B, C, H, W].
        y: measurements; 0 where nothing was observed, so that J1 has no constant of noise.
    """

    name: str
    title: str
    operator: Operator
    sigma: float
    clean: Tensor
    y: Tensor

    def select(self, index: Tensor) -> Problem:
        """The images ``index`` alone."""
        return Problem(
            self.name,
            self.title,
            self.operator.select(index),
            self.sigma,
            self.clean[index],
            self.y[index],
        )

    def first(self, number: int) -> Problem:
        """The first ``number`` images."""
        return self.select(torch.arange(min(number, len(self.y)), device=self.y.device))

    @property
    def display(self) -> Tensor:
        """Measurements as images: A^T y."""
        return self.operator.A_adjoint(self.y)


def make_problem(
    name: str,
    clean: Tensor,
    generator: torch.Generator,
    device: torch.device,
    *,
    sigma: float | None = None,
    missing: float = 0.8,
    measurements: int = 140,
) -> Problem:
    """One degradation of ``clean`` [B, C, H, W], which is on the CPU as all the draws are.

    Args:
        name: "denoising" (sigma 110/255), "inpainting" or "compressed-sensing" (sigma 10/255).
        generator: of mask, matrix and noise, on the CPU.
        device: where the problem goes.
        sigma: another standard deviation of the noise.
        missing: share of pixels missing, a mask of its own for every image.
        measurements: m, of a Gaussian matrix with variance 1/m that all images share.
    """
    shape = tuple(clean.shape[1:])
    operator: Operator
    if name == "denoising":
        sigma = 110 / 255 if sigma is None else sigma
        operator, what = Denoising(), "Denoising"
    elif name == "inpainting":
        operator = Inpainting(random_masks(len(clean), shape, missing, generator))
        what = f"Inpainting, {missing:.0%} missing"
    elif name == "compressed-sensing":
        operator = CompressedSensing.gaussian(measurements, shape, generator=generator)
        what = f"Compressed sensing, m = {measurements} of {clean[0].numel()}"
    else:
        raise ValueError(f"expected one of {', '.join(MNIST_PROBLEMS)}, got {name!r}")
    sigma = 10 / 255 if sigma is None else sigma
    y = operator.measure(clean, sigma, generator=generator)
    if isinstance(operator, Inpainting):
        y = operator.A(y)
    title = f"{what}, sigma = {sigma * 255:.0f}/255"
    return Problem(name, title, operator.to(device), sigma, clean.to(device), y.to(device))


def digits(number: int) -> Tensor:
    """The first test digits of the package, [number, 1, 28, 28]."""
    return mnist_test_digits(number)[0]
