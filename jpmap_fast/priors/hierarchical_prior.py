"""A generative prior for photographs: samples, a bound on their density, codes of any picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jpmap_fast._surroundings import full_precision
from jpmap_fast._validate import SCALE_HINT, count, counts, number
from jpmap_fast.priors.hierarchical_network import HierarchicalNetwork
from jpmap_fast.priors.photo_prior import NetworkPrior


class HierarchicalPhotoPrior(NetworkPrior):
    r"""A hierarchical variational autoencoder for pictures of any height and width. Experimental.

        p(x, z) = N(x; G(z), gamma^2 I) prod_l p(z_l | z_>l),
        q(z | x + s n) = prod_l q(z_l | x + s n, s, z_>l),

    with Gaussian blocks of latents z_l at every level of the resolution, see
    ``HierarchicalNetwork``. Their number grows with the picture, so that ``latent_dim`` is 0 as for
    ``PhotoPrior``; what restores is ``method="encoder"``, which asks ``autoencode`` alone, and
    ``method="hierarchical-jpmap"``, which descends in the latents as well. None is bundled.

    ``autoencode`` goes down the hierarchy by posterior means.

    Args:
        channels: 1 for grey pictures, 3 for colour.
        widths, encoder_blocks, latent_blocks, latent_channels: see ``HierarchicalNetwork``.

    Attributes:
        network: the ``HierarchicalNetwork``.
        gamma: standard deviation of p(x | z), for a clean x.
        image_shape: (C, H, W); None until bound.
        low_precision: whether products of ``autoencode`` may be bfloat16, where the device has
            them; all else is in the precision of the weights.
    """

    network: HierarchicalNetwork

    def __init__(
        self,
        channels: int = 1,
        widths: Sequence[int] = (64, 96, 128, 128),
        encoder_blocks: Sequence[int] = (1, 1, 2, 2),
        latent_blocks: Sequence[int] = (2, 2, 2, 2),
        latent_channels: int = 16,
    ) -> None:
        super().__init__(
            HierarchicalNetwork(channels, widths, encoder_blocks, latent_blocks, latent_channels)
        )

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments it was made with."""
        network = self.network
        return {
            "channels": network.channels,
            "widths": network.widths,
            "encoder_blocks": network.encoder_blocks,
            "latent_blocks": network.latent_blocks,
            "latent_channels": network.latent_channels,
        }

    def temperatures(self, temperature: Any) -> tuple[float, ...]:
        """A temperature for every level, the finest first, of one number or one a level.

        Raises:
            ValueError: another number of them, or one below 0. TypeError: no numbers.
        """
        found = checked_temperatures("temperature", temperature)
        levels = len(self.network.widths)
        if len(found) not in (1, levels):
            raise ValueError(
                f"temperature: expected a number, or one for each of {levels} levels, got "
                f"{len(found)}"
            )
        return found * levels if len(found) == 1 else found

    @torch.no_grad()
    def sample(
        self,
        batch: int,
        size: Sequence[int],
        *,
        temperature: Any = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Means G(z) [B, C, H, W] of p(x | z) at draws of z from the prior.

        Args:
            batch: B >= 1.
            size: (H, W), of 1 and more.
            temperature: >= 0, what the standard deviations of p(z_l | z_>l) are multiplied by; a
                number, or one a level, the finest first.
            generator: source of the draws, on its device; torch's default generator if None.

        Raises:
            ValueError, TypeError: a setting is out of range or of the wrong kind.
        """
        count("batch", batch, 1)
        shape = counts("size", size, 1)
        if len(shape) != 2:
            raise ValueError(f"size: expected (H, W), got {shape}")
        of_level, like = self.temperatures(temperature), self.log_gamma
        source = like.device if generator is None else generator.device
        codes = []
        for level, code in zip(self.network.levels, self.network.code_shapes(shape), strict=True):
            noise = torch.randn(batch, *code, generator=generator, device=source)
            codes.append(of_level[level] * noise.to(like.device, like.dtype))
        return self.generate(codes, shape)[0]

    def codes(self, x: Tensor, s: Tensor) -> list[Tensor]:
        """Posterior means of pictures [B, C, H, W] with noise s [B], down the hierarchy.

        Returns:
            e [B, c, h, w] of every block of latents, the coarsest first, in units of its prior:
            z_l = m(z_>l) + t(z_>l) e_l with p(z_l | z_>l) = N(m, t^2).
        """
        with full_precision():
            return self.network.encoded(x, s, lambda shift, log_scale: shift)[1].shifts

    def generate(self, codes: Sequence[Tensor], size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """G(z) [B, C, H, W] of codes, and -log p(z_l | z_>l) of every level [B, levels].

        The latter is sum e^2 / 2 + log t over the entries of a level, finest first; log(2 pi) / 2
        an entry is left out. Both can be differentiated.

        Args:
            codes: e as of ``codes``.
            size: (H, W).
        """
        with full_precision():
            decoded, log_scales = self.network.decoded(codes, size)
        energies: list[Any] = [0.0] * len(self.network.widths)
        for level, e, log_scale in zip(self.network.levels, codes, log_scales, strict=True):
            energies[level] = energies[level] + 0.5 * e.flatten(1).square().sum(dim=1) + log_scale
        zero = torch.zeros_like(log_scales[0])
        return decoded, torch.stack([zero + energy for energy in energies], dim=1)

    @torch.no_grad()
    def log_likelihood_bound(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        r"""An upper bound on the bits that a value of clean pictures takes, by one draw of z:

            (||x - G(z)||^2 / (2 gamma^2) + n/2 log(2 pi gamma^2) + sum_l KL_l) / (n log 2)
                + log2(255),    z ~ q(z | x),  KL_l = KL(q(z_l | x, z_>l) || p(z_l | z_>l)),

        the negative evidence lower bound of a picture of n values, its density taken as constant
        over a grey level of 1/255.

        Args:
            x: pictures [B, C, H, W], values about [0, 1].
            generator: source of the draw; None for one of seed 0 for every picture, which then has
                the value that it has alone.

        Returns:
            bits [B].

        Raises:
            ValueError, TypeError: no pictures of this prior.
        """
        if not isinstance(x, Tensor) or not x.is_floating_point():
            kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"x: expected floating-point images, got {kind}; {SCALE_HINT}")
        if x.dim() != 4 or x.shape[1] != self.channels or 0 in x.shape:
            raise ValueError(f"x: expected shape [B, {self.channels}, H, W], got {list(x.shape)}")
        parts = []
        for part in x.split(1):
            source = torch.Generator(x.device).manual_seed(0) if generator is None else generator
            with full_precision():
                decoded, found = self.network.drawn(part, part.new_zeros(1), source)
            nats = self._misfit(part - decoded) + torch.stack(found.divergences()).sum(dim=0)
            parts.append(nats / (part.numel() * math.log(2)) + math.log2(255))
        return torch.cat(parts)

    def _misfit(self, residual: Tensor) -> Tensor:
        """-log N(residual; 0, gamma^2 I) [B]."""
        n, variance = residual[0].numel(), self.gamma**2
        squares = residual.flatten(1).square().sum(dim=1)
        return squares / (2 * variance) + n / 2 * math.log(2 * math.pi * variance)


def checked_temperatures(name: str, value: Any) -> tuple[float, ...]:
    """A number >= 0, or several, as a tuple.

    Raises:
        ValueError: one below 0 or not finite, or none at all. TypeError: no numbers.
    """
    several = list(value) if isinstance(value, (list, tuple)) else [value]
    found = tuple(number(name, each) for each in several)
    if not found or min(found) < 0:
        raise ValueError(f"{name}: expected numbers >= 0, got {value!r}")
    return found
