"""Degradations of images, and images with their measurements: what is restored in trials.

The three of the paper (arXiv 2103.01648, section 4) have names, the same in the demo, the
experiments and the benchmarks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jpmap_fast._validate import choice, positive
from jpmap_fast._validate import count as check_count
from jpmap_fast.operators import Inpainting, Operator
from jpmap_fast.operators.registry import named_operator

PAPER = ("denoising", "compressed-sensing", "inpainting")
SIGMA, SIGMA_DENOISING = 10 / 255, 110 / 255


@dataclass(frozen=True)
class Degradation:
    """y = A x + sigma noise.

    Attributes:
        name: of the degradation.
        title: the same in words, with its numbers.
        operator: A.
        sigma: standard deviation > 0 of the noise, for values in [0, 1].

    Raises:
        ValueError, TypeError: sigma is out of range.
    """

    name: str
    title: str
    operator: Operator
    sigma: float

    def __post_init__(self) -> None:
        positive("sigma", self.sigma)

    def measure(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Measurements y of ``clean`` [B, C, H, W], which is where operator and generator are.

        Pixels that nobody observes are 0: noise there would be a constant of J1 and no more.

        Raises:
            ValueError, TypeError: the operator is not for such images.
        """
        y = self.operator.measure(clean, self.sigma, generator=generator)
        if isinstance(self.operator, Inpainting):
            y = torch.where(self.operator.A(torch.ones_like(clean)) != 0, y, 0)
        return y

    def of(
        self,
        clean: Tensor,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Problem:
        """``clean`` [B, C, H, W] measured where it is, and all of it on ``device`` then.

        What is drawn on the CPU is the same whatever the device.
        """
        y = self.measure(clean, generator)
        place = clean.device if device is None else torch.device(device)
        operator = self.operator.to(place)
        return Problem(self.name, self.title, operator, self.sigma, clean.to(place), y.to(place))


@dataclass(frozen=True)
class Problem(Degradation):
    """Images and what a degradation left of them.

    Attributes:
        clean: images [B, C, H, W], on the device of the operator.
        y: measurements [B, ...], 0 where nothing was observed.
    """

    clean: Tensor
    y: Tensor

    def select(self, index: Tensor) -> Problem:
        """The images ``index`` alone."""
        degradation = (self.name, self.title, self.operator.select(index), self.sigma)
        return Problem(*degradation, self.clean[index], self.y[index])

    def first(self, number: int) -> Problem:
        """The first ``number`` images, all where there are no more."""
        return self.select(torch.arange(min(number, len(self.y)), device=self.y.device))

    @property
    def display(self) -> Tensor:
        """Measurements as images: A^T y [B, C, H, W]."""
        return self.operator.A_adjoint(self.y)


def denoising(sigma: float = SIGMA_DENOISING) -> Degradation:
    """A = I."""
    return Degradation("denoising", _title("Denoising", sigma), _built("denoising", {}), sigma)


def inpainting(
    count: int,
    image_shape: Sequence[int],
    generator: torch.Generator | None = None,
    *,
    missing: float = 0.8,
    sigma: float = SIGMA,
) -> Degradation:
    """Pixels are missing at random, other ones of each of ``count`` images (see random_masks)."""
    number = check_count("count", count, 1)
    operator = _built("inpainting", {"missing": missing}, image_shape, generator, number)
    title = _title(f"Inpainting, {missing:.0%} missing", sigma)
    return Degradation("inpainting", title, operator, sigma)


def compressed_sensing(
    image_shape: Sequence[int],
    generator: torch.Generator | None = None,
    *,
    measurements: int = 140,
    sigma: float = SIGMA,
) -> Degradation:
    """A Gaussian matrix with variance 1/m that all images share, m = ``measurements``."""
    options = {"measurements": measurements}
    operator = _built("compressed-sensing", options, image_shape, generator)
    pixels = torch.Size(image_shape).numel()
    title = _title(f"Compressed sensing, m = {measurements} of {pixels}", sigma)
    return Degradation("compressed-sensing", title, operator, sigma)


def degradation(
    name: str,
    count: int,
    image_shape: Sequence[int],
    generator: torch.Generator | None = None,
    *,
    sigma: float | None = None,
    missing: float = 0.8,
    measurements: int = 140,
) -> Degradation:
    """One of the paper's degradations, by its name.

    Args:
        name: "denoising", "compressed-sensing" or "inpainting".
        count: number of images, each with a mask of its own.
        image_shape: (C, H, W).
        generator: of mask or matrix; torch's default generator if None.
        sigma: standard deviation of the noise; 110/255 for denoising and 10/255 else if None.
        missing: share of pixels missing in inpainting, in [0, 1).
        measurements: m of compressed sensing, >= 1.

    Raises:
        ValueError, TypeError: another name, or a setting out of its range.

    Example:
        >>> degradation("compressed-sensing", 1, (1, 28, 28)).title
        'Compressed sensing, m = 140 of 784, sigma = 10/255'
    """
    choice("problem", name, PAPER)
    if name == "denoising":
        return denoising(SIGMA_DENOISING if sigma is None else sigma)
    sigma = SIGMA if sigma is None else sigma
    if name == "inpainting":
        return inpainting(count, image_shape, generator, missing=missing, sigma=sigma)
    return compressed_sensing(image_shape, generator, measurements=measurements, sigma=sigma)


def make_problem(
    name: str,
    clean: Tensor,
    generator: torch.Generator | None,
    device: torch.device | str,
    *,
    sigma: float | None = None,
    missing: float = 0.8,
    measurements: int = 140,
) -> Problem:
    """``degradation(name, ...)`` of ``clean`` [B, C, H, W], on the CPU as all draws are."""
    found = degradation(
        name,
        len(clean),
        tuple(clean.shape[1:]),
        generator,
        sigma=sigma,
        missing=missing,
        measurements=measurements,
    )
    return found.of(clean, generator, device)


def _built(
    name: str,
    options: Mapping[str, Any],
    image_shape: Sequence[int] = (),
    generator: torch.Generator | None = None,
    count: int = 1,
) -> Operator:
    """The registered operator of a name, what is drawn for each of ``count`` images one by one."""
    draws = torch.default_generator if generator is None else generator
    return named_operator(name).build(options, tuple(image_shape), [draws] * count)


def _title(what: str, sigma: float) -> str:
    return f"{what}, sigma = {sigma * 255:.0f}/255"
