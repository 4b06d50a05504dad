"""Numbers from which the contract tests make operators and priors, on the CPU, from one seed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import jpmap_fast as jf

IMAGE_SHAPE = (1, 8, 8)
PIXELS = math.prod(IMAGE_SHAPE)
BATCH = 4
LATENT = 3


@dataclass(frozen=True)
class Data:
    """What the builders of operators take, made before them so that a constructor meets no random.

    Attributes:
        images: [B, C, H, W] in [0, 1].
        sigma: [B].
        mask: [H, W]; masks: one an image, weights among them.
        kernel, even: blur kernels; kernels: one an image.
        wide, tall: matrices of fewer and of more rows than pixels.
    """

    images: Tensor
    sigma: Tensor
    mask: Tensor
    masks: Tensor
    kernel: Tensor
    even: Tensor
    kernels: Tensor
    wide: Tensor
    tall: Tensor


def data(batch: int = BATCH, dtype: torch.dtype = torch.float64, seed: int = 0) -> Data:
    """The data of a seed, for ``batch`` images."""
    g = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=g, dtype=torch.float64).to(dtype)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    masks = rand(batch, *IMAGE_SHAPE)
    masks[masks < 0.4] = 0
    return Data(
        images=rand(batch, *IMAGE_SHAPE),
        sigma=torch.linspace(0.05, 0.3, batch, dtype=dtype),
        mask=(rand(*IMAGE_SHAPE[1:]) < 0.5).to(dtype),
        masks=masks,
        kernel=rand(3, 3) / 5,
        even=rand(1, 2, 4) / 4,
        kernels=rand(batch, 1, 3, 2) / 3,
        wide=randn(12, PIXELS) / 12**0.5,
        tall=randn(PIXELS + 6, PIXELS) / PIXELS**0.5,
    )


class Shrink:
    """A denoiser: every image halfway to its mean, the more so the greater s."""

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        mean = x.flatten(1).mean(dim=1).reshape(-1, 1, 1, 1)
        return mean + (x - mean) / (1 + 10 * sigma)


def every_second_row(x: Tensor) -> Tensor:
    """A of a ``LinearOperator``: at the top of a module, so that it pickles."""
    return x[..., ::2, :] * 0.5


def every_second_row_adjoint(y: Tensor) -> Tensor:
    """The transpose of ``every_second_row``."""
    x = y.new_zeros(*y.shape[:-2], 2 * y.shape[-2], y.shape[-1])
    x[..., ::2, :] = y * 0.5
    return x


class Opaque(nn.Module):
    """A decoder that nothing reads as a chain of known layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(LATENT, 12), nn.Linear(12, PIXELS)

    def forward(self, z: Tensor) -> Tensor:
        """Images [B, C, H, W] of codes z [B, k]."""
        return torch.sigmoid(self.second(torch.sin(self.first(z)))).reshape(-1, *IMAGE_SHAPE)


class Encoder(nn.Module):
    """The mean of q(z|x), an affine function of x."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(PIXELS, LATENT)

    def forward(self, x: Tensor) -> Tensor:
        """Codes [B, k] of images x [B, C, H, W]."""
        return self.layer(x.flatten(1))


# A decoder far from linear; what a photographs' prior takes away is a part of the picture; what
# latents and their encoder say of each other must not grow from pass to pass.
_SCALES = {".posterior.": 0.3, ".code.": 0.1, "decoder": 2.0, "tail": 0.02}


def curved(prior: jf.Prior, dtype: torch.dtype, seed: int) -> jf.Prior:
    """A prior with weights from a seed, its decoder far from linear, ready to restore with."""
    g = torch.Generator().manual_seed(seed)
    assert isinstance(prior, nn.Module)
    with torch.no_grad():
        for name, parameter in prior.named_parameters():
            if parameter.dim() > 1:
                fan = math.prod(parameter.shape[1:])
                scale = next((s for part, s in _SCALES.items() if part in name), 1.0) / fan**0.5
                draws = torch.randn(parameter.shape, generator=g, dtype=torch.float64)
                parameter.copy_(scale * draws)
            elif parameter.dim() == 1:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=g))
        if hasattr(prior, "log_gamma"):
            prior.log_gamma.fill_(math.log(0.15))
    return prior.to(dtype).eval().requires_grad_(False)
