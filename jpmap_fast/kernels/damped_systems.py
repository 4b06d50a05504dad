"""The k x k systems of a damped step."""

from __future__ import annotations

import torch
from torch import Tensor

import jpmap_fast._C as _C
from jpmap_fast.kernels._checks import fits, matrix_shape

_ops = torch.ops.jpmap

MAX_DAMPED_SYSTEM: int = _C.max_damped_system

# Of the Hessian in H, the largest first, what is to be left of M, and what is short: see
# ``damped_solve``.
HESSIAN_SHARES: tuple[float, ...] = _C.hessian_shares
MODEL_LEFT: float = _C.model_left
SHORT_STEP: float = _C.short_step

# How long a Newton step may be that leads back to a known minimum, and how near to it, in its own
# length, it has to end.
BACK_STEP: float = _C.back_step
NEAR: float = _C.near


def longest_last_step(tolerance: float) -> float:
    """The root mean square up to which a Newton step ends a descent of ``GaussNewton``."""
    return float(_C.longest_last_step(tolerance))


def leads_back(newton: Tensor, exact: Tensor, z: Tensor, known: Tensor) -> Tensor:
    """Whether Newton steps from z lead back to known minima [B] bool.

    Those of a root mean square of at most 0.3 that end within half their length of one.

    Args:
        newton: the steps [B, k] float64.
        exact: whether their matrix is the Hessian [B] bool; if not, they lead nowhere.
        z: codes [B, k].
        known: the minima [B, k], NaN where none is known.
    """
    squared = newton.square().sum(dim=-1)
    apart = (z.double() + newton - known.double()).square().sum(dim=-1)
    short = squared <= BACK_STEP**2 * z.shape[-1]
    return exact & short & (apart <= NEAR**2 * squared)


def damped_solve(
    matrix: Tensor,  # [B, k, k]
    hessian: Tensor | None,  # [B, k, k]
    gradient: Tensor,  # [B, k]
    damping: Tensor | None = None,  # [B]
) -> tuple[Tensor, Tensor]:
    r"""S = (H + mu I)^{-1} g of every image, by Cholesky in double.

    H is ``hessian`` where that is positive definite and its step ``hessian``^{-1} g has a root mean
    square of at most 0.1. Elsewhere it is M + s (``hessian`` - M), M the ``matrix`` and s the
    largest of 1, 1/2 and 1/4 with which H - M/3 is positive definite, or else M.

    Args:
        matrix: symmetric positive definite [B, k, k], k <= 128, float32 or float64; of it and of
            ``hessian`` the lower triangle counts.
        hessian: symmetric [B, k, k]; None for ``matrix`` everywhere.
        gradient: g [B, k].
        damping: mu [B], float64, >= 0; None for 0.

    Returns:
        S [B, k], float64, NaN where H + mu I is not positive definite, and s [B], float32.

    Raises:
        ValueError: shapes or devices do not fit. TypeError: types do not.
    """
    op = "damped_solve"
    batch, k = matrix_shape(op, "gradient", gradient)
    if not 1 <= k <= MAX_DAMPED_SYSTEM:
        raise ValueError(f"{op}: expected 1 to {MAX_DAMPED_SYSTEM} unknowns, got {k}")
    fits(op, gradient, "matrix", matrix, (batch, k, k))
    if hessian is not None:
        fits(op, gradient, "hessian", hessian, (batch, k, k))
    if damping is not None:
        fits(op, gradient.double(), "damping", damping, (batch,))
    solution, share = _ops.damped_solve(
        matrix.contiguous(),
        None if hessian is None else hessian.contiguous(),
        gradient.contiguous(),
        None if damping is None else damping.contiguous(),
    )
    return solution, share


def with_share(matrix: Tensor, hessian: Tensor, share: Tensor) -> Tensor:
    """H of a share s [B]: M + s (``hessian`` - M), M the ``matrix``; M alone where s is 0."""
    share = share.to(matrix.dtype)[:, None, None]
    return torch.where(share > 0, torch.lerp(matrix, hessian, share), matrix)


@torch.library.register_fake("jpmap::damped_solve")
def _(
    matrix: Tensor, hessian: Tensor | None, gradient: Tensor, damping: Tensor | None
) -> tuple[Tensor, Tensor]:
    solution = torch.empty_like(gradient, dtype=torch.float64)
    return solution, gradient.new_empty(gradient.shape[0], dtype=torch.float32)
