"""The x-update in one pass with J1 and the coupling gap, and J1 by itself."""

from __future__ import annotations

import torch
from torch import Tensor

from jpmap_fast.kernels._checks import fits, matrix_shape

_ops = torch.ops.jpmap


def x_update_diagonal(
    decoded: Tensor,  # [B, n]
    y: Tensor,  # [B, n]
    weight: Tensor | None,  # [n] or [B, n]
    z: Tensor,  # [B, k]
    beta: Tensor,  # [B]
    sigma: Tensor,  # [B]
) -> tuple[Tensor, Tensor, Tensor]:
    r"""The minimiser of J1 over x for A = diag(w), with J1 and the coupling gap, in one pass.

        r = y - w G,    x = G + w r / (w^2 + beta sigma^2)
        J1 = 1/2 sum r^2 / (sigma^2 + w^2 / beta) + 1/2 ||z||^2,    gap = ||x - G||^2

    Args:
        decoded: G(z) [B, n], float32 or float64.
        y: measurements [B, n].
        weight: diagonal of A, [n] or [B, n], in [0, 1]; None for the identity.
        z: latent codes [B, k].
        beta: coupling weights [B], > 0; inf gives x = G.
        sigma: noise standard deviations [B], > 0.

    Returns:
        x [B, n], J1 [B], gap [B].

    Raises:
        ValueError: shapes or devices do not fit. TypeError: types do not.
    """
    op = "x_update_diagonal"
    batch, pixels = matrix_shape(op, "decoded", decoded)
    fits(op, decoded, "y", y, (batch, pixels))
    if weight is not None:
        shape = (batch, pixels) if weight.dim() == 2 else (pixels,)
        fits(op, decoded, "weight", weight, shape)
    fits(op, decoded, "z", z, (batch, matrix_shape(op, "z", z)[1]))
    fits(op, decoded, "beta", beta, (batch,))
    fits(op, decoded, "sigma", sigma, (batch,))
    x, objective, gap = _ops.x_update_diagonal(
        decoded.contiguous(),
        y.contiguous(),
        None if weight is None else weight.contiguous(),
        z.contiguous(),
        beta.contiguous(),
        sigma.contiguous(),
    )
    return x, objective, gap


