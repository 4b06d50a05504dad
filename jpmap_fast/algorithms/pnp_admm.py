"""Plug-and-play ADMM: a denoiser in the place of a prior's proximal map."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jpmap_fast._validate import positive
from jpmap_fast._working_set import WorkingSet
from jpmap_fast.algorithms.pixel_space import Estimate, PixelSpace
from jpmap_fast.algorithms.problem import Problem
from jpmap_fast.algorithms.settings import at_least, setting


def _denoiser(name: str, denoiser: Any) -> None:
    owner, _, what = name.rpartition(": ")
    if not callable(denoiser):
        raise TypeError(f"{owner}: expected a {what} D(x, sigma), got {denoiser!r}")


@dataclass(frozen=True, eq=False)
class PnPADMM(PixelSpace):
    r"""Plug-and-play ADMM with F(x) = ||A x - y||^2 / (2 sigma^2) and a denoiser D:

        x_{k+1} = D(v_k - u_k)
        v_{k+1} = argmin_v F(v) + ||v - x_{k+1} - u_k||^2 / (2 eta),     eta = s^2 / lambda
        u_{k+1} = u_k + x_{k+1} - v_{k+1}

    from v_0 = A^T y, u_0 = 0. The step in v is the exact x-update at beta = 1 / eta. With the
    proximal map of s^2 R for D this is ADMM on F + lambda R.

    If D - I is Lipschitz with constant L < 1 and F is mu-strongly convex, it converges for

        lambda < s^2 mu (1 + L - 2 L^2) / L,

    see ``largest_weight``. mu is the least eigenvalue of A^T A over sigma^2: 0 where A loses
    anything, and then nothing is promised for any lambda.

    Args:
        denoiser: D(x, s): images [B, C, H, W] and the standard deviation of the noise to images,
            e.g. ``load_denoiser("mnist")``.
        denoiser_sigma: s > 0, for values in [0, 1].
        weight: lambda > 0.
        max_iterations: >= 1.
        tolerance: an image has converged at (||v_{k+1} - v_k|| + ||x_{k+1} - v_{k+1}||) / sqrt(n)
            below this, > 0.

    The result's x is v, the iterate that fits y; it minimises nothing, so objective is NaN.

    Raises:
        ValueError: a setting is out of range. TypeError: of the wrong kind.

    Source: E. Ryu, J. Liu, S. Wang, X. Chen, Z. Wang, W. Yin, "Plug-and-play methods provably
    converge with properly trained denoisers", ICML 2019, Theorem 2.
    """

    denoiser: Callable[[Tensor, float], Tensor] = setting(check=_denoiser)
    denoiser_sigma: float = setting(25 / 255, positive)
    weight: float = setting(1.0, positive)
    max_iterations: int = setting(200, at_least(1))
    tolerance: float = setting(1e-4, positive)

    def estimate(self, problem: Problem) -> Estimate:
        y, sigma = problem.y, problem.sigma
        beta = torch.full_like(sigma, self.weight / self.denoiser_sigma**2)
        start = problem.operator.A_adjoint(y)
        root = math.sqrt(start[0].numel()) if len(start) else 1.0
        iterations = torch.zeros(problem.batch, dtype=torch.int64, device=y.device)
        converged = torch.zeros(problem.batch, dtype=torch.bool, device=y.device)
        active = torch.ones_like(converged)
        v, u = start, torch.zeros_like(start)
        # Frozen rows cost less than the wait for the device.
        working = WorkingSet(problem.batch, y.device, every=10)
        for step in range(1, self.max_iterations + 1):
            if not working.left:
                break
            x = self.denoiser(v - u, self.denoiser_sigma)
            target = (x + u).contiguous()
            fitted = problem.nearest(target, beta)
            moved = _norm(fitted - v) + _norm(x - fitted)
            still = moved / root < self.tolerance
            rows = active.reshape(-1, 1, 1, 1)
            u = torch.where(rows, target - fitted, u)
            v = torch.where(rows, fitted, v)
            iterations = iterations + active
            converged = converged | (active & still)
            active = active & ~still
            if working.due(step) and working.finish(active, v, iterations, converged):
                problem = working.select(problem)
                v, u, beta, iterations, converged, active = map(
                    working.select, (v, u, beta, iterations, converged, active)
                )
        v, iterations, converged = working.results(v, iterations, converged)
        return Estimate(v, iterations, converged, torch.full_like(sigma, torch.nan))


def largest_weight(
    lipschitz: float, denoiser_sigma: float, sigma: float, least_eigenvalue: float
) -> float:
    r"""The bound on lambda below which PnP-ADMM is proved to converge:

        s^2 mu (1 + L - 2 L^2) / L,    mu = lambda_min(A^T A) / sigma^2.

    0 means that no lambda > 0 is covered: A loses something, or L >= 1.

    Args:
        lipschitz: L > 0, of D - I.
        denoiser_sigma: s > 0.
        sigma: standard deviation of the measurement noise, > 0.
        least_eigenvalue: of A^T A, >= 0: 1 for denoising, 0 for inpainting and fewer measurements
            than pixels.

    Source: Ryu et al., ICML 2019, Theorem 2.
    """
    positive("lipschitz", lipschitz)
    positive("denoiser_sigma", denoiser_sigma)
    positive("sigma", sigma)
    if not 0 <= least_eigenvalue < math.inf:
        raise ValueError(f"least_eigenvalue: expected a number >= 0, got {least_eigenvalue!r}")
    strong = least_eigenvalue / sigma**2
    return max(0.0, denoiser_sigma**2 * strong * (1 + lipschitz - 2 * lipschitz**2) / lipschitz)


def _norm(values: Tensor) -> Tensor:
    return torch.linalg.vector_norm(values.flatten(1), dim=1)
