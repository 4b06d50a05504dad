"""The settings of training runs on crops of photographs, and what they minimise."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from jpmap_fast._validate import choice, count, positive
from jpmap_fast.priors.photo_prior import NetworkPrior, PhotoPrior
from jpmap_fast.training.photo_evaluation import denoising_psnr

GAMMA_LEVEL = 25 / 255  # the noise level whose error is a PhotoPrior's gamma
# Grey levels at which the error of a noise level that is nearly 0 is taken for what it would be.
FLOOR = 2 / 255


@dataclass(frozen=True)
class CropRecipe(ABC):
    """What the recipes of all networks for photographs have in common.

    Attributes:
        rows: names of the settings that are rows of numbers.
        checkpoint_form: name of the form of its checkpoints.

    The others are those of ``PhotoRecipe``.
    """

    steps: int = 112_000
    batch_size: int = 48
    crop: int = 96
    learning_rate: float = 7e-4
    warm_up: int = 1000
    noise: float = 130 / 255
    skew: float = 1.7
    ema: float = 0.999
    scales: tuple[float, ...] = (1.0, 0.8)
    precision: str = "bfloat16"
    seed: int = 0
    widths: tuple[int, ...] = (64, 96, 192, 256)
    encoder_blocks: tuple[int, ...] = (1, 2, 2, 2)

    rows: ClassVar[tuple[str, ...]] = ("scales", "widths", "encoder_blocks")
    checkpoint_form: ClassVar[str]

    def __post_init__(self) -> None:
        for name in self.rows:
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("steps", "batch_size", "crop"):
            count(name, getattr(self, name), 1)
        count("warm_up", self.warm_up, 0)
        for name in ("learning_rate", "noise", "skew"):
            positive(name, getattr(self, name))
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema: expected a decay in [0, 1), got {self.ema!r}")
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise ValueError(f"scales: expected factors in (0, 1], got {self.scales!r}")
        choice("precision", self.precision, ("float32", "bfloat16"))

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        rise = min(1.0, (step + 1) / (self.warm_up + 1))
        return self.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def weight_at(self, step: int) -> float:
        """What ``loss`` is given as its weight at a step, counted from 0."""
        return 1.0

    @abstractmethod
    def build(self, channels: int) -> Any:
        """An untrained prior, from torch's current seed."""

    @abstractmethod
    def forward(self, network: Any, noisy: Tensor, s: Tensor, generator: torch.Generator) -> Any:
        """What the network says of noisy crops [B, C, P, P] and their levels [B], for ``loss``."""

    @abstractmethod
    def loss(self, found: Any, clean: Tensor, s: Tensor, weight: Tensor) -> Tensor:
        """What is minimised, of ``forward``, the clean crops and ``weight_at`` of the step."""

    @abstractmethod
    def log_gamma_of(self, prior: Any, pictures: Sequence[Tensor]) -> float:
        """Log gamma of a trained prior, judged by pictures, uint8 [C, H, W] each."""


@dataclass(frozen=True)
class PhotoRecipe(CropRecipe):
    """The settings of a training run of the photograph network.

    Attributes:
        steps: of Adam, in all.
        batch_size: crops a step.
        crop: height and width of a crop, in pixels.
        learning_rate: of Adam at its highest; it rises over ``warm_up`` steps and falls by a
            cosine.
        warm_up: steps.
        noise: the highest noise level, in [0, 1] units. Levels are noise u^skew, u uniform.
        skew: > 0; above 1 the low levels are more frequent.
        ema: decay of the running mean of the weights that is kept at the end, in [0, 1).
        scales: factors the pictures are reduced by for part of the crops.
        precision: "float32", or "bfloat16" for the products of a GPU.
        seed: of the initial weights, crops and noise.
        widths, encoder_blocks, decoder_blocks: see ``PhotoNetwork``.
    """

    decoder_blocks: tuple[int, ...] = (1, 2, 2, 2)

    rows: ClassVar[tuple[str, ...]] = (*CropRecipe.rows, "decoder_blocks")
    checkpoint_form: ClassVar[str] = "jpmap-fast photo checkpoint 1"

    def build(self, channels: int) -> PhotoPrior:
        """An untrained prior, from torch's current seed."""
        return PhotoPrior(channels, self.widths, self.encoder_blocks, self.decoder_blocks)

    def forward(self, network: Any, noisy: Tensor, s: Tensor, generator: torch.Generator) -> Tensor:
        """Pictures [B, C, P, P]."""
        return network(noisy, s)  # type: ignore[no-any-return]

    def loss(self, found: Tensor, clean: Tensor, s: Tensor, weight: Tensor) -> Tensor:
        """The mean of squared errors over s + 2/255.

        The error that no network can avoid grows about as the noise level s does, so that every
        level has the same say.
        """
        return ((found - clean).square() / (s.reshape(-1, 1, 1, 1) + FLOOR)).mean()

    def log_gamma_of(self, prior: NetworkPrior, pictures: Sequence[Tensor]) -> float:
        """Of the root mean squared error of ``autoencode`` at s = 25/255."""
        return -denoising_psnr(prior, pictures, GAMMA_LEVEL) / 20 * math.log(10)
