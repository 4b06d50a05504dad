"""What a prior is: an encoder, a decoder and the standard deviation between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class Prior(Protocol):
    r"""A variational autoencoder as ``restore`` sees it.

    The model is p(z) = N(0, I), p(x|z) = N(decode(z), gamma^2 I), q(z|x) = N(mean, exp(log_std)^2).
    gamma is a standard deviation; beta = 1 / gamma^2.
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
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        ...

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of q(z|x), each [B, k], of images [B, C, H, W]."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """Mean of p(x|z), images [B, C, H, W] in [0, 1], of codes [B, k]."""
        ...


class ModulePrior(nn.Module):
    """Any pair of torch modules as a prior.

    Args:
        encoder: images [B, C, H, W] to a pair (mean, log_std) of [B, k], or to one tensor [B, 2 k]
            holding both, or to the mean alone [B, k].
        decoder: codes [B, k] to images [B, C, H, W] (or [B, C H W]).
        gamma: standard deviation of p(x|z), > 0.
        latent_dim: k.
        image_shape: (C, H, W).

    Raises:
        ValueError: gamma is not positive.
    """

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
        self.encoder = encoder
        self.decoder = decoder
        self.gamma = float(gamma)
        self.latent_dim = latent_dim
        self.image_shape = tuple(image_shape)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out = self.encoder(x)
        if isinstance(out, Tensor):
            if out.shape[1] == 2 * self.latent_dim:
                return out[:, : self.latent_dim], out[:, self.latent_dim :]
            return out, torch.zeros_like(out)
        mean, log_std = out
        return mean, log_std

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z).reshape(-1, *self.image_shape)
