"""ADMM for latent MAP: multipliers hold x to G(z), where continuation lets the coupling grow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from jpmap_fast._validate import positive
from jpmap_fast.algorithms.joint_map import STARTS
from jpmap_fast.algorithms.latent import first_penalty
from jpmap_fast.algorithms.monitor import Monitor
from jpmap_fast.algorithms.multipliers import Multipliers, growing
from jpmap_fast.algorithms.problem import Problem
from jpmap_fast.algorithms.settings import (
    as_solver,
    at_least,
    positive_numbers,
    setting,
)
from jpmap_fast.objective import LatentObjective
from jpmap_fast.solvers import GaussNewton, LatentSolver
from jpmap_fast.solvers.gradient_step import gradient_step
from jpmap_fast.solvers.plan import Plan, told

_NOT_COMPILED = "the linearised step is not compiled"


@dataclass(frozen=True, eq=False)
class ADMM(Multipliers):
    r"""Latent MAP by multipliers: minimise F(x) + 1/2 ||z||^2 such that x = G(z), by

        z_{k+1} = a local minimum of beta/2 ||x_k + u_k - G(z)||^2 + 1/2 ||z||^2, from z_k
        x_{k+1} = argmin_x F(x) + beta/2 ||x - G(z_{k+1}) + u_k||^2
        u_{k+1} = u_k + x_{k+1} - G(z_{k+1})

    with F(x) = ||A x - y||^2 / (2 sigma^2), from u_0 = 0 and x_0 = argmin_x J1(x, z_0). The step in
    x is exact for every operator. beta u is the multiplier of the constraint, so that x and G(z)
    meet at a finite penalty, where ``MAPz`` needs beta to grow without end. While ||x - G(z)|| is
    more than x has just moved, beta grows by ``growth``, and u shrinks with it; then it stays.

    An image is done when ||dx|| / sqrt(n) + ||dz|| / sqrt(k) + ||x - G(z)|| / sqrt(n) is below
    tolerance. It has converged if moreover a Newton step promises to lower the latent objective by
    no more than 1e-4 of it. There is no proof that it gets there: G is not linear.

    Args:
        beta0: first penalty, a number or one an image; None for 0.1 / gamma^2 of the prior.
        growth: >= 1; 1 keeps the penalty, which then has to be near 1 / sigma^2 for a fast end.
        z_solver: ``GaussNewton()``, ``Adam()``, or "gauss-newton", "adam".
        max_iterations: >= 1.
        tolerance: see above, > 0.
        starts: K >= 1 starts (the encoder's code of A^T y, z = 0, then random), the best end of
            each image kept.

    The objective of the result is the latent one, ||A G(z) - y||^2 / (2 sigma^2) + 1/2 ||z||^2, its
    beta inf; ``History.beta`` are the penalties, and J1 there does fall and rise.

    Raises:
        ValueError: a setting is out of range, or a variance by grey value (``residual="grey"``).
        TypeError: of the wrong kind.

    Source: F. Latorre, A. Eftekhari, V. Cevher, "Fast and provable ADMM for learning with
    generative priors", NeurIPS 2019, the variant with exact minimisation and a growing penalty.
    This differs from theirs in: the minimum in z, for one gradient step (``LinearisedADMM``); a
    rule of its own for the penalty; a multiplier that steps by the penalty, for a step that decays.
    """

    beta0: Any = setting(None, positive_numbers, per_image=True, of_problem=first_penalty)
    growth: float = setting(1.05, growing)
    z_solver: LatentSolver | str = setting(GaussNewton(), as_solver)
    max_iterations: int = setting(500, at_least(1))
    tolerance: float = setting(1 / 2550, positive)
    starts: int = setting(STARTS, at_least(1))

    def step_in_z(self, f: LatentObjective, z: Tensor, scale: Tensor, monitor: Monitor) -> Tensor:
        solver = as_solver("ADMM: z_solver", self.z_solver)
        found = solver.minimise(f, z, scale)
        monitor.solved(*told(solver, found))
        return found.z


@dataclass(frozen=True, eq=False)
class LinearisedADMM(Multipliers):
    r"""``ADMM`` with one step of steepest descent in z an iteration,

        z_{k+1} = z_k - s g,    g = z_k - beta J^T (x_k + u_k - G(z_k)),    J = DG(z_k).

    s begins at ||g||^2 / (||g||^2 + beta ||J g||^2) and is halved until the function of z falls, so
    that no bound on J has to be known. It is the proximal step of 1/2 ||z||^2 with the length
    s / (1 - s) for the linearised rest. An iteration costs two products by J, and needs no more of
    the decoder; there are more of them.

    Args:
        beta0: first penalty, a number or one an image; None for 0.1 / gamma^2 of the prior.
        growth, max_iterations, tolerance, starts: as in ``ADMM``.

    Raises:
        ValueError: a setting is out of range, or a variance by grey value (``residual="grey"``).
        TypeError: of the wrong kind.

    Source: F. Latorre, A. Eftekhari, V. Cevher, "Fast and provable ADMM for learning with
    generative priors", NeurIPS 2019: linearised ADMM, with the differences that ``ADMM`` names, and
    an exact step in x, which theirs may linearise too.
    """

    beta0: Any = setting(None, positive_numbers, per_image=True, of_problem=first_penalty)
    growth: float = setting(1.05, growing)
    max_iterations: int = setting(1000, at_least(1))
    tolerance: float = setting(1 / 2550, positive)
    starts: int = setting(STARTS, at_least(1))

    def plan(self, problem: Problem) -> Plan:
        return Plan(problem.decoder.path, _NOT_COMPILED)

    def step_in_z(self, f: LatentObjective, z: Tensor, scale: Tensor, monitor: Monitor) -> Tensor:
        monitor.solved(f.decoder.path, _NOT_COMPILED)
        return gradient_step(f, z)
