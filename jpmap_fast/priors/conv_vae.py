"""Convolutional variational autoencoders for images in colour or grey."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from jpmap_fast._validate import choice, count, counts
from jpmap_fast.priors.chain_decoder import chain_or_default
from jpmap_fast.priors.decoder_base import Decoder
from jpmap_fast.priors.defaults import default_encoder
from jpmap_fast.priors.networks import Networks
from jpmap_fast.priors.residual import Residual
from jpmap_fast.priors.vae import VAE

ACTIVATION_MODULES: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


class ConvVAE(Networks, VAE):
    r"""Convolutional encoder and decoder with one gamma.

    Model: p(x|z) = N(G(z), gamma^2 I), q(z|x) = N(mu_phi(x), exp(log_std_phi(x))^2).

    ``blocks="plain"`` is the network of the JPMAP paper: convolutions 5 x 5 of strides 1, 2, 2, 2,
    each with batch normalisation, then a hidden linear layer; the decoder mirrors it with
    transposed convolutions and has batch normalisation before its output too. With
    ``channels=(64, 128, 256, 512)``, ``hidden=1024`` and 64 latent dimensions it has 75,955,850
    parameters.

    ``blocks="residual"`` is a lighter one, with batch normalisation in the encoder alone. Each
    level of the encoder halves the sides by a 3 x 3 convolution and adds a residual block; the
    decoder mirrors it with sub-pixel convolutions (3 x 3 to four times the channels, then a
    rearrangement), so that nothing is computed at more than half the image's resolution. There is
    no hidden linear layer.

    Args:
        image_shape: (C, H, W); the sides must be multiples of 8 (plain), or of 2^levels (residual).
        latent_dim: k >= 1.
        channels: of the encoder's levels, finest first; four for plain, at least one for residual.
        blocks: "plain" or "residual".
        hidden: width of the linear layer of the plain network.
        activation: "elu", "relu", "silu", "softplus" or "tanh".

    Raises:
        ValueError, TypeError: a setting is out of range or of the wrong kind.

    Source: arXiv 2103.01648 (plain); K. He et al., CVPR 2016 (residual blocks); W. Shi et al., CVPR
    2016 (sub-pixel convolutions).
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (3, 64, 64),
        latent_dim: int = 64,
        channels: Sequence[int] = (32, 64, 128, 256),
        blocks: str = "residual",
        hidden: int = 1024,
        activation: str = "elu",
    ) -> None:
        super().__init__()
        choice("blocks", blocks, ("plain", "residual"))
        choice("activation", activation, tuple(ACTIVATION_MODULES))
        count("latent_dim", latent_dim, 1)
        count("hidden", hidden, 1)
        counts("channels", channels, 1)
        counts("image_shape", image_shape, 1)
        if blocks == "plain" and len(channels) != 4 or not channels:
            number = "four widths for plain blocks" if blocks == "plain" else "at least one width"
            raise ValueError(f"channels: expected {number}, got {channels!r}")
        reduction = 8 if blocks == "plain" else 2 ** len(channels)
        if len(image_shape) != 3:
            raise ValueError(f"image_shape: expected (C, H, W), got {tuple(image_shape)}")
        if image_shape[1] % reduction or image_shape[2] % reduction:
            raise ValueError(
                f"image_shape: expected sides that are multiples of {reduction} for "
                f"{len(channels)} levels, got {tuple(image_shape)}"
            )
        self.image_shape = (image_shape[0], image_shape[1], image_shape[2])
        self.latent_dim = latent_dim
        self.channels = tuple(channels)
        self.blocks = blocks
        self.hidden = hidden
        self.activation = activation
        sides = (self.image_shape[1] // reduction, self.image_shape[2] // reduction)
        make = _plain if blocks == "plain" else _residual
        self.encoder_network, features, self.decoder_network = make(
            self.image_shape[0], self.channels, sides, latent_dim, hidden, activation
        )
        self.encoder_mean = nn.Linear(features, latent_dim)
        self.encoder_log_std = nn.Linear(features, latent_dim)

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "image_shape": list(self.image_shape),
            "latent_dim": self.latent_dim,
            "channels": list(self.channels),
            "blocks": self.blocks,
            "hidden": self.hidden,
            "activation": self.activation,
        }

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of q(z|x), each [B, k], of x [B, C, H, W] in [0, 1].

        Raises:
            TypeError: integer images. ValueError: another shape.
        """
        self._check_images(x)
        h = self.encoder_network(x)
        return self.encoder_mean(h), self.encoder_log_std(h)

    def decode(self, z: Tensor) -> Tensor:
        """G(z): images [B, C, H, W] of codes z [B, k].

        Raises:
            ValueError: z is not [B, k].
        """
        self._check_codes(z)
        out: Tensor = self.decoder_network(z)
        return out

    def decoder(self, like: Tensor) -> Decoder:
        """G read as a chain of modules, see ``Prior``; by torch where there is more to it."""
        return chain_or_default(self, _DECODE, like)

    def encoder(self, like: Tensor) -> Callable[[Tensor], Tensor]:
        """mu_phi, images [B, C, H, W] to codes [B, k], see ``Prior``."""
        return default_encoder(self)


# As it is when this module is read: whoever replaces it decodes in another way.
_DECODE = ConvVAE.decode


def _plain(
    colours: int,
    channels: tuple[int, ...],
    sides: tuple[int, int],
    latent_dim: int,
    hidden: int,
    activation: str,
) -> tuple[nn.Sequential, int, nn.Sequential]:
    """Encoder up to its features, their number, and decoder, of the paper's network."""
    act = ACTIVATION_MODULES[activation]
    flat = channels[-1] * sides[0] * sides[1]
    encoder: list[nn.Module] = []
    before = colours
    for width, stride in zip(channels, (1, 2, 2, 2), strict=True):
        convolution = nn.Conv2d(before, width, 5, stride=stride, padding=2)
        encoder += [convolution, nn.BatchNorm2d(width), act()]
        before = width
    encoder += [nn.Flatten(), nn.Linear(flat, hidden), act()]
    decoder: list[nn.Module] = [
        nn.Linear(latent_dim, hidden),
        act(),
        nn.Linear(hidden, flat),
        act(),
        nn.Unflatten(1, (channels[-1], *sides)),
    ]
    for wide, narrow in zip(channels[:0:-1], channels[-2::-1], strict=True):
        up = nn.ConvTranspose2d(wide, narrow, 5, stride=2, padding=2, output_padding=1)
        decoder += [up, nn.BatchNorm2d(narrow), act()]
    last = nn.ConvTranspose2d(channels[0], colours, 5, padding=2)
    decoder += [last, nn.BatchNorm2d(colours), nn.Sigmoid()]
    return nn.Sequential(*encoder), hidden, nn.Sequential(*decoder)