def x_update_spectral(
    decoded: Tensor,  # [B, C, H, W // 2 + 1, 2]
    y: Tensor,  # [B, C, H // f, W // f // 2 + 1, 2]
    kernel: Tensor,  # [C or 1, H, W // 2 + 1, 2] or one an image
    z: Tensor,  # [B, k]
    beta: Tensor,  # [B]
    sigma: Tensor,  # [B]
    width: int,
    factor: int,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""What the x-update of a circular blur, or of every f-th pixel of it, adds to G, in Fourier.

        r = y - mean of h G over the aliases,    p = mean of |h|^2 over them
        step = conj(h) r / (p + beta sigma^2) / (H W)
        J1 = 1/2 sum |r|^2 / (sigma^2 + p / beta) + 1/2 ||z||^2,    gap = ||step||^2

    All spectra are halves, as ``rfft2`` with norm="backward" gives them, real and imaginary parts
    last; the sums are over the whole spectrum and divided by the number of pixels of a measurement.
    x is G plus ``irfft2`` of the step with norm="forward".

    Args:
        decoded: spectrum of G(z) [B, C, H, W // 2 + 1, 2], float32 or float64.
        y: of the measurements [B, C, H // f, W // f // 2 + 1, 2].
        kernel: h [C or 1, H, W // 2 + 1, 2], or [B, C or 1, H, W // 2 + 1, 2].
        z: latent codes [B, k].
        beta: coupling weights [B], > 0; inf gives a step of zero.
        sigma: noise standard deviations [B], > 0.
        width: W >= 1, which a half spectrum does not tell.
        factor: f >= 1, a divisor of H and W.

    Returns:
        step [B, C, H, W // 2 + 1, 2], J1 [B], gap [B].

    Raises:
        ValueError: shapes or devices do not fit. TypeError: types do not.
    """
    op = "x_update_spectral"
    if decoded.dim() != 5:
        raise ValueError(
            f"{op}: expected decoded of shape [B, C, H, W // 2 + 1, 2], got {list(decoded.shape)}"
        )
    batch, channels, height = decoded.shape[:3]
    if factor < 1 or width < 1 or height % factor or width % factor:
        raise ValueError(
            f"{op}: expected a factor >= 1 that divides {height} x {width}, got {factor}"
        )
    matrix_shape(op, "decoded", decoded.flatten(1))
    fits(op, decoded, "decoded", decoded, (batch, channels, height, width // 2 + 1, 2))
    low = (height // factor, width // factor // 2 + 1, 2)
    fits(op, decoded, "y", y, (batch, channels, *low))
    kernels = 1 if kernel.dim() >= 4 and kernel.shape[-4] == 1 else channels
    shape = (kernels, height, width // 2 + 1, 2)
    fits(op, decoded, "kernel", kernel, (batch, *shape) if kernel.dim() == 5 else shape)
    fits(op, decoded, "z", z, (batch, matrix_shape(op, "z", z)[1]))
    fits(op, decoded, "beta", beta, (batch,))
    fits(op, decoded, "sigma", sigma, (batch,))
    step, value, gap = _ops.x_update_spectral(
        decoded.contiguous(),
        y.contiguous(),
        kernel.contiguous(),
        z.contiguous(),
        beta.contiguous(),
        sigma.contiguous(),
        width,
        factor,
    )
    return step, value, gap


def objective(
    x: Tensor,  # [B, n]
    decoded: Tensor,  # [B, n]
    residual: Tensor,  # [B, m]
    z: Tensor,  # [B, k]
    beta: Tensor,  # [B]
    sigma: Tensor,  # [B]
) -> tuple[Tensor, Tensor]:
    r"""J1 of a batch, and the coupling gap.

        J1 = ||residual||^2 / (2 sigma^2) + beta/2 ||x - G||^2 + 1/2 ||z||^2,   gap = ||x - G||^2

    Args:
        x: images [B, n], float32 or float64.
        decoded: G(z) [B, n].
        residual: y - A x [B, m].
        z: latent codes [B, k].
        beta: coupling weights [B], > 0; inf is allowed where x = G.
        sigma: noise standard deviations [B], > 0.

    Returns:
        J1 [B], gap [B].

    Raises:
        ValueError: shapes or devices do not fit. TypeError: types do not.
    """
    op = "objective"
    batch, pixels = matrix_shape(op, "x", x)
    fits(op, x, "decoded", decoded, (batch, pixels))
    fits(op, x, "residual", residual, (batch, matrix_shape(op, "residual", residual)[1]))
    fits(op, x, "z", z, (batch, matrix_shape(op, "z", z)[1]))
    fits(op, x, "beta", beta, (batch,))
    fits(op, x, "sigma", sigma, (batch,))
    value, gap = _ops.objective(
        x.contiguous(),
        decoded.contiguous(),
        residual.contiguous(),
        z.contiguous(),
        beta.contiguous(),
        sigma.contiguous(),
    )
    return value, gap


@torch.library.register_fake("jpmap::x_update_diagonal")
def _(
    decoded: Tensor, y: Tensor, weight: Tensor | None, z: Tensor, beta: Tensor, sigma: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(decoded), torch.empty_like(beta), torch.empty_like(beta)


@torch.library.register_fake("jpmap::x_update_spectral")
def _(
    decoded: Tensor,
    y: Tensor,
    kernel: Tensor,
    z: Tensor,
    beta: Tensor,
    sigma: Tensor,
    width: int,
    factor: int,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(decoded), torch.empty_like(beta), torch.empty_like(beta)


@torch.library.register_fake("jpmap::objective")
def _(
    x: Tensor, decoded: Tensor, residual: Tensor, z: Tensor, beta: Tensor, sigma: Tensor
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(beta), torch.empty_like(beta)
