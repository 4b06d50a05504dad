"""Chains of known modules with random weights, and what derivatives of theirs are compared to."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import jpmap_fast as jf
from jpmap_fast.priors.chain_decoder import ChainDecoder
from jpmap_fast.priors.function_decoder import FunctionDecoder
from jpmap_fast.priors.residual import Residual

K = 3  # latent dimensions
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def conv_vae(blocks: str, activation: str = "elu") -> nn.Module:
    channels = (4, 6, 6, 8) if blocks == "plain" else (4, 6)
    return jf.ConvVAE((2, 8, 16), K, channels, blocks, 10, activation).decoder_network


def image(*modules: nn.Module, channels: int = 4, height: int = 3, width: int = 2) -> nn.Sequential:
    """Modules behind a linear one that makes images of the code."""
    return nn.Sequential(
        nn.Linear(K, channels * height * width),
        nn.Unflatten(1, (channels, height, width)),
        nn.SiLU(),
        *modules,
    )


def residual(*modules: nn.Module) -> Residual:
    return Residual(nn.Sequential(*modules))


CHAINS: dict[str, Callable[[], nn.Module]] = {
    **{
        f"conv-vae-{blocks}-{activation}": lambda b=blocks, a=activation: conv_vae(b, a)
        for blocks in ("plain", "residual")
        for activation in ("elu", "relu", "silu", "softplus", "tanh")
    },
    **{
        type(module).__name__: lambda m=module: nn.Sequential(
            nn.Linear(K, 7), m, nn.Linear(7, 5), m
        )
        for module in (nn.ELU(), nn.ReLU(), nn.SiLU(), nn.Softplus(), nn.Tanh(), nn.Sigmoid())
    },
    "in-place": lambda: nn.Sequential(
        nn.Linear(K, 7), nn.ELU(inplace=True), nn.Linear(7, 5), nn.SiLU(inplace=True)
    ),
    "linear": lambda: nn.Sequential(nn.Linear(K, 7), nn.Linear(7, 5, bias=False)),
    "starts-with-activation": lambda: nn.Sequential(nn.Tanh(), nn.Linear(K, 5)),
    "one-activation-twice": lambda: nn.Sequential(nn.Linear(K, 5), nn.Tanh(), nn.Tanh()),
    "linear-on-images": lambda: image(nn.Linear(2, 5), nn.Tanh()),
    "conv-bias": lambda: image(nn.Conv2d(4, 5, 3, padding=1), nn.Tanh()),
    "conv-no-bias": lambda: image(nn.Conv2d(4, 5, 3, padding=1, bias=False), nn.Tanh()),
    "conv-same": lambda: image(nn.Conv2d(4, 5, 3, padding="same"), nn.Tanh()),
    "conv-strided": lambda: image(nn.Conv2d(4, 5, (3, 1), stride=(2, 1), padding=(1, 0)), nn.ELU()),
    "conv-groups": lambda: image(nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.Sigmoid()),
    "conv-depthwise": lambda: image(nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Sigmoid()),
    "conv-dilation": lambda: image(nn.Conv2d(4, 5, 3, padding=2, dilation=2), nn.Sigmoid()),
    "transposed": lambda: image(nn.ConvTranspose2d(4, 5, 3), nn.ELU()),
    "transposed-strided": lambda: image(
        nn.ConvTranspose2d(4, 5, 5, stride=2, padding=2, output_padding=1, bias=False), nn.ELU()
    ),
    "transposed-groups": lambda: image(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.ELU()),
    "transposed-dilation": lambda: image(nn.ConvTranspose2d(4, 5, 3, dilation=2), nn.ELU()),
    "norm-after-conv": lambda: image(nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.ELU(), width=4),
    "norm-after-conv-groups": lambda: image(
        nn.Conv2d(4, 6, 1, groups=2), nn.BatchNorm2d(6), nn.ELU()
    ),
    "norm-after-transposed": lambda: image(
        nn.ConvTranspose2d(4, 5, 3), nn.BatchNorm2d(5), nn.Sigmoid()
    ),
    "norm-after-transposed-groups": lambda: image(
        nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), nn.Sigmoid()
    ),
    "norm-after-linear": lambda: image(nn.Linear(2, 4), nn.BatchNorm2d(4), nn.Tanh()),
    "norm-alone": lambda: image(nn.BatchNorm2d(4), nn.Tanh(), nn.BatchNorm2d(4)),
    "norm-twice": lambda: image(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)),
    "norm-without-weights": lambda: image(
        nn.Conv2d(4, 5, 1),
        nn.BatchNorm2d(5, affine=False),
        nn.Tanh(),
        nn.BatchNorm2d(5, affine=False, eps=0.1),
    ),
    "norm-last": lambda: image(nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5)),
    "nearest": lambda: image(nn.Upsample(scale_factor=2), nn.Conv2d(4, 2, 3), nn.Tanh()),
    "nearest-old": lambda: image(nn.UpsamplingNearest2d(scale_factor=2), nn.Tanh()),
    "bilinear": lambda: image(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Tanh()),
    "bilinear-corners": lambda: image(
        nn.Upsample(size=(7, 5), mode="bilinear", align_corners=True), nn.Tanh()
    ),
    "bicubic": lambda: image(nn.Upsample(scale_factor=2, mode="bicubic"), nn.Tanh()),
    "shuffle": lambda: image(nn.Conv2d(4, 8, 3, padding=1), nn.PixelShuffle(2), nn.Tanh()),
    "shuffle-norm": lambda: image(
        nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8), nn.PixelShuffle(2), nn.Tanh()
    ),
    "shuffle-groups": lambda: image(nn.Conv2d(4, 8, 1, groups=2), nn.PixelShuffle(2), nn.Tanh()),
    "shuffle-last": lambda: image(nn.Conv2d(4, 8, 1), nn.PixelShuffle(2)),
    "shuffle-alone": lambda: image(nn.PixelShuffle(2), nn.Conv2d(1, 2, 3), nn.Tanh()),
    "shuffle-by-three": lambda: image(nn.Conv2d(4, 9, 1), nn.PixelShuffle(3), nn.Tanh()),
    "flatten": lambda: image(nn.Flatten(), nn.Linear(24, 5), nn.Tanh()),
    "flatten-some": lambda: image(nn.Flatten(2), nn.Linear(6, 5), nn.Tanh()),
    "flatten-from-the-end": lambda: image(nn.Flatten(-2), nn.Linear(6, 5), nn.Tanh()),
    "unflatten-last": lambda: nn.Sequential(
        nn.Linear(K, 12), nn.Unflatten(-1, (3, 2, 2)), nn.Conv2d(3, 2, 2), nn.Tanh()
    ),
    "dropout": lambda: image(nn.Dropout(0.5), nn.Conv2d(4, 5, 1), nn.Dropout2d(0.5), nn.Tanh()),
    "identity": lambda: image(nn.Identity(), nn.Conv2d(4, 5, 1), nn.Identity(), nn.Tanh()),
    "nested": lambda: nn.Sequential(
        nn.Sequential(nn.Linear(K, 8), nn.Sequential(nn.ELU())),
        nn.Sequential(nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 3, 1)),
        nn.Sequential(nn.BatchNorm2d(3), nn.Sequential()),
    ),
    "residual-linear": lambda: image(residual(nn.Conv2d(4, 4, 3, padding=1)), nn.Tanh()),
    "residual-twice": lambda: image(
        residual(nn.ELU(), nn.Conv2d(4, 4, 1)), residual(nn.Tanh(), nn.Conv2d(4, 4, 1)), nn.Tanh()
    ),
    "residual-in-residual": lambda: image(
        residual(nn.ELU(), residual(nn.Tanh(), nn.Conv2d(4, 4, 1)), nn.Conv2d(4, 4, 1)),
        nn.SiLU(),
        nn.Conv2d(4, 2, 1),
    ),
    "residual-of-residual": lambda: image(residual(residual(nn.Tanh())), nn.SiLU()),
    "residual-first": lambda: nn.Sequential(residual(nn.Linear(K, K), nn.Tanh()), nn.Linear(K, 5)),
    "residual-last": lambda: image(residual(nn.Tanh(), nn.Conv2d(4, 4, 1))),
    "residual-of-nothing": lambda: image(residual(), nn.Tanh()),
    "residual-after-shuffle": lambda: image(
        nn.Conv2d(4, 8, 1),
        nn.PixelShuffle(2),
        residual(nn.ELU(), nn.Conv2d(2, 2, 3, padding=1)),
        nn.Tanh(),
    ),
    "residual-with-shuffle": lambda: image(
        residual(nn.Conv2d(4, 16, 1), nn.PixelShuffle(2), nn.Conv2d(4, 4, 2, 2)), nn.Tanh()
    ),
}


def named(table):
    """Names of a table as parameters."""
    return pytest.mark.parametrize("name", list(table))


def prepared(module: nn.Module) -> nn.Module:
    """In float64 and evaluation mode, every parameter and statistic random."""
    module = module.double().eval().requires_grad_(False)
    torch.manual_seed(3)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            if part.running_var is not None:
                part.running_mean.normal_()
                part.running_var.uniform_(0.3, 3)
            if part.weight is not None:
                part.weight.normal_()
                part.bias.normal_()
        elif hasattr(part, "weight"):
            fan_in = part.weight[0].numel()
            part.weight.normal_(std=1.5 / math.sqrt(fan_in))
            if part.bias is not None:
                part.bias.normal_(std=0.5)
    return module


def codes(batch: int = 4) -> Tensor:
    return torch.randn(batch, K, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def decoder_of(module: nn.Module) -> ChainDecoder:
    size = module(codes(1)).numel()
    found = ChainDecoder.of(module, K, size, True)
    assert found is not None, "not read as a chain"
    return found


def jacobian(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Transposed Jacobians [B, k, n] by torch.func alone."""
    one = torch.func.jacrev(lambda code: function(code[None]).flatten())
    return torch.func.vmap(one)(z).mT


