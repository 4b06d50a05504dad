"""What every operator must do, checked against its dense matrix."""

from __future__ import annotations

import math

import torch
from dense_matrices import convolution, decimation
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast.kernels.products import RowProduct
from jpmap_fast.objective import Projection
from jpmap_fast.priors.mlp_decoder import MLPDecoder

# Tolerances on relative errors: rounding times the condition number of the systems below, which
# is at most 1 + ||A||^2 / (beta sigma^2), about 30.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
BATCH = 3
KERNELS = ["odd", "even", "channels", "image", "image-channels"]


def kernel_of(kind: str, channels: int, dtype: torch.dtype) -> Tensor:
    shape = {
        "odd": (3, 3),
        "even": (2, 4),
        "channels": (channels, 4, 3),
        "image": (BATCH, 1, 3, 2),
        "image-channels": (BATCH, channels, 2, 2),
    }[kind]
    g = torch.Generator().manual_seed(7)
    return torch.rand(shape, generator=g, dtype=torch.float64).to(dtype) / 6


def blur_matrix(kernel: Tensor, image_shape, boundary: str, factor: int = 1) -> Tensor:
    """[B, m, n] float64."""
    kernel = kernel.double()
    kernel = kernel[None] if kernel.dim() == 2 else kernel
    kernels = kernel if kernel.dim() == 4 else kernel[None].expand(BATCH, -1, -1, -1)
    matrices = torch.stack([convolution(k, image_shape, boundary) for k in kernels])
    return decimation(image_shape, factor, torch.float64) @ matrices if factor > 1 else matrices


def check(operator: jf.Operator, matrix: Tensor, image_shape, dtype: torch.dtype) -> None:
    """A, A^T, the x-update at any beta, J(z) = min_x J1 and its derivatives, and ``select``."""
    tolerance = TOLERANCE[dtype]
    g = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=g, dtype=torch.float64).to(dtype)

    operator = operator.bind(image_shape, BATCH)
    n, k = math.prod(image_shape), 3
    x, decoded, z = draw(BATCH, *image_shape), draw(BATCH, *image_shape), draw(BATCH, k)
    sigma, beta = draw(BATCH) * 0.3 + 0.3, 1 + 20 * draw(BATCH)
    y = operator.A(x) + 0.1 * draw(*operator.A(x).shape)
    assert tuple(y.shape[1:]) == operator.measurement_shape
    expected = (matrix @ x.double().flatten(1)[:, :, None])[:, :, 0]
    near(operator.A(x), expected, tolerance)
    back = (matrix.mT @ y.double().flatten(1)[:, :, None])[:, :, 0]
    near(operator.A_adjoint(y), back, tolerance)

    for b in (beta, torch.full_like(beta, torch.inf)):
        found = operator.x_update(decoded, y, z, b, sigma)
        for value, exact in zip(found, exact_update(matrix, decoded, y, z, b, sigma), strict=True):
            near(value, exact, 10 * tolerance)
    part = operator.select(torch.tensor([2, 0, 2]))
    rows = torch.tensor([2, 0, 2])
    again = part.x_update(decoded[rows], y[rows], z[rows], beta[rows], sigma[rows])
    whole = operator.x_update(decoded, y, z, beta, sigma)
    for value, other in zip(again, whole, strict=True):
        near(value, other[rows].double(), tolerance)

    decoder = MLPDecoder([RowProduct(draw(n, k) - 0.5, draw(n))], ["sigmoid"])
    for b in (beta, torch.full_like(beta, torch.inf)):
        f = Projection(operator, decoder)(y, b, sigma)
        exact = exact_objective(matrix, decoder, y, z, b, sigma)
        value, gradient, system = f.normal_equations(z)
        near(value, exact, 10 * tolerance)
        near(f.value(z), exact, 10 * tolerance)
        near(f.gradient(z)[1], gradient.double(), 100 * tolerance)
        near(f.select(rows).value(z[rows]), exact[rows], 10 * tolerance)
        if dtype == torch.float64:
            step = 1e-5 * torch.eye(k, dtype=dtype)
            slopes = [(f.value(z + s) - f.value(z - s)) / 2e-5 for s in step]
            # Central differences: truncation 1e-10 of the third derivative, rounding 1e-11.
            near(gradient, torch.stack(slopes, dim=1), 1e-7)
        _, tangents = decoder.linearise(z.to(dtype))
        j = matrix @ tangents.double().mT
        w = weight(matrix, b, sigma)
        near(system, j.mT @ w @ j + torch.eye(k, dtype=torch.float64), 100 * tolerance)


def near(found: Tensor, exact: Tensor, tolerance: float) -> None:
    """Rows agree relative to their norm."""
    found, exact = found.double().reshape(len(found), -1), exact.reshape(len(exact), -1)
    assert ((found - exact).norm(dim=1) <= tolerance * exact.norm(dim=1).clamp_min(1e-12)).all()


def weight(matrix: Tensor, beta: Tensor, sigma: Tensor) -> Tensor:
    identity = torch.eye(matrix.shape[1], dtype=torch.float64)
    system = sigma.double().square()[:, None, None] * identity
    return torch.linalg.inv(system + matrix @ matrix.mT / beta.double()[:, None, None])


def exact_update(matrix, decoded, y, z, beta, sigma):
    flat = decoded.double().flatten(1)
    residual = y.double().flatten(1) - (matrix @ flat[:, :, None])[:, :, 0]
    solved = (weight(matrix, beta, sigma) @ residual[:, :, None])[:, :, 0]
    step = (matrix.mT @ solved[:, :, None])[:, :, 0] / beta.double()[:, None]
    value = 0.5 * ((residual * solved).sum(1) + z.double().square().sum(1))
    return flat + step, value, step.square().sum(1)


def exact_objective(matrix, decoder, y, z, beta, sigma):
    return exact_update(matrix, decoder.value(z), y, z, beta, sigma)[1]
