"""Compressed sensing with generative models: descent in the latent space alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from jpmap_fast._validate import count
from jpmap_fast.algorithms.base import Algorithm, as_solver
from jpmap_fast.algorithms.joint import nothing_left
from jpmap_fast.algorithms.monitor import Monitor
from jpmap_fast.algorithms.outcome import CONVERGED, FAILED, ITERATION_LIMIT, Outcome, Start
from jpmap_fast.algorithms.problem import Problem, State
from jpmap_fast.algorithms.rounds import Fixed
from jpmap_fast.solvers import GaussNewton, LatentSolver


@dataclass(frozen=True, eq=False)
class CSGM(Algorithm):
    r"""Latent MAP by descent, without an encoder: the minimum over z of

        ||A G(z) - y||^2 / (2 sigma^2) + 1/2 ||z||^2,      x = G(z).

    Descent starts at z = 0 and, for restarts > 1, at draws from N(0, I); the end with the least
    objective is kept per image.

    Args:
        restarts: number of starts, >= 1. Bora et al. use 10.
        z_solver: ``GaussNewton()``, ``Adam(max_steps=5000, tolerance=1e-5)`` as in the JPMAP
            authors' code, or a name.

    Raises:
        ValueError: a setting is out of range. TypeError: of the wrong kind.

    Source: A. Bora, A. Jalal, E. Price, A. Dimakis, "Compressed sensing using generative models",
    ICML 2017.
    """

    restarts: int = 1
    z_solver: LatentSolver | str = GaussNewton()

    def __post_init__(self) -> None:
        count("CSGM: restarts", self.restarts, 1)
        as_solver("CSGM", self.z_solver)

    @property
    def number_of_starts(self) -> int:
        return self.restarts

    @property
    def uses_encoder(self) -> bool:
        return False

    @property
    def runs_fixed(self) -> bool:
        return isinstance(as_solver("CSGM", self.z_solver), GaussNewton)

    def run(self, problem: Problem, start: Start, monitor: Monitor) -> Outcome:
        solver = as_solver("CSGM", self.z_solver)
        return minimise_latent(problem, start.z, solver, monitor)

    def run_fixed(
        self, problem: Problem, start: Start, fixed: Fixed, monitor: Monitor
    ) -> list[Outcome]:
        solver = as_solver("CSGM", self.z_solver)
        end = minimise_latent(problem, start.z, solver, monitor, fixed)
        return end.split(start.batch or problem.batch)


def minimise_latent(
    problem: Problem,
    z: torch.Tensor,
    solver: LatentSolver,
    monitor: Monitor,
    fixed: Fixed | None = None,
) -> Outcome:
    """Minimise F(G(z)) + 1/2 ||z||^2 from z [B, k]: one descent at beta = inf, x = G(z)."""
    beta = torch.full_like(problem.sigma, torch.inf)
    f, scale = problem.latent_objective("projected", z, beta)
    zeros = torch.zeros(problem.batch, dtype=torch.int64, device=z.device)
    index = torch.arange(problem.batch, device=z.device)
    gap = torch.zeros_like(problem.sigma)
    if monitor.record:
        monitor.step(index, z, f.value(z).to(z.dtype), beta, gap, zeros)
    found = solver.minimise(f, z, scale) if fixed is None else fixed.descend(solver, f, z)
    monitor.solved(found.path, found.reason)
    objective = found.objective.to(z.dtype)
    monitor.step(index, found.z, objective, beta, gap, zeros + 3)
    monitor.finished(problem.batch)
    decoded = problem.decode(found.z)
    state = State(decoded, found.z, decoded, objective, gap)
    converged = found.converged
    if not isinstance(solver, GaussNewton) and bool(converged.any()):
        converged = converged & nothing_left(problem, state, beta)
    status = torch.where(converged, CONVERGED, ITERATION_LIMIT)
    return Outcome(
        state,
        beta,
        torch.where(torch.isfinite(objective), status, FAILED),
        found.steps,
        torch.stack((zeros, zeros, zeros + 1), dim=1),
    )
