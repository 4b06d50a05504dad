"""Training of the hierarchical variational autoencoder for photographs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from jpmap_fast._validate import count
from jpmap_fast.priors.hierarchical_network import HierarchicalNetwork, Posteriors
from jpmap_fast.priors.hierarchical_prior import HierarchicalPhotoPrior
from jpmap_fast.priors.weights import Network
from jpmap_fast.training.photo_recipe import FLOOR, CropRecipe
from jpmap_fast.training.photo_trainer import train_on_crops


@dataclass(frozen=True)
class HierarchicalRecipe(CropRecipe):
    """The settings of a training run of the hierarchical network for photographs.

    Attributes:
        free_nats: what each block of latents may say a value of the picture before its divergence
            counts, in nats; it keeps the coarse blocks from falling silent.
        rate_warm_up: steps over which the weight of the divergences rises to 1: codes are noise at
            first, and a decoder that has learned to ignore them does not come back.
        latent_blocks, latent_channels: see ``HierarchicalNetwork``, as widths and encoder_blocks.

    The others are those of ``PhotoRecipe``. Noise reaches as far as ``EncoderContinuation`` asks.
    """

    steps: int = 60_000
    crop: int = 64
    learning_rate: float = 5e-4
    noise: float = 80 / 255
    widths: tuple[int, ...] = (64, 96, 128, 128)
    encoder_blocks: tuple[int, ...] = (1, 1, 2, 2)
    latent_blocks: tuple[int, ...] = (2, 2, 2, 2)
    latent_channels: int = 16
    free_nats: float = 0.002
    rate_warm_up: int = 3000

    rows: ClassVar[tuple[str, ...]] = (*CropRecipe.rows, "latent_blocks")
    checkpoint_form: ClassVar[str] = "jpmap-fast hierarchical checkpoint 1"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.free_nats < math.inf:
            raise ValueError(f"free_nats: expected a number >= 0, got {self.free_nats!r}")
        count("rate_warm_up", self.rate_warm_up, 0)

    def weight_at(self, step: int) -> float:
        """The weight of the divergences."""
        return min(1.0, (step + 1) / (self.rate_warm_up + 1))

    def build(self, channels: int) -> HierarchicalPhotoPrior:
        """An untrained prior, from torch's current seed."""
        return HierarchicalPhotoPrior(
            channels, self.widths, self.encoder_blocks, self.latent_blocks, self.latent_channels
        )

    def forward(
        self, network: HierarchicalNetwork, noisy: Tensor, s: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Posteriors]:
        """G(z) [B, C, P, P] of z ~ q(z | x + s n), and the posteriors."""
        return network.drawn(noisy, s, generator)

    def loss(
        self, found: tuple[Tensor, Posteriors], clean: Tensor, s: Tensor, weight: Tensor
    ) -> Tensor:
        r"""The negative evidence lower bound of clean crops, in nats a value:

            1/2 log(mean ||x - G(z)||^2 / (n w(s))) + weight sum_l max(mean KL_l / n, free_nats),

        w(s) = 1 + s / (2/255), up to a constant. The first term is that of gamma(s)^2 =
        gamma^2 w(s) with the gamma that is best for the batch: what no code can tell of a crop with
        noise grows about so, and one gamma for all levels would be that of the highest.
        """
        decoded, posteriors = found
        errors = (decoded - clean).square().flatten(1).mean(dim=1) / (1 + s / FLOOR)
        rates = torch.stack(posteriors.divergences()).mean(dim=1) / clean[0].numel()
        return 0.5 * errors.mean().log() + weight * rates.clamp_min(self.free_nats).sum()

    @torch.no_grad()
    def log_gamma_of(self, prior: HierarchicalPhotoPrior, pictures: Sequence[Tensor]) -> float:
        """Of the root mean squared error of G(z), z ~ q(z | x) of clean x: best for the bound."""
        device, total, values = prior.log_gamma.device, 0.0, 0
        for number, picture in enumerate(pictures):
            x = picture[None].to(device, torch.float32) / 255
            generator = torch.Generator(device).manual_seed(number)
            decoded = prior.network.drawn(x, x.new_zeros(1), generator)[0]
            total += float((decoded - x).square().sum())
            values += x.numel()
        return 0.5 * math.log(total / values)


def train_hierarchical_photos(
    pictures: Sequence[Tensor],
    *,
    device: torch.device | str | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    seconds: float = math.inf,
    progress: bool = True,
    cuda_graph: bool = True,
    initial: Network | None = None,
    **settings: Any,
) -> tuple[HierarchicalPhotoPrior, int]:
    """Train a hierarchical prior for photographs; experimental.

    Minimises the negative evidence lower bound of ``HierarchicalRecipe.loss`` by Adam, the encoder
    seeing crops with noise of every level; what is returned is the running mean of the weights.

    Args:
        pictures, device, checkpoint, resume, seconds, progress, cuda_graph, initial: as for
            ``train_photos``.
        settings: those of ``HierarchicalRecipe``.

    Returns:
        The prior, on ``device``, in evaluation mode, gradients off, and how many steps of the
        recipe are done. Its gamma is that of a few training pictures.

    Raises:
        ValueError, TypeError: as ``train_photos``.

    Source: the denoising criterion of D. Im et al., AAAI 2017; free bits of D. Kingma et al., NIPS
    2016; gamma in closed form of O. Rybkin, K. Daniilidis, S. Levine, ICML 2021.
    """
    prior, done = train_on_crops(
        HierarchicalRecipe(**settings),
        pictures,
        device=device,
        checkpoint=checkpoint,
        resume=resume,
        seconds=seconds,
        progress=progress,
        cuda_graph=cuda_graph,
        initial=initial,
    )
    return prior, done
