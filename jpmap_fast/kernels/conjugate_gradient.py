"""The two halves of an iteration of conjugate gradients, in place."""

from __future__ import annotations

import torch
from torch import Tensor

from jpmap_fast.kernels._checks import fits, flags, in_place, matrix_shape

_ops = torch.ops.jpmap


def conjugate_gradient_step(
    x: Tensor,  # [B, n], changed
    r: Tensor,  # [B, n], changed
    p: Tensor,  # [B, n]
    q: Tensor,  # [B, n]
    rho: Tensor,  # [B]
    active: Tensor,  # [B] bool
) -> Tensor:
    r"""One conjugate-gradient step of every active row, in place.

        alpha = rho / <p, q>,    x += alpha p,    r -= alpha q,    rho_new = <r, r>

    Rows that are not active keep every bit, and their rho. A row with <p, q> <= 0 or rho = 0 takes
    alpha = 0.

    Args:
        x: iterates [B, n], contiguous, written.
        r: residuals [B, n], contiguous, written.
        p: directions [B, n].
        q: S p for the system's matrix S, [B, n].
        rho: <r, r> before the step [B].
        active: bool [B].

    Returns:
        rho_new [B].

    Raises:
        ValueError: shapes or devices do not fit, x or r is not contiguous. TypeError: types.
    """
    op = "conjugate_gradient_step"
    batch, size = matrix_shape(op, "x", x)
    for name, tensor in (("r", r), ("p", p), ("q", q)):
        fits(op, x, name, tensor, (batch, size))
    fits(op, x, "rho", rho, (batch,))
    flags(op, x, active, batch)
    in_place(op, x=x, r=r)
    rho_new: Tensor = _ops.conjugate_gradient_step(
        x, r, p.contiguous(), q.contiguous(), rho.contiguous(), active.contiguous()
    )
    return rho_new


def conjugate_gradient_direction(
    p: Tensor,  # [B, n], changed
    r: Tensor,  # [B, n]
    rho_new: Tensor,  # [B]
    rho: Tensor,  # [B]
    active: Tensor,  # [B] bool
) -> None:
    """The next direction of every active row, p = r + (rho_new / rho) p, in place.

    Args:
        p: directions [B, n], contiguous, written; p = r where rho = 0.
        r: residuals [B, n].
        rho_new: <r, r> after the step [B].
        rho: before it [B].
        active: bool [B]; other rows keep every bit.

    Raises:
        ValueError: shapes or devices do not fit, p is not contiguous. TypeError: types.
    """
    op = "conjugate_gradient_direction"
    batch, size = matrix_shape(op, "p", p)
    fits(op, p, "r", r, (batch, size))
    fits(op, p, "rho_new", rho_new, (batch,))
    fits(op, p, "rho", rho, (batch,))
    flags(op, p, active, batch)
    in_place(op, p=p)
    _ops.conjugate_gradient_direction(
        p, r.contiguous(), rho_new.contiguous(), rho.contiguous(), active.contiguous()
    )


@torch.library.register_fake("jpmap::conjugate_gradient_step")
def _(x: Tensor, r: Tensor, p: Tensor, q: Tensor, rho: Tensor, active: Tensor) -> Tensor:
    return torch.empty_like(rho)


@torch.library.register_fake("jpmap::conjugate_gradient_direction")
def _(p: Tensor, r: Tensor, rho_new: Tensor, rho: Tensor, active: Tensor) -> None:
    return None
