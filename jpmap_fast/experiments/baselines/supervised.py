"""A network trained end to end for one degradation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from jpmap_fast._validate import same_device
from jpmap_fast.algorithms.pixel_space import Estimate, PixelSpace
from jpmap_fast.algorithms.problem import Problem


@dataclass(frozen=True, eq=False)
class Supervised(PixelSpace):
    """x = network(A^T y): a network that knows neither A nor sigma but from its training.

    Args:
        network: images [B, C, H, W] to images, in evaluation mode: ``load_network("mnist")``. It
            works in its own precision.

    It iterates and minimises nothing: iterations are 1 and objective is NaN.

    Raises:
        TypeError: network is no ``torch.nn.Module``. ValueError: it is in training mode, where an
            image depends on its batch, or on another device than y.
    """

    network: nn.Module

    def __post_init__(self) -> None:
        if not isinstance(self.network, nn.Module):
            raise TypeError(f"Supervised: expected a network, got {self.network!r}")
        if any(module.training for module in self.network.modules()):
            raise ValueError("Supervised: expected evaluation mode; call network.eval()")

    def estimate(self, problem: Problem) -> Estimate:
        """Restore every image: the network, once."""
        seen = problem.operator.A_adjoint(problem.y)
        parameter = next(self.network.parameters(), seen)
        same_device("y", seen.device, "the network", parameter.device)
        found = seen
        if len(seen):
            found = self.network(seen.to(parameter.dtype)).to(seen.dtype)
        if found.shape != seen.shape:
            raise ValueError(
                f"Supervised: expected a network to images {list(seen.shape)}, "
                f"got {list(found.shape)}"
            )
        one = torch.ones(problem.batch, dtype=torch.int64, device=seen.device)
        return Estimate(found, one, one.bool(), torch.full_like(problem.sigma, torch.nan))
