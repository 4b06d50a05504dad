"""Joint MAP in a fixed amount of work: one descent a candidate, nothing gathered.

What ``joint.descend`` does for JPMAP as published in Algorithm 2.3, with n1 = 0, laid out in
advance: every start descends in one launch, then the encoder is asked up to n2 times for every
image. Who is finished stays as it is. A descent that is cut short is not taken up again. Without
questions to the device it can be recorded as a CUDA graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jpmap_fast._capture import constant
from jpmap_fast.algorithms.monitor import Monitor
from jpmap_fast.algorithms.outcome import (
    CONVERGED,
    COVERED,
    FAILED,
    ITERATION_LIMIT,
    Outcome,
    Start,
)
from jpmap_fast.algorithms.problem import Problem, State
from jpmap_fast.algorithms.step import JointSettings, distance, falls, minima, spoken_of
from jpmap_fast.objective import LatentObjective
from jpmap_fast.solvers import GaussNewton, LatentSolution


@dataclass(frozen=True)
class Fixed:
    """How a fixed amount of work is done.

    Attributes:
        asks: whether the device may be asked if there is anything to do at all; False in a graph.
        low_latency: see ``kernels.mlp.mlp_restore``.
    """

    asks: bool
    low_latency: bool

    def descend(
        self,
        solver: object,
        f: LatentObjective,
        z: Tensor,
        active: Tensor | None = None,
        known: Tensor | None = None,
    ) -> LatentSolution:
        """A descent of f from z [B, k], of the images ``active`` (None for all).

        ``known`` is as in ``GaussNewton.minimise``.
        """
        if not isinstance(solver, GaussNewton):
            raise TypeError(f"expected GaussNewton, whose steps can be counted, got {solver!r}")
        return solver.minimise_on_device(f, z, active, self.low_latency, known)


def for_rounds(
    problem: Problem,
    start: Start,
    beta: Tensor,
    settings: JointSettings,
    fixed: Fixed,
    monitor: Monitor,
) -> list[Outcome]:
    """Run Algorithm 2.3 on every start of a batch; see the module. One outcome a start."""
    z, images = start.z, start.images
    if images is not None:
        published = images.operator.A_adjoint(images.y)
        code = images.encode(published)
        z = code if images.batch == len(z) else torch.cat((code, z[images.batch :]))
    f = problem.projection(problem.y, beta, problem.sigma, keep=not fixed.asks)
    found = fixed.descend(settings.z_solver, f, z)
    monitor.solved(found.path, found.reason)
    state = problem.minimise_x(found.z, beta)
    moved = (found.z != z).any(dim=1)  # only where f falls
    zeros = constant(0, found.steps).expand_as(found.steps)
    ends = Outcome(
        state,
        beta,
        _status(found.converged, state),
        constant(1, found.steps).expand_as(found.steps),
        torch.stack((zeros, zeros, moved.long()), dim=1),
    ).split(start.batch or problem.batch)
    if images is not None:
        count = images.batch
        before = images.evaluate(published, start.z[:count], beta[:count], start.decoded)
        solved = found.converged[:count]
        part = f.select(slice(0, count))
        ends[0] = _ask_encoder(images, part, before, ends[0], solved, start, settings, fixed)
    return ends


def _status(solved: Tensor, state: State) -> Tensor:
    like = torch.empty(0, dtype=torch.int64, device=solved.device)
    ended, cut, failed = (constant(code, like) for code in (CONVERGED, ITERATION_LIMIT, FAILED))
    status = torch.where(solved, ended, cut)
    return torch.where(state.objective.abs() < torch.inf, status, failed)


def _ask_encoder(
    images: Problem,
    f: LatentObjective,
    before: State,
    end: Outcome,
    solved: Tensor,
    start: Start,
    settings: JointSettings,
    fixed: Fixed,
) -> Outcome:
    """The candidates of the encoder's starts after ``end``, the first of them, is known.

    It is taken where it lies below x = A^T y, ``before``; then the encoder is asked again for as
    long as what it says lowers J1 and moves the image. Where it was not taken, what is left is the
    descent from the first z, which another start may have made as well.
    """
    beta = end.beta

    def attempt(
        z: Tensor, active: Tensor, now: State, solved: Tensor, stood: bool
    ) -> tuple[State, Tensor, Tensor]:
        known = None if stood else minima(now.z, solved)
        found = fixed.descend(settings.z_solver, f, z, active, known)
        there = images.minimise_x(found.z, beta)
        better = active & falls(there.objective, now.objective)
        solved = torch.where(spoken_of(active, better, stood), found.converged, solved)
        return there.where(better, now), better, solved

    taken = falls(end.state.objective, before.objective)
    now = end.state.where(taken, before)
    zeros = constant(0, end.iterations).expand_as(end.iterations)
    solved, second, third = solved & taken, taken.long(), zeros
    iterations = end.iterations
    if not start.covered and not (fixed.asks and bool(taken.all())):
        now, better, solved = attempt(now.z, ~taken, now, solved, stood=True)
        third = better.long()
    open_, last = taken, before
    for _ in range(1, min(settings.n2, settings.max_iterations)):
        open_ = open_ & (distance(now, last) >= settings.tolerance)
        if fixed.asks and not bool(open_.any()):
            break
        last = now
        now, better, solved = attempt(images.encode(now.x), open_, now, solved, stood=False)
        iterations, second = iterations + open_, second + better
        open_ = better
    candidates = torch.stack((zeros, second, third), dim=1)
    status = _status(solved, now)
    if start.covered:
        status = torch.where(taken, status, constant(COVERED, status))
    return Outcome(now, beta, status, iterations, candidates)
