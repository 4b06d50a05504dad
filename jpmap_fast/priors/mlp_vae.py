"""A variational autoencoder of two multilayer perceptrons."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from jpmap_fast._validate import choice, count, counts
from jpmap_fast.kernels.activations import ACTIVATIONS, HIDDEN_ACTIVATIONS, OUTPUT_ACTIVATIONS
from jpmap_fast.priors.decoder_base import Decoder
from jpmap_fast.priors.defaults import default_decoder, default_encoder
from jpmap_fast.priors.mlp_decoder import MLPDecoder, MLPEncoder, are_plain_linear
from jpmap_fast.priors.plain import does
from jpmap_fast.priors.vae import VAE


class MLPVAE(VAE):
    r"""Encoder n - hidden - {k, k} and decoder k - hidden reversed - n, with one learned gamma.

    Model: p(x|z) = N(G(z), gamma^2 I), q(z|x) = N(mu_phi(x), exp(log_std_phi(x))^2). The defaults
    are the MNIST network of the JPMAP paper, 784-512-512-{8, 8} and 8-512-512-784, with ELU units
    and a sigmoid output: 1,342,241 parameters.

    Args:
        image_shape: (C, H, W).
        latent_dim: k >= 1.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        hidden_activation: "elu", "relu", "silu", "softplus" or "tanh".
        output_activation: "sigmoid" or "identity".

    Raises:
        ValueError, TypeError: a setting is out of range or of the wrong kind.

    Source: arXiv 2103.01648 (architecture); D. Kingma, M. Welling, ICLR 2014.
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        latent_dim: int = 8,
        hidden: Sequence[int] = (512, 512),
        hidden_activation: str = "elu",
        output_activation: str = "sigmoid",
    ) -> None:
        super().__init__()
        counts("image_shape", image_shape, 1)
        if len(image_shape) != 3:
            raise ValueError(f"image_shape: expected (C, H, W), got {tuple(image_shape)}")
        count("latent_dim", latent_dim, 1)
        counts("hidden", hidden, 1)
        if not hidden:
            raise ValueError("hidden: expected at least one width, got none")
        choice("hidden_activation", hidden_activation, HIDDEN_ACTIVATIONS)
        choice("output_activation", output_activation, OUTPUT_ACTIVATIONS)
        self.image_shape = (image_shape[0], image_shape[1], image_shape[2])
        self.latent_dim = latent_dim
        self.hidden = tuple(hidden)
        self.hidden_activation = hidden_activation
        self.output_activation = output_activation
        pixels = math.prod(image_shape)
        sizes = (pixels, *hidden)
        self.encoder_layers = nn.ModuleList(
            nn.Linear(i, o) for i, o in zip(sizes, sizes[1:], strict=False)
        )
        self.encoder_mean = nn.Linear(sizes[-1], latent_dim)
        self.encoder_log_std = nn.Linear(sizes[-1], latent_dim)
        sizes = (latent_dim, *reversed(hidden), pixels)
        self.decoder_layers = nn.ModuleList(
            nn.Linear(i, o) for i, o in zip(sizes, sizes[1:], strict=False)
        )

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "image_shape": list(self.image_shape),
            "latent_dim": self.latent_dim,
            "hidden": list(self.hidden),
            "hidden_activation": self.hidden_activation,
            "output_activation": self.output_activation,
        }

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of q(z|x), each [B, k], of x [B, C, H, W] in [0, 1].

        Raises:
            TypeError: integer images. ValueError: another shape.
        """
        self._check_images(x)
        h = x.flatten(1)
        activation = ACTIVATIONS[self.hidden_activation].value
        for layer in self.encoder_layers:
            h = activation(layer(h))
        return self.encoder_mean(h), self.encoder_log_std(h)

    def decode(self, z: Tensor) -> Tensor:
        """G(z): images [B, C, H, W] of codes z [B, k].

        Raises:
            ValueError: z is not [B, k].
        """
        self._check_codes(z)
        h = z
        activation = ACTIVATIONS[self.hidden_activation].value
        for layer in self.decoder_layers[:-1]:
            h = activation(layer(h))
        out = ACTIVATIONS[self.output_activation].value(self.decoder_layers[-1](h))
        return out.reshape(-1, *self.image_shape)

    def decoder(self, like: Tensor) -> Decoder:
        """G read as a multilayer perceptron, see ``Prior``; by torch where there is more to it."""
        layers = list(self.decoder_layers)
        if not (does(self, "decode", _DECODE) and are_plain_linear(layers)):
            return default_decoder(self, like)
        hidden = [self.hidden_activation] * (len(layers) - 1)
        return MLPDecoder.of(layers, [*hidden, self.output_activation])

    def encoder(self, like: Tensor) -> Callable[[Tensor], Tensor]:
        """mu_phi, images [B, C, H, W] to codes [B, k] that do not depend on the batch."""
        layers = [*self.encoder_layers, self.encoder_mean]
        if not (does(self, "encode", _ENCODE) and are_plain_linear(layers)):
            return default_encoder(self)
        return MLPEncoder(layers, [self.hidden_activation] * (len(layers) - 1) + ["identity"])


# As they are when this module is read: whoever replaces one decodes in another way.
_DECODE, _ENCODE = MLPVAE.decode, MLPVAE.encode
