"""Alternate convex search with the encoder as z-step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from jpmap_fast._validate import positive
from jpmap_fast.algorithms.base import Algorithm
from jpmap_fast.algorithms.joint import nothing_left
from jpmap_fast.algorithms.loop import until_done
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
from jpmap_fast.algorithms.problem import Problem
from jpmap_fast.algorithms.settings import at_least, positive_numbers, precision, setting
from jpmap_fast.algorithms.step import Work, begin, counted, distance, falls


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

    beta: Any = setting(None, positive_numbers, per_image=True, of_problem=precision)
    max_iterations: int = setting(500, at_least(1))
    tolerance: float = setting(1 / 2550, positive)
    starts: int = setting(1, at_least(1))

    def run(self, problem: Problem, start: Start, monitor: Monitor) -> Outcome:
        work = begin(problem, start, self.beta, asks=False)
        return until_done(work, self._step, self._advance, monitor)

    def _step(self, work: Work) -> tuple[Work, Tensor, Tensor]:
        """What the encoder says of x_n, taken where J1 falls; where it does not, the image ends."""
        before = work.state
        found = work.problem.minimise_x(work.problem.encode(before.x), work.beta)
        better = falls(found.objective, before.objective)
        # A rise in the last digits is rounding, not the encoder.
        level = 8 * torch.finfo(work.beta.dtype).eps * before.objective.abs()
        still = distance(found, before) < self.tolerance
        still |= (found.objective - before.objective).abs() <= level
        taken, inner = better.long(), work.inner + 1
        going = torch.where(inner < self.max_iterations, RUNNING, ITERATION_LIMIT)
        new = replace(
            work,
            state=found.where(better, before),
            status=torch.where(better, going, ENCODER_LIMIT),
            iterations=work.iterations + taken,
            inner=inner,
            candidates=counted(work.candidates, taken),
        )
        return new, taken, still

    def _advance(self, work: Work, still: Tensor) -> Work:
        """The images with what is to be said of those that stand still, and of failed ones."""
        status = work.status
        if bool(still.any()):
            rows = still.nonzero()[:, 0]
            part = work.select(rows)
            proved = nothing_left(part.problem, part.state, part.beta)
            status = status.index_copy(0, rows, torch.where(proved, CONVERGED, ENCODER_LIMIT))
        finite = torch.isfinite(work.state.objective)
        return replace(work, status=torch.where(finite, status, FAILED))
