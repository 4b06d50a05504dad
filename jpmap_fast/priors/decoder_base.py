"""What a solver asks of a decoder.

A solver never asks for more than four things: the value G(z), the value with all k columns of its
Jacobian, the value with one vector-Jacobian product, and, where k is large, products by the
Jacobian and its transpose at a fixed z.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from jpmap_fast.kernels.products import batched_product


@dataclass(frozen=True)
class Linearisation:
    """The Jacobian of G at a fixed z, by its action.

    Attributes:
        push: directions [B, k] to dG v [B, n].
        pull: cotangents [B, n] to dG^T c [B, k].
    """

    push: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Expansion:
    """G about a point z, as a step of Newton's method wants it.

    Attributes:
        columns: the transposed Jacobian [B, k, n], perhaps in low precision.
        pulled: dG^T c [B, k], to working precision.
        curvature: sum_j c_j times the Hessian of G_j [B, k, k]; None where it is not asked for or
            not to be had at about the cost of the columns.
    """

    columns: Tensor
    pulled: Tensor
    curvature: Tensor | None = None


class Decoder(ABC):
    """G: R^k -> R^n, images flattened to n numbers, every image of a batch on its own."""

    latent_dim: int
    size: int
    # What ``LatentSolution.path`` says of a solve in plain torch.
    path = "torch"

    @abstractmethod
    def value(self, z: Tensor) -> Tensor:
        """G(z) [B, n] of z [B, k]."""

    @abstractmethod
    def linearise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """G(z) [B, n] and the transposed Jacobian [B, k, n], row i holding dG/dz_i."""

    @abstractmethod
    def pullback(self, z: Tensor, cotangent: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """G(z) [B, n] and dG(z)^T c [B, k], with c = ``cotangent(G(z))`` [B, n]."""

    def expand(
        self, z: Tensor, cotangent: Callable[[Tensor], Tensor], second_order: bool
    ) -> Expansion:
        """The expansion at z [B, k], with c = ``cotangent(G(z))`` [B, n].

        Of ``second_order`` where the curvature is to be had at about the cost of the columns.
        """
        value, columns = self.linearise(z)
        c = cotangent(value)
        if self.exact_tangents(z):
            pulled = pulled_by(columns, c)
        else:
            pulled = self.pullback(z, lambda decoded: c)[1]
        return Expansion(columns, pulled)

    @abstractmethod
    def linearisation(self, z: Tensor) -> Linearisation:
        """Products by the Jacobian at z [B, k] and by its transpose."""

    def exact_tangents(self, z: Tensor) -> bool:
        """Whether ``linearise`` gives the Jacobian to working precision."""
        return True

    @property
    def widest(self) -> int:
        """Numbers an image has at most between two layers, for an estimate of memory."""
        return self.size

    @abstractmethod
    def restrict(self, rows: Tensor) -> Decoder:
        """The decoder of the pixels ``rows`` [p] alone: R^k -> R^p."""


def pulled_by(columns: Tensor, cotangent: Tensor) -> Tensor:
    """dG^T c [B, k] of the transposed Jacobian [B, k, n] and c [B, n]."""
    return batched_product(columns, cotangent[:, :, None])[:, :, 0]
