"""The settings of a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jpmap_fast._validate import choice, count, positive
from jpmap_fast.priors.conv_vae import ConvVAE
from jpmap_fast.priors.mlp_vae import MLPVAE
from jpmap_fast.priors.weights import Network


@dataclass(frozen=True)
class Recipe:
    """The settings of a training run; the defaults are the JPMAP authors' MNIST recipe.

    Attributes:
        latent_dim: k.
        hidden: widths of the encoder's hidden layers (``network="mlp"``).
        sigma_dvae: standard deviation of the encoder's input noise, in [0, 1] units, >= 0.
        epochs: passes over the data.
        batch_size: images a step; what an epoch leaves over is trained on as a shorter batch, a
            single image with the batch before it.
        learning_rate: of Adam.
        schedule: "constant", or "cosine": from learning_rate down to nothing over the epochs.
        weight_decay: decoupled weight decay of the weight matrices and biases, >= 0 (AdamW).
        seed: of the initial weights, the shuffling and the noise.
        network: "mlp", "conv-residual" or "conv-plain" (see ``ConvVAE``).
        channels: of a convolutional network's levels.
        gamma: "learned" by gradient descent, or "closed-form": at every step the gamma that is best
            for the batch, so that nothing waits for it to come down from 1.
        augment: mirror, shift and recolour the training images (``augmentation.augment``).
        held_out: share of the images kept aside, in [0, 1); gamma is then theirs, and the weights
            of the epoch that was best on them are returned.
        patience: stop after so many epochs without an improvement on the images held out; 0: never.
        precision: "float32", or "bfloat16" for the products of a GPU.
    """

    latent_dim: int = 8
    hidden: tuple[int, ...] = (512, 512)
    sigma_dvae: float = 15 / 255
    epochs: int = 200
    batch_size: int = 128
    learning_rate: float = 1e-4
    schedule: str = "constant"
    weight_decay: float = 0.0
    seed: int = 0
    network: str = "mlp"
    channels: tuple[int, ...] = (32, 64, 128, 256)
    gamma: str = "learned"
    augment: bool = False
    held_out: float = 0.0
    patience: int = 0
    precision: str = "float32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        object.__setattr__(self, "channels", tuple(self.channels))
        count("latent_dim", self.latent_dim, 1)
        count("epochs", self.epochs, 1)
        count("batch_size", self.batch_size, 1)
        count("patience", self.patience, 0)
        positive("learning_rate", self.learning_rate)
        if not 0 <= self.weight_decay < 100:
            raise ValueError(f"weight_decay: expected a number >= 0, got {self.weight_decay!r}")
        choice("schedule", self.schedule, ("constant", "cosine"))
        choice("network", self.network, ("mlp", "conv-residual", "conv-plain"))
        choice("gamma", self.gamma, ("learned", "closed-form"))
        choice("precision", self.precision, ("float32", "bfloat16"))
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out: expected a share in [0, 1), got {self.held_out!r}")
        if self.patience and not self.held_out:
            raise ValueError("patience: needs images to judge by; set held_out, such as 0.1")
        if not 0 <= self.sigma_dvae < 10:
            raise ValueError(
                f"sigma_dvae: expected a standard deviation >= 0 for values in [0, 1], "
                f"got {self.sigma_dvae!r}"
            )

    def learning_rate_of(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))

    def build(self, image_shape: tuple[int, ...]) -> Network:
        """An untrained network for images of ``image_shape``, from torch's current seed."""
        if self.network == "mlp":
            return MLPVAE(image_shape, self.latent_dim, self.hidden)
        blocks = self.network.removeprefix("conv-")
        return ConvVAE(image_shape, self.latent_dim, self.channels, blocks)
