"""Priors for photographs: pictures of any size, by a noise-conditional autoencoder."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from jpmap_fast._surroundings import full_precision
from jpmap_fast.priors.photo_network import PhotoNetwork
from jpmap_fast.priors.tiles import in_tiles

# Of one pass of the network; about 1 kB of features a pixel at its finest level.
PIXELS_ON_GPU, PIXELS_ON_CPU = 2**22, 2**20


class PhotoPrior(nn.Module):
    r"""A prior for pictures of any height and width, grey or in colour.

    It is known by the mean of p(x | x + s n), n ~ N(0, I), at every noise level s: an encoder
    that is told s, a decoder, and nothing between them that a density could be put on. The code of
    a picture is all that the decoder is given, many more numbers than the picture has, so that there
    are no codes to descend in (``latent_dim`` is 0): what restores with this prior is
    ``method="encoder"``, which asks ``autoencode`` alone.

    Args:
        network: trained.
        gamma: root mean squared error of ``autoencode`` at s = 25/255, > 0.
        image_shape: (C, H, W), once bound.

    Attributes:
        low_precision: whether its products may be bfloat16, where the device has them.

    Raises:
        ValueError: gamma is not positive.
    """

    latent_dim = 0
    low_precision: bool = True

    def __init__(
        self, network: PhotoNetwork, gamma: float, image_shape: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        if not gamma > 0:
            raise ValueError(f"gamma: expected a standard deviation > 0, got {gamma!r}")
        self.network = network
        self.gamma = float(gamma)
        self.image_shape = None if image_shape is None else tuple(image_shape)
        self._working: dict[str, Any] = {}

    @property
    def channels(self) -> int:
        """1 for grey pictures, 3 for colour."""
        return self.network.channels

    def bind(self, image_shape: Sequence[int]) -> PhotoPrior:
        """The same prior, its weights shared, for pictures (C, H, W).

        Raises:
            ValueError: another number of channels, or no pixels.
        """
        shape = tuple(image_shape)
        if len(shape) != 3 or shape[0] != self.channels or min(shape) < 1:
            kind, other = ("grey", "photos") if self.channels == 1 else ("colour", "photos-grey")
            raise ValueError(
                f"prior: expected {kind} pictures, of shape [{self.channels}, H, W], got "
                f"{list(shape)}; the prior {other!r} takes the other kind"
            )
        new = copy.copy(self)
        new.image_shape = shape
        return new

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

        def of(part: Tensor) -> Tensor:
            return network(part, s if len(s) == len(part) else s[:1])

        with torch.no_grad(), full_precision():
            one_level = len(x) == 1 or x[0].numel() * len(x) <= pixels * self.channels
            if one_level:
                return self._tiled(of, x, pixels)
            rows = zip(x.split(1), s.split(1), strict=True)
            return torch.cat(
                [self._tiled(lambda part, s=level: network(part, s), one, pixels) for one, level in rows]
            )

    def _tiled(self, network: Any, x: Tensor, pixels: int) -> Tensor:
        return in_tiles(
            network, x, reach=self.network.reach, stride=self.network.stride, pixels=pixels
        )

    def _network(self, like: Tensor) -> PhotoNetwork:
        """The network in the precision and layout that it runs in, kept while the weights stay."""
        parameters = list(self.network.parameters())
        half = self.low_precision and parameters[0].dtype == torch.float32 and _has_bfloat16(like)
        state = (half, *((p.data_ptr(), 0 if p.is_inference() else p._version) for p in parameters))
        if self._working.get("state") != state:
            network = copy.deepcopy(self.network)
            if half:
                network = network.to(torch.bfloat16)
                # The picture goes in whole: in bfloat16 it would lose more than it has noise.
                network.head.to(torch.float32)
                network.head.weight = nn.Parameter(self.network.head.weight.detach().clone())
            network = network.to(memory_format=torch.channels_last).requires_grad_(False)
            self._working.update(state=state, network=network)
        return self._working["network"]  # type: ignore[no-any-return]

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """There are no codes: see the class.

        Raises:
            ValueError: always.
        """
        raise ValueError(_NO_CODES)

    def decode(self, z: Tensor) -> Tensor:
        """There are no codes: see the class.

        Raises:
            ValueError: always.
        """
        raise ValueError(_NO_CODES)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_working": {}}

    def __deepcopy__(self, memo: dict[int, Any]) -> PhotoPrior:
        new = copy.copy(self)
        new.__dict__ = copy.deepcopy(self.__getstate__(), memo)
        return new


_NO_CODES = (
    "prior: expected one with latent codes, got a PhotoPrior, which has none; restore with "
    'method="encoder"'
)


def _has_bfloat16(like: Tensor) -> bool:
    if like.dtype != torch.float32:
        return False
    if like.is_cuda:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
