"""A fully convolutional, noise-conditional autoencoder for pictures of any size."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jpmap_fast._validate import count, counts

# A level's: a damaged file that asks for more is refused before they are made.
MOST_BLOCKS = 100


class Residual(nn.Module):
    """h + W_2 relu(W_1 h), convolutions of 3 x 3 without biases."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.first.weight, nonlinearity="relu")
        nn.init.zeros_(self.second.weight)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.second(F.relu(self.first(h), inplace=True))


class PhotoNetwork(nn.Module):
    r"""The mean of p(x | x + s n), n ~ N(0, I), as an encoder and a decoder over several scales.

    The encoder takes the noisy picture and, as a further channel, its noise level s; it halves the
    resolution at every level by a convolution of 2 x 2 with stride 2. The decoder goes back up and
    takes in the encoder's features of every level. What comes out is subtracted from the noisy
    picture. There are no biases, so that the network is positively homogeneous,

        D(c x, c s) = c D(x, s),   c > 0,

    and knows neither a brightest value nor a largest noise level.

    Args:
        channels: 1 for grey pictures, 3 for colour.
        widths: features of the levels, finest first.
        encoder_blocks, decoder_blocks: residual blocks of each level, at most 100; the coarsest
            has those of both.

    Raises:
        ValueError, TypeError: a setting is out of range or of the wrong kind.

    Source: the network is a U-Net (Ronneberger, Fischer, Brox 2015) of residual blocks with a noise
    level map (Zhang, Zuo, Zhang 2018) and without biases (Mohan, Kadkhodaie, Simoncelli,
    Fernandez-Granda 2020).
    """

    # Layers that keep their precision where the others compute in bfloat16: they see pictures.
    precise = ("head",)

    def __init__(
        self,
        channels: int,
        widths: Sequence[int] = (64, 96, 192, 256),
        encoder_blocks: Sequence[int] = (1, 2, 2, 2),
        decoder_blocks: Sequence[int] = (1, 2, 2, 2),
    ) -> None:
        super().__init__()
        count("channels", channels, 1)
        self.channels = channels
        self.widths, levels = counts("widths", widths, 1), len(widths)
        self.encoder_blocks = counts("encoder_blocks", encoder_blocks, 0)
        self.decoder_blocks = counts("decoder_blocks", decoder_blocks, 0)
        if not levels == len(self.encoder_blocks) == len(self.decoder_blocks) > 0:
            raise ValueError("widths: expected one number of blocks a level for both halves")
        most = max(*self.encoder_blocks, *self.decoder_blocks)
        if most > MOST_BLOCKS:
            raise ValueError(f"blocks: expected at most {MOST_BLOCKS} a level, got {most}")
        self.head = nn.Conv2d(channels + 1, widths[0], 3, padding=1, bias=False)
        self.encoder = nn.ModuleList(map(_blocks, widths, encoder_blocks))
        steps = list(pairwise(widths))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2, bias=False) for a, b in steps)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2, bias=False) for a, b in steps)
        self.decoder = nn.ModuleList(map(_blocks, widths, decoder_blocks))
        self.tail = nn.Conv2d(widths[0], channels, 3, padding=1, bias=False)
        nn.init.zeros_(self.tail.weight)

    @property
    def stride(self) -> int:
        """What height and width are filled up to a multiple of."""
        return 2 ** (len(self.widths) - 1)

    @property
    def reach(self) -> int:
        """Pixels around one that its value may depend on, in each direction."""
        reach = 2  # head and tail
        for level in range(len(self.widths)):
            blocks = self.encoder_blocks[level] + self.decoder_blocks[level]
            reach += 2 * blocks * 2**level
        return reach + 2 * self.stride

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        """D(x, s): pictures [B, C, H, W] of noise levels s [B], in the units of x."""
        height, width = x.shape[-2:]
        fill = (0, -width % self.stride, 0, -height % self.stride)
        noisy = F.pad(x, fill, mode="replicate") if any(fill) else x
        level = s.to(noisy.dtype).reshape(-1, 1, 1, 1).expand(len(x), 1, *noisy.shape[-2:])
        features = torch.cat((noisy, level), dim=1).contiguous(memory_format=torch.channels_last)
        h = self.head(features).to(self.tail.weight.dtype)
        kept: list[Tensor] = []
        for index, blocks in enumerate(self.encoder):
            h = blocks(h)
            if index < len(self.down):
                kept.append(h)
                h = self.down[index](h)
        h = self.decoder[-1](h)
        for index in reversed(range(len(self.up))):
            h = self.decoder[index](self.up[index](h) + kept[index])
        return x - self.tail(h)[..., :height, :width].to(x.dtype)


def _blocks(width: int, number: int) -> nn.Sequential:
    return nn.Sequential(*(Residual(width) for _ in range(number)))
