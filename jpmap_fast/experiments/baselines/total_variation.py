"""Total variation, by the primal-dual method of Chambolle and Pock."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jpmap_fast._validate import positive
from jpmap_fast._working_set import WorkingSet
from jpmap_fast.algorithms.pixel_space import Estimate, PixelSpace
from jpmap_fast.algorithms.problem import Problem
from jpmap_fast.algorithms.settings import at_least, setting
from jpmap_fast.experiments.baselines._deepinv import deepinv_module

# Of the residuals, which cost as much as a step and, on a GPU, a wait for the device.
INTERVAL = 10

# tau * weight: typical values of x over those of the dual variable in units of the weight.
STEP = 0.03
RELAXATION = 1.9
ROUNDINGS = 4


@dataclass(frozen=True, eq=False)
class TotalVariation(PixelSpace):
    r"""Restoration with isotropic total variation, the minimum over x of

        ||A x - y||^2 / (2 sigma^2) + weight * TV(x),
        TV(x) = sum_ij sqrt(sum_c |(D x)_cij|^2),

    D the forward differences to the right and below, 0 at the far borders. The channels of a colour
    image share one square root (vectorial TV), which aligns their edges.

    The over-relaxed method of Chambolle and Pock with deepinv's gradient operators; its step in x
    is the exact x-update. deepinv's own loop, ``PDCP``, has one step size and one noise level for
    all images and stops by a norm over the batch.

    Args:
        weight: lambda > 0, in units of 1 / pixel value.
        max_iterations: >= 1.
        tolerance: an image has converged when its primal and dual residuals p and d satisfy
            ||p|| ||x|| + ||d|| ||u|| <= tolerance * objective (looked at every 10 iterations), > 0.
            Residuals bound the objective's distance to its minimum so if iterates are no further
            from the solution than from 0.

    In a result, objective is what is minimised, at x.

    Raises:
        ValueError: a setting is out of range. TypeError: of the wrong kind.
        ImportError: when run without deepinv.

    Source: L. Rudin, S. Osher, E. Fatemi, Physica D 60, 1992; A. Chambolle, T. Pock, "A first-order
    primal-dual algorithm for convex problems", JMIV 2011; L. Condat, JOTA 2013 (over-relaxation);
    T. Goldstein et al., arXiv 1305.0546 (residuals); P. Blomgren, T. Chan, "Color TV", IEEE TIP
    1998.
    """

    weight: float = setting(check=positive)
    max_iterations: int = setting(2000, at_least(1))
    tolerance: float = setting(1e-3, positive)

    def estimate(self, problem: Problem) -> Estimate:
        """Restore every image, each to its own end."""
        operators = deepinv_module("models", "TotalVariation").TVDenoiser
        gradient, adjoint = operators.nabla, operators.nabla_adjoint
        tau = STEP / self.weight
        tau_dual = 1 / (8 * tau)  # ||D||^2 <= 8
        x = problem.operator.A_adjoint(problem.y)
        u = torch.zeros((*x.shape, 2), dtype=x.dtype, device=x.device)
        beta = torch.full_like(problem.sigma, 1 / tau)
        new_x, value = x, torch.full_like(problem.sigma, torch.nan)
        steps = torch.zeros(problem.batch, dtype=torch.int64, device=x.device)
        done = torch.zeros(problem.batch, dtype=torch.bool, device=x.device)
        working = WorkingSet(problem.batch, x.device)
        for step in range(1, self.max_iterations + 1):
            if not working.left:
                break
            target = (x - tau * adjoint(u)).contiguous()
            new_x, _, _ = problem.operator.x_update(
                target, problem.y, target.new_zeros(len(target), 1), beta, problem.sigma
            )
            ascent = u + tau_dual * gradient(2 * new_x - x)
            # The projection onto the ball of radius weight, pixel by pixel.
            new_u = ascent / (_length(ascent) / self.weight).clamp(min=1)
            dx, du = new_x - x, new_u - u
            x, u = x + RELAXATION * dx, u + RELAXATION * du
            if step % INTERVAL and step < self.max_iterations:
                continue
            value = self._objective(problem, new_x, gradient(new_x))
            primal = _norm(adjoint(du) - dx / tau) * _norm(new_x)
            dual = _norm(gradient(dx) - du / tau_dual) * _norm(new_u)
            # A minimum of 0 is never reached but for the rounding of the step in x.
            rounding = ROUNDINGS * torch.finfo(x.dtype).eps * _norm(new_x).square() / tau
            done = primal + dual <= self.tolerance * value + rounding
            steps = torch.full_like(steps, step)
            if working.finish(~done, new_x, steps, done, value):
                problem = working.select(problem)
                x, u, beta, new_x, steps, done, value = map(
                    working.select, (x, u, beta, new_x, steps, done, value)
                )
        return Estimate(*working.results(new_x, steps, done, value))

    def _objective(self, problem: Problem, x: Tensor, gradient: Tensor) -> Tensor:
        residual = (problem.operator.A(x) - problem.y).flatten(1)
        fit = residual.square().sum(dim=1) / (2 * problem.sigma.square())
        return fit + self.weight * _length(gradient).flatten(1).sum(dim=1)


def _length(field: Tensor) -> Tensor:
    """Euclidean length of a field [B, C, H, W, 2] at each pixel [B, 1, H, W, 1]."""
    return field.square().sum(dim=(1, 4), keepdim=True).sqrt()


def _norm(values: Tensor) -> Tensor:
    return torch.linalg.vector_norm(values.flatten(1), dim=1)
