"""Mixtures of Student-t laws about the modes of an image, with a part of the prior."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jpmap_fast.kernels.code_products import times
from jpmap_fast.kernels.mixtures import student_mixture, student_mixture_sums
from jpmap_fast.sampling.random_numbers import Streams

# Pseudo-draws an unknown that a component's old shape counts as, what is left of that shape in any
# case, and the least weight: a component that drew nothing by chance is not lost.
_INERTIA, _RIDGE, _LEAST = 2.0, 0.02, 0.002


def log_prior(z: Tensor) -> Tensor:
    """Log N(z; 0, I) [B, N] of codes [B, N, k], float64."""
    return -0.5 * z.square().sum(dim=-1) - 0.5 * z.shape[-1] * math.log(2 * math.pi)


@dataclass(frozen=True)
class Mixture:
    """q(z) = defensive N(0, I) + (1 - defensive) sum_c w_c t_degrees(z; mean_c, L_c L_c^T).

    Components of weight 0 may follow the others: nothing depends on how many. All float64.

    Attributes:
        log_weight: log w_c [B, C].
        mean: [B, C, k].
        scale: L_c, lower triangular [B, C, k, k].
        degrees: of freedom, >= 1.
        defensive: in [0, 1).
    """

    log_weight: Tensor
    mean: Tensor
    scale: Tensor
    degrees: int
    defensive: float

    def select(self, index: Tensor) -> Mixture:
        """Those of the images ``index``."""
        return Mixture(
            self.log_weight[index],
            self.mean[index],
            self.scale[index],
            self.degrees,
            self.defensive,
        )

    def log_density(self, z: Tensor) -> Tensor:
        """Log q [B, N] of codes [B, N, k]."""
        return student_mixture(
            z, self.log_weight, self.mean, self.scale, self.degrees, self.defensive
        )

    def masses(self, z: Tensor, weights: Tensor) -> Tensor:
        """Of weighted codes [B, N, k], what falls to each component [B, C].

        By its share in the density of the Student-t part.
        """
        parts = (self.log_weight, self.mean, self.scale, self.degrees)
        return student_mixture_sums(z, weights, *parts).mass

    def draw(self, count: int, name: str, streams: Streams) -> Tensor:
        """Draws [B, count, k], stratified over the components."""
        k = self.mean.shape[-1]
        place = torch.arange(count, device=self.mean.device)
        u = (place + streams.uniform(name + " strata", (count,))) / count
        weight = (1 - self.defensive) * self.log_weight.exp()
        # The prior's part first, so that components of weight 0 change no sum.
        edges = weight.cumsum(dim=1) + self.defensive
        edges = torch.cat((edges.new_full((len(edges), 1), self.defensive), edges), dim=1)
        chosen = (u[..., None] >= edges[:, None]).sum(dim=-1)  # 0 for the prior
        last = (weight > 0).sum(dim=1, keepdim=True)
        chosen = torch.minimum(chosen, last)
        normal = streams.normal(name, (count, k))
        spread = streams.chi_square(name + " spread", self.degrees, (count,))
        step = normal * (self.degrees / spread).sqrt()[..., None]
        found = normal
        for c in range(self.mean.shape[1]):
            moved = self.mean[:, c, None] + times(self.scale[:, c, None], step)
            found = torch.where((chosen == c + 1)[..., None], moved, found)
        return found

    def adapted(self, z: Tensor, log_weights: Tensor) -> Mixture:
        """The mixture after a step of population Monte Carlo with weighted draws.

        Args:
            z: [B, N, k].
            log_weights: [B, N].

        Source: O. Cappé et al., "Adaptive importance sampling in general mixture classes",
        Statistics and Computing 18, 2008.
        """
        weights = torch.softmax(log_weights, dim=1)
        old = self.log_weight, self.mean, self.scale
        sums = student_mixture_sums(z, weights, *old, self.degrees)
        known = sums.mass > 1e-12
        behind = sums.mass.square() / sums.squares.clamp_min(1e-300)
        trust = torch.where(known, behind / (behind + _INERTIA * z.shape[-1]), 0.0)[..., None]
        step = trust * sums.first / sums.robust.clamp_min(1e-300)[..., None]
        # About the new mean, of what was summed about the old one.
        crossed = _outer(sums.first, step)
        spread = sums.second - crossed - crossed.mT
        spread = spread + sums.robust[..., None, None] * _outer(step, step)
        spread = spread / sums.mass.clamp_min(1e-300)[..., None, None]
        before = times(self.scale[..., None, :, :], self.scale)  # L L^T
        found = torch.where(
            known[..., None, None],
            trust[..., None] * spread + (1 - trust[..., None]) * before,
            before,
        )
        scale, wrong = torch.linalg.cholesky_ex(found + _RIDGE * before)
        scale = torch.where((wrong > 0)[..., None, None], self.scale, scale)
        weight = _floored(sums.mass, torch.isfinite(self.log_weight), _LEAST)
        return Mixture(weight.log(), self.mean + step, scale, self.degrees, self.defensive)


def laplace_mixture(
    height: Tensor, mean: Tensor, scale: Tensor, there: Tensor, degrees: int, defensive: float
) -> Mixture:
    """The mixture of the Laplace approximations at the modes of images.

    Args:
        height: log of the density at each mode [B, C], float64.
        mean: [B, C, k].
        scale: lower triangular, of its inverse Hessian [B, C, k, k].
        there: whether there is such a mode [B, C].
        degrees, defensive: see ``Mixture``.
    """
    mass = height + scale.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
    mass = torch.where(there, mass, -torch.inf)
    weight = (mass - mass.amax(dim=1, keepdim=True)).exp()
    return Mixture(_floored(weight, there, 1e-3).log(), mean, scale, degrees, defensive)


def _outer(a: Tensor, b: Tensor) -> Tensor:
    """A b^T [..., k, k] of vectors [..., k]."""
    return a[..., :, None] * b[..., None, :]


def _floored(weight: Tensor, there: Tensor, least: float) -> Tensor:
    """Weights [B, C] with sum 1, none ``there`` less than ``least`` before they are made so."""
    weight = weight / _total(weight)
    weight = torch.where(there, weight.clamp_min(least), 0.0)
    return weight / _total(weight)


def _total(weight: Tensor) -> Tensor:
    """The sums [B, 1] from the first on: more zeros at the end change nothing."""
    return weight.cumsum(dim=1)[:, -1:]
