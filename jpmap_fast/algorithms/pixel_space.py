"""Methods that know no latent code: what they have in common inside ``restore``."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from jpmap_fast.algorithms.base import Algorithm
from jpmap_fast.algorithms.monitor import Monitor
from jpmap_fast.algorithms.outcome import CONVERGED, FAILED, ITERATION_LIMIT, Outcome, Start
from jpmap_fast.algorithms.problem import Problem, State


@dataclass(frozen=True)
class Estimate:
    """What a method in pixel space says of a batch.

    Attributes:
        x: [B, C, H, W].
        iterations: [B] int64.
        converged: [B] bool.
        objective: what the method minimises [B]; NaN for one that minimises nothing.
    """

    x: Tensor
    iterations: Tensor
    converged: Tensor
    objective: Tensor


class PixelSpace(Algorithm):
    """A method that takes the shape of the images from the prior and nothing else.

    In a ``Result`` of it z, decoded, beta and gap are NaN, and objective is the method's own.
    """

    @property
    def uses_encoder(self) -> bool:
        return False

    @property
    def uses_codes(self) -> bool:
        return False

    @abstractmethod
    def estimate(self, problem: Problem) -> Estimate:
        """Restore every image of the problem."""

    def run(self, problem: Problem, start: Start, monitor: Monitor) -> Outcome:
        found = self.estimate(problem)
        monitor.finished(problem.batch)
        nan = torch.full_like(problem.sigma, torch.nan)
        status = torch.where(found.converged, CONVERGED, ITERATION_LIMIT)
        finite = torch.isfinite(found.x.flatten(1)).all(dim=1)
        return Outcome(
            State(
                found.x,
                torch.full_like(start.z, torch.nan),
                torch.full_like(found.x, torch.nan),
                found.objective,
                nan,
            ),
            nan,
            torch.where(finite, status, FAILED),
            found.iterations,
            torch.zeros(problem.batch, 3, dtype=torch.int64, device=found.x.device),
        )
