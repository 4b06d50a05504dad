"""Mixtures of Student-t laws about the modes of an image, with a part of the prior."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jpmap_fast.sampling.products import times, weighted_gram, weighted_sum
from jpmap_fast.sampling.random_numbers import Streams

# Pseudo-draws an unknown that a component's old shape counts as, what is left of that shape in any
# case, and the least weight: a component that drew nothing by chance is not lost.
_INERTIA, _RIDGE, _LEAST = 2.0, 0.02, 0.002


def log_sum(a: Tensor, b: Tensor) -> Tensor:
    """log(exp(a) + exp(b)), each number the same wherever it stands in a tensor."""
    top = torch.maximum(a, b)
    apart = torch.minimum(a, b) - top
    return torch.where(torch.isinf(top), top, top + torch.log1p(apart.exp()))


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

    def _distances(self, z: Tensor) -> list[Tensor]:
        """The squared distances [B, N] of codes [B, N, k] to each component, by its scale.

        0 to a component of weight 0: an image with many modes leaves many such to the others.
        """
        k = z.shape[-1]
        eye = torch.eye(k, dtype=z.dtype, device=z.device)
        inverse = torch.linalg.solve_triangular(self.scale, eye, upper=False)
        found = []
        for c, used in enumerate((self.log_weight > -torch.inf).unbind(dim=1)):
            rows = used.nonzero()[:, 0]
            steps = z[rows] - self.mean[rows, c, None]
            own = times(inverse[rows, c, None], steps).square().sum(dim=-1)
            found.append(torch.zeros_like(z[..., 0]).index_copy(0, rows, own))
        return found

    def _log_parts(self, distances: list[Tensor]) -> list[Tensor]:
        """Log of w_c t(z) [B, N] of each component."""
        k, degrees = self.mean.shape[-1], self.degrees
        constant = math.lgamma((degrees + k) / 2) - math.lgamma(degrees / 2)
        constant -= 0.5 * k * math.log(degrees * math.pi)
        size = self.scale.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
        return [
            (constant - size[:, c] + self.log_weight[:, c])[:, None]
            - 0.5 * (degrees + k) * torch.log1p(q / degrees)
            for c, q in enumerate(distances)
        ]

    def log_density(self, z: Tensor) -> Tensor:
        """Log q [B, N] of codes [B, N, k]."""
        total = _log_total(self._log_parts(self._distances(z)))
        if not self.defensive:
            return total
        prior = log_prior(z) + math.log(self.defensive)
        return log_sum(total + math.log1p(-self.defensive), prior)

    def shares(self, z: Tensor) -> Tensor:
        """Of each component in the density of the Student-t part [B, N, C], sums 1."""
        parts = self._log_parts(self._distances(z))
        total = _log_total(parts)
        return torch.stack([(part - total).exp() for part in parts], dim=-1)

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
        k = z.shape[-1]
        weights = torch.softmax(log_weights, dim=1)
        distances = self._distances(z)
        parts = self._log_parts(distances)
        total = _log_total(parts)
        mass, means, scales = [], [], []
        for c, (part, q) in enumerate(zip(parts, distances, strict=True)):
            own = weights * (part - total).exp()
            robust = own * (self.degrees + k) / (self.degrees + q)
            sum_own, sum_robust = own.sum(dim=1), robust.sum(dim=1)
            known = sum_own > 1e-12
            behind = sum_own.square() / own.square().sum(dim=1).clamp_min(1e-300)
            trust = (behind / (behind + _INERTIA * k))[:, None]
            old_mean, old_scale = self.mean[:, c], self.scale[:, c]
            mean = weighted_sum(robust, z) / sum_robust.clamp_min(1e-300)[:, None]
            mean = torch.where(known[:, None], trust * mean + (1 - trust) * old_mean, old_mean)
            found = weighted_gram(robust, z - mean[:, None])
            found = found / sum_own.clamp_min(1e-300)[:, None, None]
            old = times(old_scale[:, None], old_scale)  # L L^T
            part_new = trust[..., None]
            found = torch.where(known[:, None, None], part_new * found + (1 - part_new) * old, old)
            scale, wrong = torch.linalg.cholesky_ex(found + _RIDGE * old)
            scales.append(torch.where((wrong > 0)[:, None, None], old_scale, scale))
            means.append(mean)
            mass.append(sum_own)
        weight = _floored(torch.stack(mass, dim=1), torch.isfinite(self.log_weight), _LEAST)
        return Mixture(
            weight.log(),
            torch.stack(means, dim=1),
            torch.stack(scales, dim=1),
            self.degrees,
            self.defensive,
        )


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


def _floored(weight: Tensor, there: Tensor, least: float) -> Tensor:
    """Weights [B, C] with sum 1, none ``there`` less than ``least`` before they are made so."""
    weight = weight / _total(weight)
    weight = torch.where(there, weight.clamp_min(least), 0.0)
    return weight / _total(weight)


def _total(weight: Tensor) -> Tensor:
    """The sums [B, 1] from the first on: more zeros at the end change nothing."""
    return weight.cumsum(dim=1)[:, -1:]


def _log_total(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = log_sum(total, part)
    return total
