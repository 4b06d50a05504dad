"""What a z-step solver is: a frozen description with one method, ``minimise``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from jpmap_fast.objective import LatentObjective


@dataclass(frozen=True)
class LatentSolution:
    """Where a z-step ended, per image.

    Attributes:
        z: the point [B, k].
        objective: f(z) [B], float64.
        steps: iterations spent [B].
        converged: whether the solver's own test was met [B].
        path: what ran: "compiled", "torch", or "torch (reverse mode)" for a decoder with a part of
            which torch has no forward-mode derivative.
        reason: why it was not the compiled one, "" if it was or nothing is said.
    """

    z: Tensor
    objective: Tensor
    steps: Tensor
    converged: Tensor
    path: str = "torch"
    reason: str = ""


@runtime_checkable
class LatentSolver(Protocol):
    """Minimises a ``LatentObjective`` from a starting point, every image on its own."""

    def minimise(
        self, objective: LatentObjective, z: Tensor, scale: Tensor | None = None
    ) -> LatentSolution:
        """The descent from z [B, k]; ``scale`` [B] multiplies f where a solver is not
        invariant to it (Adam's published stopping rule is stated on f / beta).
        """
        ...
