"""Small problems with known answers, shared by the tests."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from dense_matrices import convolution, cosine_transform
from torch import Tensor, nn

import jpmap_fast as jf
from jpmap_fast.priors import MLPDecoder

IMAGE_SHAPE = (1, 6, 5)
PIXELS = math.prod(IMAGE_SHAPE)


class LinearPrior(nn.Module):
    """G(z) = W z + b, encoder the exact posterior mean of z given x: everything is Gaussian."""

    def __init__(self, latent_dim: int = 3, gamma: float = 0.2, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        layer = nn.Linear(latent_dim, PIXELS, dtype=torch.float64)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(PIXELS, latent_dim, generator=generator))
            layer.bias.copy_(torch.rand(PIXELS, generator=generator))
        self.decoder_layers = nn.ModuleList([layer])
        self.gamma = gamma
        self.latent_dim = latent_dim
        self.image_shape = IMAGE_SHAPE

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder_layers[0](z).reshape(-1, *self.image_shape)

    def decoder(self, like: Tensor) -> MLPDecoder:
        return MLPDecoder.of(self.decoder_layers, ["identity"])

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        w, b = self.decoder_layers[0].weight, self.decoder_layers[0].bias
        h = w.T @ w / self.gamma**2 + torch.eye(self.latent_dim, dtype=w.dtype)
        mean = torch.linalg.solve(h, (x.flatten(1) - b) @ w / self.gamma**2, left=False)
        return mean, torch.zeros_like(mean)


def small_mlp(latent_dim: int = 3, dtype: torch.dtype = torch.float64, seed: int = 0) -> jf.MLPVAE:
    """An untrained MLP prior whose decoder is curved enough to be no linear map."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        prior = jf.MLPVAE(image_shape=IMAGE_SHAPE, latent_dim=latent_dim, hidden=(16, 12))
    with torch.no_grad():
        for layer in prior.decoder_layers:
            layer.weight.mul_(3)
        prior.log_gamma.fill_(math.log(0.15))
    return prior.to(dtype).eval()


@dataclass
class Case:
    """An operator with measurements of a batch, and A as a dense matrix per image [B, m, n]."""

    name: str
    operator: jf.Operator
    y: Tensor
    sigma: Tensor
    matrix: Tensor


def cases(batch: int = 4, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Case]:
    """One case for every kind of operator, sigma different for each image."""
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(batch, *IMAGE_SHAPE, generator=g, dtype=dtype)
    sigma = torch.linspace(0.05, 0.3, batch, dtype=dtype)
    shared = (torch.rand(IMAGE_SHAPE[1:], generator=g) < 0.5).to(dtype)
    several = torch.rand(batch, *IMAGE_SHAPE, generator=g, dtype=dtype)
    several[several < 0.3] = 0
    wide = torch.randn(11, PIXELS, generator=g, dtype=dtype) / 11**0.5
    tall = torch.randn(PIXELS + 7, PIXELS, generator=g, dtype=dtype) / PIXELS**0.5
    half = torch.randn(9, PIXELS, generator=g, dtype=dtype) / 3

    def forward(images: Tensor) -> Tensor:
        return images.flatten(1) @ half.T

    def adjoint(measured: Tensor) -> Tensor:
        return (measured @ half).reshape(-1, *IMAGE_SHAPE)

    odd = torch.rand(3, 3, generator=g, dtype=dtype) / 5
    even = torch.rand(batch, 1, 4, 2, generator=g, dtype=dtype) / 4
    blur_odd = convolution(odd[None], IMAGE_SHAPE)
    blur_even = torch.stack([convolution(kernel, IMAGE_SHAPE) for kernel in even])
    reflect = convolution(odd[None], IMAGE_SHAPE, "reflect")
    masks = torch.diag_embed(several.flatten(1))
    dct = jf.StructuredSensing.dct(12, IMAGE_SHAPE, generator=g, dtype=dtype)
    dct_matrix = cosine_transform(IMAGE_SHAPE, dtype)[dct.rows] * dct.signs
    masked_blur = jf.Composition(jf.Inpainting(several), jf.Blur(even, "circular"))
    stack = jf.Stack([jf.Blur(odd, "reflect"), jf.Inpainting(several)], noise=[2, 0.5])
    stacked = torch.cat((reflect.expand(batch, -1, -1) / 2, masks / 0.5), dim=1)

    found = []
    for name, operator, matrix in (
        ("denoising", jf.Denoising(), torch.eye(PIXELS, dtype=dtype)),
        ("inpainting", jf.Inpainting(shared), torch.diag(shared.flatten())),
        ("inpainting-per-image", jf.Inpainting(several), masks),
        ("compressed-sensing", jf.CompressedSensing(wide, IMAGE_SHAPE), wide),
        ("compressed-sensing-tall", jf.CompressedSensing(tall, IMAGE_SHAPE), tall),
        ("linear-operator", jf.LinearOperator(forward, adjoint), half),
        ("blur", jf.Blur(odd), blur_odd),
        ("blur-per-image", jf.Blur(even), blur_even),
        ("blur-reflect", jf.Blur(odd, "reflect"), reflect),
        ("structured-dct", dct, dct_matrix),
        ("masked-blur-per-image", masked_blur, masks @ blur_even),
        ("stack-per-image", stack.to(dtype=dtype).bind(IMAGE_SHAPE).operator, stacked),
    ):
        y = operator.measure(x, sigma, generator=g)
        if matrix.dim() == 2:
            matrix = matrix.expand(batch, -1, -1)
        found.append(Case(name, operator, y, sigma, matrix))
    return found


CASE_NAMES = [
    "denoising",
    "inpainting",
    "inpainting-per-image",
    "compressed-sensing",
    "compressed-sensing-tall",
    "linear-operator",
    "blur",
    "blur-per-image",
    "blur-reflect",
    "structured-dct",
    "masked-blur-per-image",
    "stack-per-image",
]

# One of every way to know A: a diagonal, a matrix, Fourier transforms, and by its action alone.
KINDS = ["inpainting-per-image", "compressed-sensing", "blur-per-image", "linear-operator"]


def case(name: str, **options: object) -> Case:
    """The case of that name."""
    return next(c for c in cases(**options) if c.name == name)  # type: ignore[arg-type]


def joint_objective(c: Case, x: Tensor, decoded: Tensor, z: Tensor, beta: Tensor) -> Tensor:
    """J1 straight from its definition, float64 [B]."""
    ax = (c.matrix.double() @ x.double().flatten(1)[:, :, None])[:, :, 0]
    data = (ax - c.y.double().flatten(1)).square().sum(1) / (2 * c.sigma.double().square())
    coupling = (x - decoded).double().flatten(1).square().sum(1)
    return data + 0.5 * beta.double() * coupling + 0.5 * z.double().square().sum(1)