def weighted_hessian(function: Callable[[Tensor], Tensor], z: Tensor, c: Tensor) -> Tensor:
    """sum_j c_j times the Hessian of output j, [B, k, k], by torch.func alone."""

    def weighted(code: Tensor, weight: Tensor) -> Tensor:
        return (function(code[None]).flatten() * weight).sum()

    return torch.func.vmap(torch.func.hessian(weighted))(z, c)


def check_derivatives(
    decoder: FunctionDecoder, function: Callable[[Tensor], Tensor], z: Tensor
) -> None:
    """Everything a solver asks of a decoder, against torch.func on ``function``."""
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        expected = function(z).flatten(1)
    columns = jacobian(function, z)
    c = torch.randn(expected.shape, generator=g, dtype=torch.float64)
    pulled = torch.einsum("bkn,bn->bk", columns, c)
    torch.testing.assert_close(decoder.value(z), expected, **CLOSE)
    assert decoder.exact_tangents(z)

    value, found = decoder.linearise(z)
    torch.testing.assert_close(value, expected, **CLOSE)
    torch.testing.assert_close(found, columns, **CLOSE)

    value, found = decoder.pullback(z, lambda decoded: c * decoded)
    torch.testing.assert_close(value, expected, **CLOSE)
    torch.testing.assert_close(found, torch.einsum("bkn,bn->bk", columns, c * expected), **CLOSE)

    linear = decoder.linearisation(z)
    for _ in range(2):  # a linearisation serves many products
        v = torch.randn(z.shape, generator=g, dtype=torch.float64)
        torch.testing.assert_close(linear.push(v), torch.einsum("bkn,bk->bn", columns, v), **CLOSE)
        torch.testing.assert_close(linear.pull(c), pulled, **CLOSE)

    for second_order in (False, True):
        with torch.no_grad():
            expansion = decoder.expand(z, lambda decoded: c + 0 * decoded, second_order)
        torch.testing.assert_close(expansion.columns, columns, **CLOSE)
        torch.testing.assert_close(expansion.pulled, pulled, **CLOSE)
        if not second_order:
            assert expansion.curvature is None
        elif isinstance(decoder, ChainDecoder):
            curvature = expansion.curvature
            if curvature is None:  # no activation in the chain
                curvature = torch.zeros(len(z), K, K, dtype=torch.float64)
            torch.testing.assert_close(curvature, weighted_hessian(function, z, c), **CLOSE)


def wrapped(module: nn.Module) -> jf.ModulePrior:
    size = module(codes(2)).shape[1:].numel()
    return jf.ModulePrior(lambda x: x.flatten(1)[:, :K], module, 0.1, K, (1, 1, size))
