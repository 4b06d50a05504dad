"""Descent of J1 in x and z with encoder candidates: the loop JPMAP and the continuations share.

Finished images are taken out, and it goes on for as long as any is left. ``rounds`` does the same
in a fixed amount of work.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

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
from jpmap_fast.algorithms.problem import Problem, State
from jpmap_fast.algorithms.step import JointSettings, Work, begin, step
from jpmap_fast.solvers import GaussNewton

# An image that stands still has converged if a Newton step promises no larger part of J1 than this.
NOTHING_LEFT = 1e-4


class Schedule(Protocol):
    """What happens to an image that is stationary at its beta."""

    def __call__(self, stage: Tensor, beta: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
        """The next beta [B] and a status code [B], or RUNNING to go on with that beta.

        Args:
            stage: how often beta has changed for each image [B].
            beta: current coupling weights [B].
            gap: ||x - G(z)||^2 [B].
        """
        ...


def stop_when_stationary(stage: Tensor, beta: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
    """The schedule of JPMAP: one beta, then done."""
    return beta, torch.full_like(stage, CONVERGED)


def descend(
    problem: Problem,
    start: Start,
    beta: Tensor,
    settings: JointSettings,
    schedule: Schedule,
    monitor: Monitor,
) -> Outcome:
    """Run Algorithm 2.3 (or 2.2) on every image, through the betas of ``schedule``."""
    return until_done(
        begin(problem, start, beta, asks=settings.proposals > 0),
        lambda work: step(work, start, settings, monitor),
        lambda work, still: _advance(work, still, settings, schedule),
        monitor,
    )


def _advance(work: Work, still: Tensor, settings: JointSettings, schedule: Schedule) -> Work:
    """The images with a status where they are finished, or with their next beta."""
    status, running = work.status, work.status == RUNNING
    asks = work.encoder_open
    if settings.selection == "adaptive":
        asks = asks & (work.inner < settings.proposals)
    # Where a descent has converged there is nothing to descend again.
    ready = running & (still | (work.solved & ~asks) | (work.inner >= settings.max_iterations))
    if bool(ready.any()):
        beta, verdict = schedule(work.stage, work.beta, work.state.gap)
        status = torch.where(ready, verdict, status)
        unproved = ready & (verdict == CONVERGED) & ~work.solved
        onward = ready & (verdict == RUNNING)
        any_unproved, any_onward = torch.stack((unproved.any(), onward.any())).tolist()
        if any_unproved:
            rows = unproved.nonzero()[:, 0]
            part = work.select(rows)
            limit = torch.where(still[rows], TOLERANCE_LIMIT, ITERATION_LIMIT)
            proved = still[rows] & nothing_left(part.problem, part.state, part.beta)
            status = status.index_copy(0, rows, torch.where(proved, CONVERGED, limit))
        if any_onward:
            work = _with_beta(work, onward, torch.where(onward, beta, work.beta))
    failed = ~torch.isfinite(work.state.objective)
    return replace(work, status=torch.where(failed, FAILED, status))


def _with_beta(work: Work, onward: Tensor, beta: Tensor) -> Work:
    """The images with new betas, those of ``onward`` at the beginning of their next stage."""
    # J1 is a function of beta: the new one is compared with nothing computed before.
    rows = onward.nonzero()[:, 0]
    fresh = work.problem.select(rows).minimise_x(work.state.z[rows], beta[rows])
    return replace(
        work,
        beta=beta,
        state=work.state.put_where(rows, torch.ones_like(rows, dtype=torch.bool), fresh),
        stage=work.stage + onward,
        inner=torch.where(onward, 0, work.inner),
        encoder_open=work.encoder_open & ~onward,
        solved=work.solved & ~onward,
    )


def nothing_left(problem: Problem, state: State, beta: Tensor) -> Tensor:
    """Whether a Newton step on J(z) promises next to nothing [B] bool."""
    f, _ = problem.latent_objective("projected", state.x, beta)
    solver = GaussNewton()
    # Of half its squared length, a step that the solver would not take: J may fall to 0.
    least = 0.5 * state.z.shape[1] * solver.tolerance**2
    wanted = NOTHING_LEFT * state.objective.double().abs()
    return solver.promised(f, state.z) <= wanted.clamp_min(least)
