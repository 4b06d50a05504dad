"""The settings of a denoiser's training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jpmap_fast._validate import choice, count, positive


@dataclass(frozen=True)
class DenoiserRecipe:
    """The settings of a denoiser's training.

    Attributes:
        lipschitz: L in (0, 1), see ``LipschitzDenoiser``.
        width: channels between the convolutions.
        depth: number of convolutions.
        sigma_low, sigma_high: each image gets noise of a standard deviation drawn uniformly between
            them, for values in [0, 1].
        steps: of Adam.
        batch_size: images a step.
        learning_rate: after a linear rise over the first ``rise`` of the steps; it falls to nothing
            along a cosine. None: 1e-2 / width. Adam moves all weights by about as much, which adds
            to a norm in proportion to the width: with more a few singular values grow, all others
            are divided by them, and R hardly passes anything on.
        rise: share of the steps in [0, 1).
        mirror: each image is mirrored or not, at random.
        seed: of the initial weights, the images and the noise.
        precision: "float32", or "bfloat16" for the products.
    """

    lipschitz: float = 0.9
    width: int = 64
    depth: int = 10
    sigma_low: float = 1 / 255
    sigma_high: float = 110 / 255
    steps: int = 40_000
    batch_size: int = 128
    learning_rate: float | None = None
    rise: float = 0.02
    mirror: bool = False
    seed: int = 0
    precision: str = "float32"

    def __post_init__(self) -> None:
        count("steps", self.steps, 1)
        count("batch_size", self.batch_size, 1)
        count("width", self.width, 1)
        if self.learning_rate is not None:
            positive("learning_rate", self.learning_rate)
        positive("sigma_low", self.sigma_low)
        positive("sigma_high", self.sigma_high)
        if not self.sigma_low <= self.sigma_high < 10:
            raise ValueError(
                "sigma_high: expected a standard deviation for values in [0, 1], at least "
                f"sigma_low = {self.sigma_low:g}, got {self.sigma_high!r}"
            )
        if not 0 <= self.rise < 1:
            raise ValueError(f"rise: expected a share in [0, 1), got {self.rise!r}")
        choice("precision", self.precision, ("float32", "bfloat16"))

    def learning_rate_at(self, progress: float) -> float:
        """The learning rate after a share ``progress`` in [0, 1] of the training."""
        highest = 1e-2 / self.width if self.learning_rate is None else self.learning_rate
        if progress < self.rise:
            return highest * max(progress / self.rise, 1e-2)
        rest = (progress - self.rise) / (1 - self.rise)
        return highest * 0.5 * (1 + math.cos(math.pi * min(rest, 1.0)))