def _residual(
    colours: int,
    channels: tuple[int, ...],
    sides: tuple[int, int],
    latent_dim: int,
    hidden: int,
    activation: str,
) -> tuple[nn.Sequential, int, nn.Sequential]:
    """Encoder up to its features, their number, and decoder, of the lighter network."""
    act = ACTIVATION_MODULES[activation]

    def block(width: int) -> Residual:
        second = nn.Conv2d(width, width, 3, padding=1)
        # Every block begins as the identity: the network trains as a shallow one at first.
        nn.init.zeros_(second.weight)
        return Residual(nn.Sequential(act(), nn.Conv2d(width, width, 3, padding=1), act(), second))

    encoder: list[nn.Module] = []
    before = colours
    for width in channels:
        convolution = nn.Conv2d(before, width, 3, stride=2, padding=1)
        encoder += [convolution, block(width), nn.BatchNorm2d(width), act()]
        before = width
    encoder.append(nn.Flatten())
    flat = channels[-1] * sides[0] * sides[1]
    decoder: list[nn.Module] = [
        nn.Linear(latent_dim, flat),
        nn.Unflatten(1, (channels[-1], *sides)),
    ]
    for wide, narrow in zip(channels[::-1], (*channels[-2::-1], colours), strict=True):
        up = nn.Conv2d(wide, 4 * narrow, 3, padding=1)
        decoder += [block(wide), act(), up, nn.PixelShuffle(2)]
    decoder.append(nn.Sigmoid())
    return nn.Sequential(*encoder), flat, nn.Sequential(*decoder)
