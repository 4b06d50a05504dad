"""Compressed sensing with generative models: descent in the latent space alone."""

from __future__ import annotations

import warnings
from dataclasses import InitVar, dataclass

import torch

from jpmap_fast.algorithms.base import Algorithm
from jpmap_fast.algorithms.joint import nothing_left
from jpmap_fast.algorithms.monitor import Monitor
from jpmap_fast.algorithms.outcome import CONVERGED, FAILED, ITERATION_LIMIT, Outcome, Start
from jpmap_fast.algorithms.problem import Problem, State
from jpmap_fast.algorithms.rounds import Fixed
from jpmap_fast.algorithms.settings import as_solver, at_least, setting
from jpmap_fast.solvers import GaussNewton, LatentSolver
from jpmap_fast.solvers.plan import told


@dataclass(frozen=True, eq=False)
class CSGM(Algorithm):
    r"""Latent MAP by descent, without an encoder: the minimum over z of

        ||A G(z) - y||^2 / (2 sigma^2) + 1/2 ||z||^2,      x = G(z).

    Descent starts at z = 0 and, for starts > 1, at draws from N(0, I); the end with the least
    objective is kept per image.

    Args:
        starts: K >= 1. Bora et al. use 10.
        z_solver: ``GaussNewton()``, ``Adam(max_steps=5000, tolerance=1e-5)`` as in the JPMAP
            authors' code, or a name.
        restarts: the former name of ``starts``, to be given as that.

    Raises:
        ValueError: a setting is out of range. TypeError: of the wrong kind.

    Source: A. Bora, A. Jalal, E. Price, A. Dimakis, "Compressed sensing using generative models",
    ICML 2017.
    """

    starts: int = setting(1, at_least(1))
    z_solver: LatentSolver | str = setting(GaussNewton(), as_solver)
    restarts: InitVar[int | None] = None

    def __post_init__(self, restarts: int | None = None) -> None:
        if restarts is not None:
            warnings.warn("CSGM: restarts is called starts", DeprecationWarning, stacklevel=3)
            object.__setattr__(self, "starts", restarts)
        super().__post_init__()

    @property
    def uses_encoder(self) -> bool:
        return False

    @property
    def runs_fixed(self) -> bool:
        return isinstance(self.solver, GaussNewton)

    def run(self, problem: Problem, start: Start, monitor: Monitor) -> Outcome:
        return self._descend(problem, start, monitor, None)

    def run_fixed(
        self, problem: Problem, start: Start, fixed: Fixed, monitor: Monitor
    ) -> list[Outcome]:
        end = self._descend(problem, start, monitor, fixed)
        return end.split(start.batch or problem.batch)

    def _descend(
        self, problem: Problem, start: Start, monitor: Monitor, fixed: Fixed | None
    ) -> Outcome:
        solver = as_solver("CSGM: z_solver", self.z_solver)
        return minimise_latent(problem, start.z, solver, monitor, fixed)


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
    monitor.solved(*told(solver, found))
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
