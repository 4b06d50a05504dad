"""Alternate convex search with the encoder as z-step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from jpmap_fast._validate import count, positive
from jpmap_fast.algorithms.base import Algorithm, check_image_setting, check_starts
from jpmap_fast.algorithms.joint import nothing_left
from jpmap_fast.algorithms.monitor import Monitor
from jpmap_fast.algorithms.outcome import (
    CONVERGED,
    ENCODER_LIMIT,
    FAILED,
    ITERATION_LIMIT,
    RUNNING,
    Outcome,
    Start,
)
from jpmap_fast.algorithms.problem import Problem, State
from jpmap_fast.algorithms.step import distance


@dataclass(frozen=True, eq=False)
class AlternateConvexSearch(Algorithm):
    r"""z_{n+1} = mu_phi(x_n), x_{n+1} = argmin_x J1(x, z_{n+1}).

    Where the encoder is exact (J2 = J1 in the paper's notation) this is alternating minimisation of
    J1 and converges to a critical point. A trained encoder is not exact: an image stops as soon as
    an encoder step would raise J1, with what it had. It has converged if it stands still where a
    Newton step on min_x J1(x, .) would lower J1 by no more than 1e-4 of it.

    Args:
        beta: coupling weight, a number or one an image; None for 1 / gamma^2 of the prior.
        max_iterations: >= 1.
        tolerance: on ||dx|| / sqrt(n) + ||dz|| / sqrt(k), > 0.
        starts: K >= 1 starts (x = A^T y, z = 0, then random), best J1 per image kept.

    Raises:
        ValueError: a setting is out of range. TypeError: of the wrong kind.

    Source: arXiv 2103.01648, Algorithm 2.1.
    """

    beta: Any = None
    max_iterations: int = 500
    tolerance: float = 1 / 2550
    starts: int = 1

    def __post_init__(self) -> None:
        check_image_setting("AlternateConvexSearch: beta", self.beta)
        count("AlternateConvexSearch: max_iterations", self.max_iterations, 1)
        positive("AlternateConvexSearch: tolerance", self.tolerance)
        check_starts("AlternateConvexSearch", self.starts, None)

    @property
    def number_of_starts(self) -> int:
        return self.starts

    @property
    def image_settings(self) -> tuple[str, ...]:
        return ("beta",)

    def image_default(self, name: str, problem: Problem) -> float:
        return problem.prior.gamma**-2

    def run(self, problem: Problem, start: Start, monitor: Monitor) -> Outcome:
        batch, device = problem.batch, problem.y.device
        beta = self.beta
        state = problem.minimise_x(start.z, beta)
        if start.encoder is not None:
            published = problem.evaluate(problem.operator.A_adjoint(problem.y), start.z, beta)
            state = published.where(start.encoder, state)
        counts = torch.zeros(batch, dtype=torch.int64, device=device)
        final = Outcome(
            State(*(t.clone() for t in vars(state).values())),
            beta,
            torch.full_like(counts, ITERATION_LIMIT),
            counts.clone(),
            torch.zeros(batch, 3, dtype=torch.int64, device=device),
        )
        index = torch.arange(batch, device=device)
        monitor.step(index, state.z, state.objective, beta, state.gap, counts)
        for _ in range(self.max_iterations):
            found = problem.minimise_x(problem.encode(state.x), beta)
            better = found.objective < state.objective
            # A rise in the last digits is rounding, not the encoder.
            level = 8 * torch.finfo(beta.dtype).eps * state.objective.abs()
            still = distance(found, state) < self.tolerance
            still |= (found.objective - state.objective).abs() <= level
            state = found.where(better, state)
            final.iterations[index] += better
            final.candidates[index, 0] += better.long()
            monitor.step(index, state.z, state.objective, beta, state.gap, better)
            final.state.put(index, state)
            status = torch.full_like(index, RUNNING)
            status = torch.where(~better, ENCODER_LIMIT, status)
            if bool(still.any()):
                rows = still.nonzero()[:, 0]
                proved = nothing_left(problem.select(rows), state.select(rows), beta[rows])
                status[rows] = torch.where(proved, CONVERGED, ENCODER_LIMIT)
            status = torch.where(torch.isfinite(state.objective), status, FAILED)
            done = status != RUNNING
            if bool(done.any()):
                final.status[index[done]] = status[done]
                monitor.finished(int(done.sum()))
                keep = (~done).nonzero()[:, 0]
                if keep.numel() == 0:
                    break
                problem, state = problem.select(keep), state.select(keep)
                index, beta = index[keep], beta[keep]
        else:
            monitor.finished(int(index.numel()))
        return final
