"""A fully convolutional hierarchical variational autoencoder for pictures of any size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jpmap_fast._validate import count, counts
from jpmap_fast.priors.photo_network import MOST_BLOCKS, Residual

# Logarithms of standard deviations stay within so much of 0: densities stay bounded.
MOST_LOG_SCALE = 4.0
_GREY = 0.5


@dataclass
class Posteriors:
    """q(z_l | x, z_>l) block by block as a pass meets them, the coarsest first.

    A code is written in units of its prior, z_l = m(z_>l) + t(z_>l) e_l, where p(z_l | z_>l) is
    N(m, t^2), so that p(e_l) = N(0, I) and q(e_l) = N(d, r^2).

    Attributes:
        shifts: d [B, c, h, w] each.
        log_scales: log r, of the same shapes.
    """

    shifts: list[Tensor] = field(default_factory=list)
    log_scales: list[Tensor] = field(default_factory=list)

    def divergences(self) -> list[Tensor]:
        """KL(q(z_l | x, z_>l) || p(z_l | z_>l)) of every block in nats, [B] each."""
        pairs = zip(self.shifts, self.log_scales, strict=True)
        return [kl_from_prior(d, log_r).flatten(1).sum(dim=1) for d, log_r in pairs]


def kl_from_prior(shift: Tensor, log_scale: Tensor) -> Tensor:
    """KL(N(m + t d, (t r)^2) || N(m, t^2)) = (d^2 + r^2 - 1) / 2 - log r, entry by entry.

    Args:
        shift: d, of any shape.
        log_scale: log r, of the same.
    """
    return 0.5 * (shift.square() + (2 * log_scale).exp() - 1) - log_scale


class LatentBlock(nn.Module):
    """A group of latents: their prior given all coarser ones, their posterior, and what they do.

    Args:
        width: features of its level.
        latents: channels of its code.
    """

    def __init__(self, width: int, latents: int) -> None:
        super().__init__()
        self.prior = nn.Sequential(
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, 2 * latents + width, 1),
        )
        self.posterior = nn.Sequential(
            nn.Conv2d(2 * width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, 2 * latents, 1),
        )
        self.code = nn.Conv2d(latents, width, 1)
        self.residual = Residual(width)
        self.latents = latents
        for last, deviation in ((self.prior[-1], 0.0), (self.posterior[-1], 1e-2)):
            nn.init.normal_(last.weight, std=deviation)  # type: ignore[arg-type]
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def conditional(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of p(z | z_>l) = N(m, t^2) m and log t, and features that pass its code by."""
        found = self.prior(h)
        mean, log_scale, passed = found.split((self.latents, self.latents, h.shape[1]), dim=1)
        return _wide(mean), _bounded(log_scale), passed

    def posterior_of(self, h: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Of q(e | x, z_>l) = N(d, r^2) d and log r."""
        shift, log_scale = self.posterior(torch.cat((h, features), dim=1)).chunk(2, dim=1)
        return _wide(shift), _bounded(log_scale)

    def take(self, h: Tensor, passed: Tensor, z: Tensor) -> Tensor:
        """The features once z is known."""
        return self.residual(h + passed + self.code(z.to(h.dtype)))  # type: ignore[no-any-return]


class HierarchicalNetwork(nn.Module):
    r"""p(z_1, ..., z_L), G(z) and q(z | x + s n), all convolutional, over several scales.

    Blocks of latents lie at every level l of the resolution, [B, c, H / 2^l, W / 2^l], and each has
    a Gaussian prior given all that are coarser, or earlier on its level. An encoder, told the noise
    level s as a further channel, halves the resolution from level to level; a decoder comes down
    from the coarsest and takes in a code at every block: of the prior to sample, of the posterior,
    which sees the encoder's features, to encode.

    Args:
        channels: 1 for grey pictures, 3 for colour.
        widths: features of the levels, finest first.
        encoder_blocks: residual blocks of each level of the encoder, at most 100.
        latent_blocks: blocks of latents of each level, at most 100, at least 1 at the coarsest.
        latent_channels: c.

    Raises:
        ValueError, TypeError: a setting is out of range or of the wrong kind.

    Source: C. K. Sonderby et al., "Ladder variational autoencoders", NIPS 2016; A. Vahdat, J.
    Kautz, "NVAE", NeurIPS 2020, for the posterior relative to the prior.
    """

    # Layers that keep their precision where the others compute in bfloat16: they see pictures.
    precise = ("head", "tail")

    def __init__(
        self,
        channels: int = 1,
        widths: Sequence[int] = (64, 96, 128, 128),
        encoder_blocks: Sequence[int] = (1, 1, 2, 2),
        latent_blocks: Sequence[int] = (2, 2, 2, 2),
        latent_channels: int = 16,
    ) -> None:
        super().__init__()
        self.channels = count("channels", channels, 1)
        self.widths = counts("widths", widths, 1)
        self.encoder_blocks = counts("encoder_blocks", encoder_blocks, 0)
        self.latent_blocks = counts("latent_blocks", latent_blocks, 0)
        self.latent_channels = count("latent_channels", latent_channels, 1)
        if not len(self.widths) == len(self.encoder_blocks) == len(self.latent_blocks) > 0:
            raise ValueError("widths: expected one number of blocks a level for both halves")
        if self.latent_blocks[-1] < 1:
            raise ValueError("latent_blocks: expected at least one at the coarsest level, got 0")
        most = max(*self.encoder_blocks, *self.latent_blocks)
        if most > MOST_BLOCKS:
            raise ValueError(f"blocks: expected at most {MOST_BLOCKS} a level, got {most}")
        self.head = nn.Conv2d(channels + 1, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(
            nn.Sequential(*(Residual(width) for _ in range(number)))
            for width, number in zip(self.widths, self.encoder_blocks, strict=True)
        )
        steps = list(pairwise(self.widths))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in steps)
        self.top = nn.Parameter(torch.zeros(1, self.widths[-1], 1, 1))
        self.up = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in steps)
        self.decoder = nn.ModuleList(
            nn.ModuleList(LatentBlock(width, latent_channels) for _ in range(number))
            for width, number in zip(self.widths, self.latent_blocks, strict=True)
        )
        self.tail = nn.Conv2d(widths[0], channels, 3, padding=1)

    @property
    def stride(self) -> int:
        """What height and width are filled up to a multiple of."""
        return 2 ** (len(self.widths) - 1)

    @property
    def reach(self) -> int:
        """Pixels around one that its value may depend on, in each direction."""
        reach = 2  # head and tail
        for level in range(len(self.widths)):
            # Of a block of latents the posterior and what follows have two convolutions each.
            blocks = self.encoder_blocks[level] + 2 * self.latent_blocks[level]
            reach += 2 * blocks * 2**level
        return reach + 2 * self.stride

    @property
    def levels(self) -> tuple[int, ...]:
        """The level of every block of latents, the coarsest first: 0 is the finest."""
        numbers = list(enumerate(self.latent_blocks))
        return tuple(level for level, number in reversed(numbers) for _ in range(number))

    def grid(self, size: Sequence[int]) -> tuple[int, int]:
        """Height and width, filled up."""
        height, width = size
        return height + -height % self.stride, width + -width % self.stride

    def code_shapes(self, size: Sequence[int]) -> list[tuple[int, int, int]]:
        """(c, h, w) of the code of every block, the coarsest first, for pictures of a size."""
        height, width = self.grid(size)
        c = self.latent_channels
        return [(c, height >> level, width >> level) for level in self.levels]

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        """Pictures [B, C, H, W] of posterior means down the hierarchy, told noise levels s [B]."""
        return self.encoded(x, s, lambda shift, log_scale: shift)[0]

    def drawn(
        self, x: Tensor, s: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Posteriors]:
        """G(z) [B, C, H, W] of z ~ q(z | x, s), and the posteriors that were drawn from."""

        def draw(shift: Tensor, log_scale: Tensor) -> Tensor:
            noise = torch.randn(
                shift.shape, dtype=shift.dtype, device=shift.device, generator=generator
            )
            return shift + log_scale.exp() * noise

        return self.encoded(x, s, draw)

    def encoded(
        self, x: Tensor, s: Tensor, choose: Callable[[Tensor, Tensor], Tensor]
    ) -> tuple[Tensor, Posteriors]:
        """G(z) [B, C, H, W] of codes e = choose(d, log r), and the posteriors on the way."""
        features, found = self._features(x, s), Posteriors()

        def pick(number: int, block: LatentBlock, h: Tensor) -> Tensor:
            shift, log_scale = block.posterior_of(h, features[self.levels[number]])
            found.shifts.append(shift)
            found.log_scales.append(log_scale)
            return choose(shift, log_scale)

        return self._decoded(len(x), x.shape[-2:], pick)[0].to(x.dtype), found

    def decoded(self, codes: Sequence[Tensor], size: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """G(z) [B, C, H, W] of codes e [B, c, h, w], coarsest first, and sum log t, [B] each."""
        return self._decoded(len(codes[0]), size, lambda number, block, h: codes[number])

    def _decoded(
        self, batch: int, size: Sequence[int], pick: Callable[[int, LatentBlock, Tensor], Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        height, width = self.grid(size)
        h = self.top.expand(batch, -1, height // self.stride, width // self.stride)
        h = h.contiguous(memory_format=torch.channels_last)
        log_scales: list[Tensor] = []
        for level in reversed(range(len(self.widths))):
            for block in self.decoder[level]:  # type: ignore[attr-defined]
                mean, log_scale, passed = block.conditional(h)
                e = pick(len(log_scales), block, h)
                h = block.take(h, passed, mean + log_scale.exp() * e)
                log_scales.append(log_scale.flatten(1).sum(dim=1))
            if level:
                h = F.interpolate(self.up[level - 1](h), scale_factor=2, mode="nearest")
        picture = self.tail(F.gelu(h).to(self.tail.weight.dtype))
        return _wide(picture[..., : size[0], : size[1]]) + _GREY, log_scales

    def _features(self, x: Tensor, s: Tensor) -> list[Tensor]:
        """What the encoder makes of pictures, by level."""
        height, width = self.grid(x.shape[-2:])
        fill = (0, width - x.shape[-1], 0, height - x.shape[-2])
        noisy = F.pad(x, fill, mode="replicate") if any(fill) else x
        level = s.to(noisy.dtype).reshape(-1, 1, 1, 1).expand(len(x), 1, height, width)
        seen = torch.cat((noisy - _GREY, level), dim=1)
        h = self.head(seen.contiguous(memory_format=torch.channels_last)).to(self.top.dtype)
        kept: list[Tensor] = []
        for index, blocks in enumerate(self.encoder):
            h = blocks(h)
            kept.append(h)
            if index < len(self.down):
                h = self.down[index](h)
        return kept


def _wide(values: Tensor) -> Tensor:
    """Values in float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _bounded(log_scale: Tensor) -> Tensor:
    return MOST_LOG_SCALE * torch.tanh(_wide(log_scale) / MOST_LOG_SCALE)
