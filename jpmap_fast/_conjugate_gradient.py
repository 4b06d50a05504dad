"""Batched conjugate gradients: one loop, a system of its own and a stop of its own per row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from jpmap_fast import kernels
from jpmap_fast._working_set import polling_interval


@dataclass(frozen=True)
class ConjugateGradientSolution:
    """x [R, m], b - S x [R, m], iterations [R] and converged [R] of a batched solve."""

    x: Tensor
    residual: Tensor
    iterations: Tensor
    converged: Tensor


def conjugate_gradient(
    apply: Callable[[Tensor], Tensor],
    rhs: Tensor,
    *,
    tolerance: float,
    max_iterations: int,
    x0: Tensor | None = None,
    refresh_every: int = 50,
) -> ConjugateGradientSolution:
    r"""Solve S x = b for every row b of ``rhs``, S symmetric positive definite.

    A row stops, and is not touched again, once ||b - S x|| <= tolerance ||b||. Every
    ``refresh_every`` iterations the residual is recomputed from x: the recurrence drifts away from
    it by rounding and would otherwise report an accuracy that is not there.

    Args:
        apply: S on rows, [R, m] to [R, m]; each row may have an S of its own.
        rhs: b [R, m].
        tolerance: relative residual, > 0.
        max_iterations: at most so many products with S.
        x0: where to start, [R, m]; zero if None, and for rows with b = 0.
        refresh_every: see above.

    Source: M. Hestenes, E. Stiefel, "Methods of conjugate gradients for solving linear systems",
    J. Res. NBS 49, 1952.
    """
    norm = _squared_norm(rhs)
    x = torch.zeros_like(rhs) if x0 is None else torch.where((norm > 0)[:, None], x0, 0)
    r = rhs.clone() if x0 is None else rhs - apply(x)
    p = r.clone()
    rho = _squared_norm(r)
    target = tolerance**2 * norm
    active = rho > target
    iterations = torch.zeros(rhs.shape[0], dtype=torch.int64, device=rhs.device)
    # On a GPU the test waits for the device, so it is made at intervals; rows freeze on their own.
    interval = polling_interval(rhs.device, 10)
    for step in range(max_iterations):
        if step % interval == 0 and not bool(active.any()):
            break
        iterations = iterations + active
        rho_new = kernels.conjugate_gradient_step(x, r, p, apply(p), rho, active)
        if (step + 1) % refresh_every == 0:
            fresh = rhs - apply(x)
            r = torch.where(active[:, None], fresh, r)
            rho_new = torch.where(active, _squared_norm(r), rho_new)
        kernels.conjugate_gradient_direction(p, r, rho_new, rho, active)
        rho = rho_new
        active = active & (rho > target)
    return ConjugateGradientSolution(x, r, iterations, rho <= target)


def _squared_norm(rows: Tensor) -> Tensor:
    return rows.square().sum(dim=-1)
