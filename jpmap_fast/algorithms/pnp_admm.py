"""Plug-and-play ADMM: a denoiser in the place of a prior's proximal map."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from jpmap_fast._validate import count, positive
from jpmap_fast.algorithms.pixel_space import Estimate, PixelSpace
from jpmap_fast.algorithms.problem import Problem


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

    denoiser: Callable[[Tensor, float], Tensor]
    denoiser_sigma: float = 25 / 255
    weight: float = 1.0
    max_iterations: int = 200
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        if not callable(self.denoiser):
            raise TypeError(f"PnPADMM: expected a denoiser D(x, sigma), got {self.denoiser!r}")
        positive("PnPADMM: denoiser_sigma", self.denoiser_sigma)
        positive("PnPADMM: weight", self.weight)
        count("PnPADMM: max_iterations", self.max_iterations, 1)
        positive("PnPADMM: tolerance", self.tolerance)

    def estimate(self, problem: Problem) -> Estimate:
        y, sigma = problem.y, problem.sigma
        beta = torch.full_like(sigma, self.weight / self.denoiser_sigma**2)
        start = problem.operator.A_adjoint(y)
        root = math.sqrt(start[0].numel()) if len(start) else 1.0
        final = start.clone()
        iterations = torch.zeros(problem.batch, dtype=torch.int64, device=y.device)
        converged = torch.zeros(problem.batch, dtype=torch.bool, device=y.device)
        index = torch.arange(problem.batch, device=y.device)
        v, u = start, torch.zeros_like(start)
        # On a GPU looking at who has converged waits for the device; frozen rows cost less.
        interval = 1 if y.device.type == "cpu" else 10
        active = torch.ones_like(converged)
        for step in range(1, self.max_iterations + 1 if len(index) else 0):
            x = self.denoiser(v - u, self.denoiser_sigma)
            target = (x + u).contiguous()
            fitted = problem.nearest(target, beta)
            moved = _norm(fitted - v) + _norm(x - fitted)
            still = moved / root < self.tolerance
            rows = active.reshape(-1, 1, 1, 1)
            u = torch.where(rows, target - fitted, u)
            v = torch.where(rows, fitted, v)
            iterations[index] += active
            converged[index] |= active & still
            active = active & ~still
            if step % interval == 0 or step == self.max_iterations:
                if bool(active.all()) and step < self.max_iterations:
                    continue
                final[index] = v
                keep = active.nonzero()[:, 0]
                if keep.numel() == 0:
                    break
                problem = problem.select(keep)
                index, active, v, u, beta = (t[keep] for t in (index, active, v, u, beta))
        return Estimate(final, iterations, converged, torch.full_like(sigma, torch.nan))


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
