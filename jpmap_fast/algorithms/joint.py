"""Descent of J1 in x and z with encoder candidates: the loop JPMAP and the continuations share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from jpmap_fast.algorithms.base import (
    CONVERGED,
    FAILED,
    ITERATION_LIMIT,
    TOLERANCE_LIMIT,
    Outcome,
    Start,
)
from jpmap_fast.algorithms.monitor import Monitor
from jpmap_fast.algorithms.problem import Coupling, Problem, State
from jpmap_fast.solvers import GaussNewton, LatentSolution, LatentSolver

Selection = Literal["adaptive", "exhaustive"]

# An image that stands still has converged if a Newton step promises no larger part of J1 than this.
NOTHING_LEFT = 1e-4


@dataclass(frozen=True)
class JointSettings:
    """How the loop descends; see ``JPMAP`` for what each means."""

    coupling: Coupling
    z_solver: LatentSolver
    selection: Selection
    n1: int
    n2: int
    max_iterations: int
    tolerance: float


class Schedule(Protocol):
    """What happens to an image that is stationary at its beta."""

    def __call__(self, stage: Tensor, beta: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
        """The next beta [B] and a status code [B], or -1 to go on with that beta.

        Args:
            stage: how often beta has changed for each image [B].
            beta: current coupling weights [B].
            gap: ||x - G(z)||^2 [B].
        """
        ...


def stop_when_stationary(stage: Tensor, beta: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
    """The schedule of JPMAP: one beta, then done."""
    return beta, torch.full_like(stage, CONVERGED)


@dataclass
class _Work:
    """Everything the loop keeps for the images still at work."""

    problem: Problem
    index: Tensor  # [B] their rows in the whole batch
    state: State
    beta: Tensor  # [B]
    encoder_open: Tensor  # [B] bool: candidates 1 and 2 are still proposed
    solved: Tensor  # [B] bool: z is where a descent of the projected objective converged
    iterations: Tensor  # [B] over all betas
    inner: Tensor  # [B] at this beta
    stage: Tensor  # [B] how often beta has changed
    candidates: Tensor  # [B, 3]

    def select(self, keep: Tensor) -> _Work:
        return _Work(
            self.problem.select(keep),
            self.index[keep],
            self.state.select(keep),
            self.beta[keep],
            self.encoder_open[keep],
            self.solved[keep],
            self.iterations[keep],
            self.inner[keep],
            self.stage[keep],
            self.candidates[keep],
        )


def run_joint(
    problem: Problem,
    start: Start,
    beta: Tensor,
    settings: JointSettings,
    schedule: Schedule,
    monitor: Monitor,
) -> Outcome:
    """Run Algorithm 2.3 (or 2.2) on every image, through the betas of ``schedule``."""
    device = beta.device
    batch = problem.batch
    state = problem.minimise_x(start.z, beta)
    if bool(start.encoder.any()):
        published = problem.evaluate(problem.operator.A_adjoint(problem.y), start.z, beta)
        state = published.where(start.encoder, state)
    zeros = torch.zeros(batch, dtype=torch.int64, device=device)
    work = _Work(
        problem,
        torch.arange(batch, device=device),
        state,
        beta,
        start.encoder & (settings.n2 > 0 or settings.n1 > 0),
        torch.zeros_like(start.encoder),
        zeros,
        zeros,
        zeros,
        torch.zeros(batch, 3, dtype=torch.int64, device=device),
    )
    final = Outcome(
        State(*(t.clone() for t in (state.x, state.z, state.decoded, state.objective, state.gap))),
        beta.clone(),
        torch.full((batch,), ITERATION_LIMIT, dtype=torch.int64, device=device),
        zeros.clone(),
        work.candidates.clone(),
    )
    monitor.step(work.index, state.z, state.objective, beta, state.gap, zeros)
    while work.index.numel():
        taken, stationary = _iterate(work, settings, monitor)
        state = work.state
        monitor.step(work.index, state.z, state.objective, work.beta, state.gap, taken)
        stop = _advance(work, stationary, settings, schedule)
        done = stop >= 0
        if bool(done.any()):
            left = work.index[done]
            final.state.put(left, work.state.select(done))
            final.beta[left], final.status[left] = work.beta[done], stop[done]
            final.iterations[left] = work.iterations[done]
            final.candidates[left] = work.candidates[done]
            monitor.finished(int(left.numel()))
            work = work.select((~done).nonzero()[:, 0])
    return final


def _iterate(work: _Work, settings: JointSettings, monitor: Monitor) -> tuple[Tensor, Tensor]:
    """One iteration in place: the candidate taken [B] (0 for none) and whether z is stationary."""
    before = work.state
    taken = torch.zeros_like(work.index)
    rejected_encoder = torch.zeros_like(work.encoder_open)
    encoded = torch.zeros_like(before.z)

    def propose(
        which: Tensor, candidate: Tensor, code: Callable[[_Work, Tensor], tuple[Tensor, Tensor]]
    ) -> None:
        """Try a candidate [B] on the images ``which`` and take it where J1 falls.

        ``code`` gives z of the images ``rows``, and whether a descent of J(z) converged there.
        """
        if not bool(which.any()):
            return
        rows = which.nonzero()[:, 0]
        part = work if rows.numel() == work.index.numel() else work.select(rows)
        z, converged = code(part, rows)
        found = part.problem.minimise_x(z, part.beta)
        better = found.objective < part.state.objective
        work.state = _merge(work.state, rows, better, found)
        taken[rows] = torch.where(better, candidate[rows], taken[rows])
        # A descent from where an image stands that finds nothing lower speaks of that place too.
        known = better | ((candidate[rows] == 3) & (taken[rows] == 0))
        work.solved = work.solved.index_copy(
            0, rows, torch.where(known, converged, work.solved[rows])
        )

    def from_encoder(part: _Work, rows: Tensor) -> tuple[Tensor, Tensor]:
        encoded[rows] = part.problem.encode(part.state.x)
        return encoded[rows], torch.zeros_like(part.solved)

    def descend(part: _Work, code: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        f, scale = part.problem.latent_objective(settings.coupling, x, part.beta)
        found: LatentSolution = settings.z_solver.minimise(f, code, scale)
        monitor.solved(found.path)
        # At the end of a descent of J1(x_n, .) the next x moves the minimum; and the test of Adam,
        # on the gradient of f / beta, says nothing of f where beta is large.
        known = settings.coupling == "projected" and isinstance(settings.z_solver, GaussNewton)
        return found.z, found.converged & known

    first = torch.ones_like(work.index)
    open_ = work.encoder_open
    if settings.selection == "exhaustive":
        again = ~work.solved
        propose(open_, first, from_encoder)
        propose(open_, 2 * first, lambda part, rows: descend(part, encoded[rows], before.x[rows]))
        propose(again, 3 * first, lambda part, rows: descend(part, before.z[rows], before.x[rows]))
    else:
        propose(open_ & (work.inner < settings.n1), first, from_encoder)
        second = open_ & (taken == 0) & (work.inner < settings.n2)
        missing = second & (work.inner >= settings.n1)
        if bool(missing.any()):
            rows = missing.nonzero()[:, 0]
            encoded[rows] = work.problem.encode(work.state.x)[rows]
        # The z2 of some images and the z3 of the others descend together.
        start, number = torch.where(second[:, None], encoded, before.z), 3 - second.long()
        propose(
            (taken == 0) & (second | ~work.solved),
            number,
            lambda part, rows: descend(part, start[rows], before.x[rows]),
        )
        rejected_encoder = second & (taken == 0)
        propose(
            rejected_encoder & ~work.solved,
            3 * first,
            lambda part, rows: descend(part, before.z[rows], before.x[rows]),
        )

    n, k = before.x[0].numel(), before.z.shape[1]
    moved = _norm(work.state.x - before.x) / n**0.5 + _norm(work.state.z - before.z) / k**0.5
    still = moved < settings.tolerance
    # An encoder step that no longer moves says nothing about J1: go on by descent.
    stationary = still & (taken != 1)
    work.encoder_open = open_ & ~rejected_encoder & ~(still & (taken == 1))
    work.iterations = work.iterations + 1
    work.inner = work.inner + 1
    for candidate in (1, 2, 3):
        work.candidates[:, candidate - 1] += taken == candidate
    return taken, stationary


def _advance(
    work: _Work, stationary: Tensor, settings: JointSettings, schedule: Schedule
) -> Tensor:
    """Status code of each image that is finished, -1 for the others, whose beta moves on."""
    status = torch.full_like(work.index, -1)
    asks = work.encoder_open
    if settings.selection == "adaptive":
        asks = asks & (work.inner < max(settings.n1, settings.n2))
    # Where a descent has converged there is nothing to descend again.
    settled = work.solved & ~asks
    exhausted = work.inner >= settings.max_iterations
    ready = stationary | settled | exhausted
    if bool(ready.any()):
        beta, verdict = schedule(work.stage, work.beta, work.state.gap)
        status = torch.where(ready, verdict, status)
        unproved = ready & (verdict == CONVERGED) & ~work.solved
        if bool(unproved.any()):
            rows = unproved.nonzero()[:, 0]
            limit = torch.where(stationary[rows], TOLERANCE_LIMIT, ITERATION_LIMIT)
            part = work.select(rows)
            proved = stationary[rows] & nothing_left(part.problem, part.state, part.beta)
            status[rows] = torch.where(proved, CONVERGED, limit)
        onward = ready & (verdict < 0)
        if bool(onward.any()):
            # J1 is a function of beta: the new one is compared with nothing computed before.
            rows = onward.nonzero()[:, 0]
            work.beta = torch.where(onward, beta, work.beta)
            part = work.select(rows)
            fresh = part.problem.minimise_x(part.state.z, part.beta)
            work.state = _merge(work.state, rows, torch.ones_like(rows, dtype=torch.bool), fresh)
            work.stage = work.stage + onward
            work.inner = torch.where(onward, 0, work.inner)
            work.encoder_open = work.encoder_open & ~onward
            work.solved = work.solved & ~onward
    return torch.where(torch.isfinite(work.state.objective), status, FAILED)


def nothing_left(problem: Problem, state: State, beta: Tensor) -> Tensor:
    """Whether a Newton step on J(z) promises next to nothing [B] bool."""
    f, _ = problem.latent_objective("projected", state.x, beta)
    promised = GaussNewton().promised(f, state.z)
    return promised <= NOTHING_LEFT * state.objective.double().abs()


def _merge(state: State, rows: Tensor, better: Tensor, found: State) -> State:
    if rows.numel() == state.z.shape[0]:
        return found.where(better, state)
    merged = State(*(t.clone() for t in vars(state).values()))
    merged.put(rows[better], found.select(better.nonzero()[:, 0]))
    return merged


def _norm(difference: Tensor) -> Tensor:
    return torch.linalg.vector_norm(difference.flatten(1), dim=1)
