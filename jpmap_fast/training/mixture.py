"""Mixtures of Gaussians with mean 0, fitted to patches."""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from jpmap_fast._validate import count, positive
from jpmap_fast.priors.mixture import Densities, Spectra, products

FLOOR = 1e-5  # added to the variances of a fit: standard deviation 0.8/255
_AT_A_TIME = 2048  # points whose products stay in a CPU's caches


@torch.no_grad()
def fit_mixture(
    points: Tensor,
    components: int,
    *,
    iterations: int = 50,
    seconds: float = math.inf,
    floor: float = FLOOR,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, float]:
    r"""Fit a mixture of Gaussians with mean 0 by expectation maximisation.

    Covariances are second moments and say where a component lies, so that no mean has to be fitted.
    The first half of the iterations, or of the time, see the first eighth of the points alone, if
    those are 200 a component or more: give them in random order.

    Args:
        points: [N, d], values in [0, 1], N > components.
        components: K >= 1.
        iterations: at most, >= 1.
        seconds: stop after the iteration in which so much time has passed.
        floor: added to the diagonals of the covariances, > 0.
        generator: of the first components, on the CPU.

    Returns:
        Weights [K] and covariances [K, d, d], in double precision, and the mean log likelihood of
        a point, in nats, before the last iteration.

    Raises:
        ValueError, TypeError: a setting is out of range or of the wrong kind.

    Source: D. Zoran, Y. Weiss, "From learning models of natural image patches to whole image
    restoration", ICCV 2011.
    """
    count("components", components, 1)
    count("iterations", iterations, 1)
    positive("floor", floor)
    if points.dim() != 2 or len(points) <= components:
        raise ValueError(f"patches: expected [N, d], N > {components}, got {list(points.shape)}")
    begin = time.perf_counter()
    weights, covariances = _first(points, components, floor, generator)
    eighth = points[: len(points) // 8]
    eighth = eighth if len(eighth) >= 200 * components else points
    likelihood = math.nan
    for iteration in range(iterations):
        passed = max((time.perf_counter() - begin) / seconds, (iteration + 1) / iterations)
        seen = eighth if passed <= 0.5 else points
        weights, covariances, likelihood = _improved(seen, weights, covariances, floor)
        if time.perf_counter() - begin > seconds:
            break
    return weights, covariances, likelihood


def _first(
    points: Tensor, components: int, floor: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """A component begins as the line through a point, widened by a little of the whole."""
    chosen = torch.randperm(len(points), generator=generator)[:components].to(points.device)
    lines = points[chosen].double()
    whole = points.double().T @ points.double() / len(points)
    identity = torch.eye(points.shape[1], dtype=torch.float64, device=points.device)
    covariances = lines[:, :, None] * lines[:, None] + 0.1 * whole + floor * identity
    return torch.full_like(covariances[:, 0, 0], 1 / components), covariances


def _improved(
    points: Tensor, weights: Tensor, covariances: Tensor, floor: float
) -> tuple[Tensor, Tensor, float]:
    """One iteration; the mean log likelihood before it."""
    size = points.shape[1]
    densities = Spectra.of(weights.log(), covariances).with_noise(weights.new_zeros(1), points)
    rows, columns = torch.triu_indices(size, size, device=points.device)
    mass, total = torch.zeros_like(weights), torch.zeros_like(weights[0])
    moments = torch.zeros_like(covariances[:, rows, columns])
    for part in points.split(_AT_A_TIME):
        features = products(part.T)
        scores = densities(features[None])[0]
        evidence = scores.logsumexp(dim=0)
        total += evidence.double().sum()
        shares = (scores - evidence).exp()
        mass += shares.double().sum(dim=1)
        moments += (shares @ features.T).double()
    mass = mass.clamp(min=1e-3)
    packed = moments / mass[:, None]
    covariances = torch.zeros_like(covariances)
    covariances[:, rows, columns] = packed
    covariances[:, columns, rows] = packed
    covariances.diagonal(dim1=1, dim2=2).add_(floor)
    return mass / mass.sum(), covariances, float(total) / len(points)
