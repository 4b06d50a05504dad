"""How a step of a loop works on some images of a batch: on those alone, or on all of them masked.

``Compacted`` gathers the images that a piece of work concerns, and asks the device which they are:
cheap on a CPU, and on a GPU where batches are large. ``Masked`` works on every image and keeps what
concerns it: nothing waits for the device, as in a CUDA graph, and nothing is gathered.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from jpmap_fast.objective import LatentObjective
from jpmap_fast.solvers import GaussNewton, LatentSolution, LatentSolver


class Parts(ABC):
    """One of the two ways."""

    @abstractmethod
    def any(self, which: Tensor) -> bool:
        """Whether ``which`` [B] bool holds somewhere; True where that cannot be asked."""

    @abstractmethod
    def rows(self, which: Tensor) -> Tensor | None:
        """The images to work on for ``which``; None for the whole batch."""

    @abstractmethod
    def descend(
        self,
        solver: LatentSolver,
        f: LatentObjective,
        z: Tensor,
        scale: Tensor,
        which: Tensor | None,
    ) -> LatentSolution:
        """A descent of f from z, of the images ``which`` (None for all) of those at hand."""


class Compacted(Parts):
    """On the images concerned alone."""

    def any(self, which: Tensor) -> bool:
        return bool(which.any())

    def rows(self, which: Tensor) -> Tensor | None:
        rows = which.nonzero()[:, 0]
        return None if rows.numel() == which.numel() else rows

    def descend(
        self,
        solver: LatentSolver,
        f: LatentObjective,
        z: Tensor,
        scale: Tensor,
        which: Tensor | None,
    ) -> LatentSolution:
        return solver.minimise(f, z, scale)


@dataclass(frozen=True)
class Masked(Parts):
    """On the whole batch, with masks.

    Attributes:
        asks: whether the device may be asked if there is anything to do at all; False in a graph.
        low_latency: see ``mlp_kernels.mlp_restore``.
    """

    asks: bool
    low_latency: bool

    def any(self, which: Tensor) -> bool:
        return not self.asks or bool(which.any())

    def rows(self, which: Tensor) -> Tensor | None:
        return None

    def descend(
        self,
        solver: LatentSolver,
        f: LatentObjective,
        z: Tensor,
        scale: Tensor,
        which: Tensor | None,
    ) -> LatentSolution:
        if not isinstance(solver, GaussNewton):
            raise TypeError(f"expected GaussNewton, which can leave images out, got {solver!r}")
        return solver.minimise_on_device(f, z, which, self.low_latency)


def taken_rows(value: Tensor, rows: Tensor | None) -> Tensor:
    """The rows of a tensor, None for all."""
    return value if rows is None else value[rows]


def put_where(value: Tensor, rows: Tensor | None, condition: Tensor, new: Tensor) -> Tensor:
    """``value`` with ``new`` in those of ``rows`` (None for all) for which ``condition`` holds."""
    if rows is None:
        return torch.where(condition, new, value)
    return value.index_copy(0, rows, torch.where(condition, new, value[rows]))
