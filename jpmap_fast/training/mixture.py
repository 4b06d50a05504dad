"""Mixtures of Gaussians with mean 0, fitted to patches."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from jpmap_fast._validate import count, positive
from jpmap_fast.priors.mixture import Spectra, products

FLOOR = 1e-5  # added to the variances of a fit: standard deviation 0.8/255
_AT_A_TIME = 2048  # points whose products stay in a CPU's caches

# A stepwise pass takes the points in so many parts, of so many a component at least.
_PARTS, _LEAST = 32, 100


@torch.no_grad()
def fit_mixture(
    points: Tensor,
    components: int,
    *,
    iterations: int = 10,
    seconds: float = math.inf,
    floor: float = FLOOR,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, float]:
    r"""Fit a mixture of Gaussians with mean 0 by expectation maximisation.

    Covariances are second moments and say where a component lies, so that no mean has to be fitted.
    In the first half of the passes, or of the time, the mixture is improved after every part of the
    points, its moments a running mean, t^{-0.6} of it from the t-th part; then by all of them. Give
    points in random order.

    Args:
        points: [N, d], values in [0, 1], N > components.
        components: K >= 1.
        iterations: passes over the points, >= 1.
        seconds: stop after the pass in which so much time has passed.
        floor: added to the diagonals of the covariances, > 0.
        generator: of the first components, on the CPU.

    Returns:
        Weights [K] and covariances [K, d, d], in double precision, and the mean log likelihood of
        a point, in nats, before the last pass, or in its course where that goes by parts.

    Raises:
        ValueError, TypeError: a setting is out of range or of the wrong kind.

    Source: O. Cappe, E. Moulines, "On-line expectation-maximization algorithm for latent data
    models", 2009; for patches D. Zoran, Y. Weiss, "From learning models of natural image patches to
    whole image restoration", ICCV 2011.
    """
    count("components", components, 1)
    count("iterations", iterations, 1)
    positive("floor", floor)
    if points.dim() != 2 or len(points) <= components:
        raise ValueError(f"patches: expected [N, d], N > {components}, got {list(points.shape)}")
    begin = time.perf_counter()
    mixture = _first(points, components, floor, generator)
    parts = points.split(max(-(-len(points) // _PARTS), _LEAST * components))
    moments, seen = _Moments.none(mixture[1]), 0
    for iteration in range(iterations):
        passed = max((time.perf_counter() - begin) / seconds, (iteration + 1) / iterations)
        by_parts = passed <= 0.5
        total = 0.0
        for part in parts if by_parts else (points,):
            found, likelihood = _Moments.of(part, *mixture)
            seen += 1
            moments = moments.towards(found, seen**-0.6) if by_parts else found
            mixture = moments.mixture(floor)
            total += likelihood
        if time.perf_counter() - begin > seconds:
            break
    return *mixture, total / len(points)


def _first(
    points: Tensor, components: int, floor: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Weights and covariances: half the line through a point, half the shape of the whole.

    Each has the energy of its point, so that there are components of every contrast.
    """
    chosen = torch.randperm(len(points), generator=generator)[:components].to(points.device)
    lines = points[chosen].double()
    whole = points.double().T @ points.double()
    whole = whole / whole.trace().clamp(min=floor)
    energy = lines.square().sum(dim=1)[:, None, None]
    covariances = (lines[:, :, None] * lines[:, None] + energy * whole) / 2
    covariances.diagonal(dim1=1, dim2=2).add_(floor)
    return torch.full_like(covariances[:, 0, 0], 1 / components), covariances


@dataclass(frozen=True)
class _Moments:
    """What a maximisation needs: for each component, of a point.

    Attributes:
        mass: mean share [K].
        second: mean of the products of a point, times the share [K, d (d + 1) / 2].
    """

    mass: Tensor
    second: Tensor

    @classmethod
    def none(cls, covariances: Tensor) -> _Moments:
        components, size, _ = covariances.shape
        mass = covariances.new_zeros(components)
        return cls(mass, covariances.new_zeros(components, size * (size + 1) // 2))

    @classmethod
    def of(cls, points: Tensor, weights: Tensor, covariances: Tensor) -> tuple[_Moments, float]:
        """Those of points, by the shares that a mixture gives; its log likelihood of all."""
        densities = Spectra.of(weights.log(), covariances).with_noise(weights.new_zeros(1), points)
        none = cls.none(covariances)
        mass, second, total = none.mass, none.second, torch.zeros_like(weights[0])
        for part in points.split(_AT_A_TIME):
            features = products(part.T)
            scores = densities(features[None])[0]
            evidence = scores.logsumexp(dim=0)
            total += evidence.double().sum()
            shares = (scores - evidence).exp()
            mass += shares.double().sum(dim=1)
            second += (shares @ features.T).double()
        return cls(mass / len(points), second / len(points)), float(total)

    def towards(self, other: _Moments, step: float) -> _Moments:
        """A mean of both, ``step`` of it the other."""
        return _Moments(
            torch.lerp(self.mass, other.mass, step), torch.lerp(self.second, other.second, step)
        )

    def mixture(self, floor: float) -> tuple[Tensor, Tensor]:
        """The likeliest weights and covariances."""
        mass = self.mass.clamp(min=1e-9)
        size = math.isqrt(2 * self.second.shape[1])
        rows, columns = torch.triu_indices(size, size, device=mass.device)
        packed = self.second / mass[:, None]
        covariances = packed.new_zeros(len(mass), size, size)
        covariances[:, rows, columns] = packed
        covariances[:, columns, rows] = packed
        covariances.diagonal(dim1=1, dim2=2).add_(floor)
        return mass / mass.sum(), covariances
