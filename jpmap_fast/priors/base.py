"""What a prior is: an encoder, a decoder and the standard deviation between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from jpmap_fast.priors.chain_decoder import chain_or_default
from jpmap_fast.priors.decoder_base import Decoder
from jpmap_fast.priors.defaults import default_encoder
from jpmap_fast.priors.networks import Networks


@runtime_checkable
class Prior(Protocol):
    r"""A variational autoencoder as ``restore`` sees it.

    The model is p(z) = N(0, I), p(x|z) = N(decode(z), gamma^2 I), q(z|x) = N(mean, exp(log_std)^2).
    gamma is a standard deviation; beta = 1 / gamma^2.

    These five members are enough. A prior may have more of the following, and is asked by them
    where its class defines the methods as functions with these parameters; anything else of the
    same name, such as a module ``decoder``, means nothing:

    - ``decoder(like) -> Decoder``: its decoder with derivatives, where it knows better than
      ``torch.func`` on ``decode``, such as ``jpmap_fast.priors.MLPDecoder.of(layers,
      activations)``. ``like`` is a tensor of the type and device of the codes, which a ``Decoder``
      takes as rows [B, k]. It must give the images of ``decode``. A subclass that overrides
      ``decode`` alone is asked by ``decode``.
    - ``encoder(like) -> Callable[[Tensor], Tensor]``: the mean of q(z|x) of images [B, C, H, W],
      where that is less than ``encode(x)[0]``.
    - ``bind(image_shape) -> Prior``: for a prior of any image size, whose ``image_shape`` is None,
      the same prior for images (C, H, W), with ``image_shape``, ``latent_dim`` and ``code_shape``
      set. A ``ValueError`` says which sizes it takes.
    - ``channels``: of the images of such a prior, 1 or 3, which pictures of files are brought to;
      as they are without it.
    - ``autoencode(x, s) -> Tensor``: pictures [B, C, H, W] with noise of level s [B] to their
      denoised ones, for a prior without codes (latent_dim 0), which ``EncoderContinuation`` asks by
      it alone; its ``encode`` and ``decode`` may refuse.
    - ``method``: for such a prior the name of the method that restores with it where nobody says
      another, "encoder" or "patch-jpmap"; "encoder" without it.
    - ``code_shape``: of one code, for an encoder and a decoder of codes [B, \*code_shape], with
      latent_dim the product of its sizes; (latent_dim,) without it.
    - ``restoration``: a dict of ``starts`` and ``n2``, which ``JPMAP`` and ``MAPz`` take where the
      caller says nothing; {} without it.
    - ``residuals``: models of x - G(z) truer than white noise, by name, see ``fit_residuals``; {}
      without it.
    - ``low_precision``: whether Jacobians may be bfloat16 on a GPU; True without it.
    """

    @property
    def gamma(self) -> float:
        """Standard deviation of p(x|z), > 0."""
        ...

    @property
    def latent_dim(self) -> int:
        """k, the number of entries a code has."""
        ...

    @property
    def image_shape(self) -> tuple[int, ...] | None:
        """(C, H, W); None for a prior of any image size that is not bound to one."""
        ...

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of q(z|x), each [B, k], of images [B, C, H, W]."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """Mean of p(x|z), images [B, C, H, W] in [0, 1], of codes [B, k]."""
        ...


class ModulePrior(Networks):
    """Any pair of torch modules as a prior.

    Args:
        encoder: images [B, C, H, W] to a pair (mean, log_std) of [B, k], or to one tensor [B, 2 k]
            holding both, or to the mean alone [B, k].
        decoder: codes [B, k] to images [B, C, H, W] (or [B, C H W]).
        gamma: standard deviation of p(x|z), > 0.
        latent_dim: k.
        image_shape: (C, H, W).

    Attributes:
        encoder_network, decoder_network: the two. A decoder that is an ``nn.Sequential`` of known
            modules is read as a chain; see ``Prior`` for ``decoder``, ``encoder`` and the
            attributes ``restoration`` and ``low_precision``.

    Raises:
        ValueError: gamma is not positive.
    """

    low_precision: bool = True

    def __init__(
        self,
        encoder: Callable[[Tensor], Any],
        decoder: Callable[[Tensor], Tensor],
        gamma: float,
        latent_dim: int,
        image_shape: tuple[int, int, int],
    ) -> None:
        super().__init__()
        if not gamma > 0:
            raise ValueError(f"gamma: expected a standard deviation > 0, got {gamma!r}")
        self.encoder_network = encoder
        self.decoder_network = decoder
        self.gamma = float(gamma)
        self.latent_dim = latent_dim
        self.image_shape = tuple(image_shape)

    @property
    def is_of_modules(self) -> bool:
        """Whether it decodes with its parameters alone: what a function holds nobody knows."""
        return isinstance(self.decoder_network, nn.Module)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out = self.encoder_network(x)
        if isinstance(out, Tensor):
            if out.shape[1] == 2 * self.latent_dim:
                return out[:, : self.latent_dim], out[:, self.latent_dim :]
            return out, torch.zeros_like(out)
        mean, log_std = out
        return mean, log_std

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder_network(z).reshape(-1, *self.image_shape)

    def decoder(self, like: Tensor) -> Decoder:
        """G read as a chain of modules, see ``Prior``; by torch where there is more to it."""
        return chain_or_default(self, _DECODE, like)

    def encoder(self, like: Tensor) -> Callable[[Tensor], Tensor]:
        """mu_phi, images [B, C, H, W] to codes [B, k], see ``Prior``."""
        return default_encoder(self)


# As it is when this module is read: whoever replaces it decodes in another way.
_DECODE = ModulePrior.decode
