"""Several starts an image, and the best of their ends."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from jpmap_fast.algorithms.base import Algorithm
from jpmap_fast.algorithms.monitor import Monitor
from jpmap_fast.algorithms.outcome import Outcome, Start
from jpmap_fast.algorithms.parts import Parts
from jpmap_fast.algorithms.problem import Problem


class Starts:
    """The runs of an algorithm from every start of every image, all in one batch.

    Args:
        algorithm: bound to the problem.
        problem: of a batch.
        codes: ``Algorithm.starting_codes`` [K, k], which all images share, so that no image's
            result depends on its batch: the encoder's guess (for algorithms that have an encoder),
            z = 0, then draws from N(0, I).
    """

    def __init__(self, algorithm: Algorithm, problem: Problem, codes: Tensor) -> None:
        self._batch, self._number = problem.batch, algorithm.number_of_starts
        device = problem.y.device
        # Start-major: row s * batch + b is start s of image b.
        image = torch.arange(self._batch, device=device).repeat(self._number)
        one = self._number == 1
        self._problem = problem if one else problem.select(image)
        self._algorithm = algorithm if one else algorithm.select(image)
        encoder = None
        if algorithm.uses_encoder:
            encoder = torch.arange(len(image), device=device) < self._batch
        z = codes.repeat_interleave(self._batch, dim=0)
        # The second start is z = 0, where the encoder's has x = A^T y.
        self._start = Start(z, encoder, covered=encoder is not None and not one)
        self._rows = torch.arange(self._batch, device=device)

    def solve(self, y: Tensor, monitor: Monitor, parts: Parts) -> Outcome:
        """Restore measurements y [B, ...] from every start; per image the least objective wins."""
        monitor.start(self._batch * self._number)
        repeated = y if self._number == 1 else y.repeat(self._number, *[1] * (y.dim() - 1))
        problem = self._problem.at(repeated)
        outcome = self._algorithm.run(problem, self._start, monitor, parts)
        outcome = replace(outcome, history=monitor.history())
        return outcome if self._number == 1 else outcome.select(self._best(outcome))

    def _best(self, outcome: Outcome) -> Tensor:
        """Row of the best start of each image [B]: of equal ones the better status.

        An end that failed never wins.
        """
        value = outcome.state.objective.double()
        value = torch.where(torch.isfinite(value), value, torch.inf).reshape(self._number, -1)
        status = outcome.status.reshape(self._number, -1)
        unequal = value > value.amin(dim=0)
        chosen = torch.where(unequal, torch.iinfo(status.dtype).max, status).argmin(dim=0)
        return chosen * self._batch + self._rows


def solve_from(
    algorithm: Algorithm, problem: Problem, z0: Tensor, monitor: Monitor, parts: Parts
) -> Outcome:
    """Restore from codes z0 [B, k] in place of all starts."""
    monitor.start(problem.batch)
    outcome = algorithm.run(problem, Start(z0), monitor, parts)
    return replace(outcome, history=monitor.history())
