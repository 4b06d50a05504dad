"""Scaled ADMM on min F(x) + 1/2 ||z||^2 such that x = G(z): all but its step in z."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from jpmap_fast._validate import number
from jpmap_fast.algorithms.base import Algorithm
from jpmap_fast.algorithms.joint import nothing_left
from jpmap_fast.algorithms.latent import at_latent_objective, with_latent_objective
from jpmap_fast.algorithms.loop import until_done
from jpmap_fast.algorithms.monitor import Monitor
from jpmap_fast.algorithms.outcome import (
    CONVERGED,
    FAILED,
    ITERATION_LIMIT,
    RUNNING,
    TOLERANCE_LIMIT,
    Outcome,
    Start,
)
from jpmap_fast.algorithms.problem import Coupling, Problem
from jpmap_fast.algorithms.step import Work, begin, counted, distance
from jpmap_fast.objective import LatentObjective


def growing(name: str, value: Any) -> None:
    """A finite factor >= 1."""
    if number(name, value) < 1:
        raise ValueError(f"{name}: expected a finite factor >= 1, got {value!r}")


@dataclass(frozen=True)
class DualWork(Work):
    """What the loop knows of the images at work, with multipliers."""

    u: Tensor  # [B, C, H, W] the multipliers of x = G(z), over beta
    moved: Tensor  # [B] ||dx||^2 of the last iteration


class Multipliers(Algorithm):
    """ADMM, whose fields have these names; a class says how it steps in z."""

    beta0: Any
    growth: float
    max_iterations: int
    tolerance: float
    # Its steps in z are at a given x, for ``plan``.
    coupling: ClassVar[Coupling] = "alternating"

    @abstractmethod
    def step_in_z(self, f: LatentObjective, z: Tensor, scale: Tensor, monitor: Monitor) -> Tensor:
        """From z [B, k] to where f is lower; ``scale`` is for ``LatentSolver.minimise``."""

    def run(self, problem: Problem, start: Start, monitor: Monitor) -> Outcome:
        z = start.z
        if start.encoder is not None:
            code = problem.encode(problem.operator.A_adjoint(problem.y))
            z = torch.where(start.encoder[:, None], code, z)
        work = begin(problem, Start(z), self.beta0, asks=False)
        dual = DualWork(**vars(work), u=torch.zeros_like(work.state.x), moved=work.state.gap)
        outcome = until_done(dual, lambda work: self._step(work, monitor), self._advance, monitor)
        # Whatever the penalty was, what the end is a minimum of has x = G(z).
        outcome = replace(outcome, beta=torch.full_like(outcome.beta, torch.inf))
        return with_latent_objective(outcome, problem)

    def _step(self, work: DualWork, monitor: Monitor) -> tuple[DualWork, Tensor, Tensor]:
        problem, before, beta, u = work.problem, work.state, work.beta, work.u
        f, scale = problem.latent_objective(self.coupling, before.x + u, beta)
        z = self.step_in_z(f, before.z, scale, monitor)
        decoded = problem.decode(z)
        x = problem.nearest(decoded - u, beta)
        state = problem.evaluate(x, z, beta, decoded)
        move = distance(state, before) + (state.gap / decoded[0].numel()).sqrt()
        taken = torch.full_like(work.iterations, 3)
        new = replace(
            work,
            state=state,
            u=u + x - decoded,
            moved=(x - before.x).flatten(1).square().sum(dim=1),
            iterations=work.iterations + 1,
            inner=work.inner + 1,
            candidates=counted(work.candidates, taken),
        )
        return new, taken, move < self.tolerance

    def _advance(self, work: DualWork, still: Tensor) -> DualWork:
        """The images with a status where they are finished, or with their next penalty."""
        status, state, beta = work.status, work.state, work.beta
        if bool(still.any()):
            rows = still.nonzero()[:, 0]
            part = work.problem.select(rows)
            end = at_latent_objective(part, state.select(rows))
            proved = nothing_left(part, end, torch.full_like(beta[rows], torch.inf))
            status = status.index_copy(0, rows, torch.where(proved, CONVERGED, TOLERANCE_LIMIT))
        cut = (status == RUNNING) & (work.inner >= self.max_iterations)
        status = torch.where(cut, ITERATION_LIMIT, status)
        status = torch.where(torch.isfinite(state.objective), status, FAILED)
        ceiling = torch.finfo(beta.dtype).max ** 0.5  # far beyond any penalty that is of use
        grown = torch.where(state.gap > work.moved, (self.growth * beta).clamp_max(ceiling), beta)
        u = work.u * (beta / grown).reshape(-1, 1, 1, 1)
        return replace(work, status=status, beta=grown, u=u)
