"""The loop over iterations of a method in which every image has its own end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from jpmap_fast._working_set import WorkingSet
from jpmap_fast.algorithms.monitor import Monitor
from jpmap_fast.algorithms.outcome import RUNNING, Outcome
from jpmap_fast.algorithms.problem import State
from jpmap_fast.algorithms.step import Work

W = TypeVar("W", bound=Work)

# An iteration: the images after it, the candidate each took (0 for none), and who stands still.
Step = Callable[[W], tuple[W, Tensor, Tensor]]

# What follows from it: a status where an image is finished, or its next coupling weight.
Advance = Callable[[W, Tensor], W]


def until_done(work: W, step: Step[W], advance: Advance[W], monitor: Monitor) -> Outcome:
    """Iterate for as long as any image is left; finished ones are taken out."""
    working = WorkingSet(work.problem.batch, work.beta.device)
    _tell(monitor, working, work, work.inner)
    while working.left:
        work, taken, still = step(work)
        _tell(monitor, working, work, taken)
        work = advance(work, still)
        before = working.left
        if working.finish(work.status == RUNNING, *_ends(work)):
            work = working.select(work)
        monitor.finished(before - working.left)
    *state, beta, status, iterations, candidates = working.results(*_ends(work))
    return Outcome(State(*state), beta, status, iterations, candidates)


def _tell(monitor: Monitor, working: WorkingSet, work: Work, taken: Tensor) -> None:
    state = work.state
    monitor.step(working.index, state.z, state.objective, work.beta, state.gap, taken)


def _ends(work: Work) -> tuple[Tensor, ...]:
    state = vars(work.state).values()
    return *state, work.beta, work.status, work.iterations, work.candidates
