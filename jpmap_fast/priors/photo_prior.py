"""Priors for photographs: pictures of any size, by a noise-conditional autoencoder."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from jpmap_fast._made_of_weights import made_of_weights
from jpmap_fast._modules import weights_of
from jpmap_fast._surroundings import full_precision
from jpmap_fast.priors.any_size import AnySizePrior
from jpmap_fast.priors.hierarchical_network import HierarchicalNetwork
from jpmap_fast.priors.photo_network import PhotoNetwork
from jpmap_fast.priors.tiles import in_tiles

# Of one pass of the network; about 1 kB of features a pixel at its finest level.
PIXELS_ON_GPU, PIXELS_ON_CPU = 2**22, 2**20


class NetworkPrior(AnySizePrior):
    """What priors for pictures of any size share: a network over s, in tiles, and no codes [B, k].

    Args:
        network: gives G(mu(x; s)) of pictures x [B, C, H, W] and noise levels s [B].
    """

    network: PhotoNetwork | HierarchicalNetwork

    def __init__(self, network: PhotoNetwork | HierarchicalNetwork) -> None:
        super().__init__()
        self.network = network

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The arguments it was made with."""

    @property
    def channels(self) -> int:
        """1 for grey pictures, 3 for colour."""
        return self.network.channels

    def autoencode(self, x: Tensor, s: Tensor) -> Tensor:
        """The mean of p(x | x + s n): pictures of pictures [B, C, H, W] with noise s [B].

        Large pictures are taken in overlapping parts, see ``tiles.in_tiles``. On a CPU that
        computes in bfloat16 by itself, and on a GPU, products are bfloat16; what is taken from x is
        then good to about half a percent of s.

        Args:
            x: values about [0, 1].
            s: noise levels >= 0, in the units of x.
        """
        network = self._network(x)
        pixels = PIXELS_ON_GPU if x.is_cuda else PIXELS_ON_CPU
        # One at a time on a CPU, where a picture then has the bits that it has alone.
        several = max(1, pixels // math.prod(x.shape[2:])) if x.is_cuda else 1
        with torch.no_grad(), full_precision():
            parts = [
                in_tiles(
                    partial(network, s=levels),
                    part,
                    reach=network.reach,
                    stride=network.stride,
                    pixels=pixels,
                )
                for part, levels in zip(x.split(several), s.split(several), strict=True)
            ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _network(self, like: Tensor) -> PhotoNetwork | HierarchicalNetwork:
        """The network in the precision and layout that it runs in, kept while the weights stay."""
        parameters = weights_of(self.network)
        half = self.low_precision and parameters[0].dtype == torch.float32 and _has_bfloat16(like)

        def make() -> PhotoNetwork | HierarchicalNetwork:
            network = copy.deepcopy(self.network)
            if half:
                network = network.to(torch.bfloat16)
                # Pictures go in whole: in bfloat16 they would lose more than they have noise.
                for name in network.precise:
                    setattr(network, name, copy.deepcopy(getattr(self.network, name)))
            return network.to(memory_format=torch.channels_last).requires_grad_(False)

        # Threads and bound copies share it, as they do the network.
        kept = made_of_weights(self.network, "working")
        working: PhotoNetwork | HierarchicalNetwork = kept.get(parameters, make, key=half)
        return working


class PhotoPrior(NetworkPrior):
    r"""A prior for pictures of any height and width, grey or in colour.

    It is known by the mean of p(x | x + s n), n ~ N(0, I), at every noise level s: an encoder
    that is told s, a decoder, and nothing between them that a density could be put on. The code of
    a picture is all that the decoder is given, many more numbers than the picture has, so that
    there are no codes to descend in (``latent_dim`` is 0): what restores with this prior is
    ``method="encoder"``, which asks ``autoencode`` alone.

    Args:
        channels: 1 for grey pictures, 3 for colour.
        widths, encoder_blocks, decoder_blocks: see ``PhotoNetwork``.

    Attributes:
        network: the ``PhotoNetwork``.
        gamma: root mean squared error of ``autoencode`` at s = 25/255.
        image_shape: (C, H, W); None until bound.
        low_precision: whether its products may be bfloat16, where the device has them.
    """

    network: PhotoNetwork

    def __init__(
        self,
        channels: int = 3,
        widths: Sequence[int] = (64, 96, 192, 256),
        encoder_blocks: Sequence[int] = (1, 2, 2, 2),
        decoder_blocks: Sequence[int] = (1, 2, 2, 2),
    ) -> None:
        super().__init__(PhotoNetwork(channels, widths, encoder_blocks, decoder_blocks))

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments it was made with."""
        network = self.network
        return {
            "channels": network.channels,
            "widths": network.widths,
            "encoder_blocks": network.encoder_blocks,
            "decoder_blocks": network.decoder_blocks,
        }


def _has_bfloat16(like: Tensor) -> bool:
    if like.dtype != torch.float32:
        return False
    if like.is_cuda:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
