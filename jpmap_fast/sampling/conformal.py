"""Calibrations of posteriors on images whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jpmap_fast._prepared import operator_of, parameter_of, prior_of
from jpmap_fast._validate import as_float_tensor, noise_levels
from jpmap_fast.operators import Operator
from jpmap_fast.priors.base import Prior
from jpmap_fast.residuals import Residual
from jpmap_fast.sampling._sample import sample
from jpmap_fast.sampling.calibration import (
    EDGES,
    Calibration,
    bins,
    check_edges,
    check_level,
    spread,
)
from jpmap_fast.sampling.method import SamplingMethod


@torch.no_grad()
def calibrate(
    prior: Prior | str,
    operator: Operator,
    sigma: Any,
    images: Any,
    *,
    level: float = 0.9,
    edges: Sequence[float] = EDGES,
    residual: str | Residual | None = None,
    method: str | SamplingMethod | None = None,
    generator: torch.Generator | None = None,
) -> Calibration:
    r"""Factors that make ``Posterior.interval`` and radii cover real images, by split conformal.

    Clean images are measured and sampled. The factor of a bin of grey values of E[G(z) | y] is the
    ceil((n + 1) level)-th smallest of its n scores |x - mean| / std, that of radii the same of
    ||x - mean|| / sqrt(E ||x - mean||^2).

    What is promised: the ball of radius ``Calibration.radius`` holds a new image with a probability
    of ``level`` or more (of less than 1 / (n + 1) more), over it and the n images of the
    calibration, if all are exchangeable: drawn alike, measured by the same kind of operator at the
    same noise level. No distribution is assumed, and the prior may be wrong. It is a promise for
    images as a whole, not for every kind of image. Pixels of one image are not independent: of the
    pixels of a bin, in all images to come, ``level`` are covered as the number of images grows.

    Args:
        prior: with latent codes, or its name.
        operator: A, such as ``Inpainting(mask)``; with a mask an image [N, C, H, W] it is a kind.
        sigma: noise level, a number or one an image [N].
        images: clean ones that the prior was not trained on [N, C, H, W], values in [0, 1].
        level: in (0, 1).
        edges: between the bins, increasing. Bins with too few pixels for the level join the next.
        residual, method: as in ``sample``, and as they will be used.
        generator: of the noise and of the draws.

    Returns:
        A ``Calibration``, for ``posterior.interval(level, calibration=...)``.

    Raises:
        ValueError, TypeError: as ``sample``; images of another shape, with values outside [0, 1] or
            fewer than level / (1 - level); one that could not be sampled.

    Source: V. Vovk, A. Gammerman, G. Shafer, "Algorithmic Learning in a Random World", 2005;
    J. Lei, M. G'Sell, A. Rinaldo, R. Tibshirani, L. Wasserman, "Distribution-free predictive
    inference for regression", JASA 2018.
    """
    prior = prior_of(prior, shared=True)
    level, edges = check_level(level), check_edges(edges)
    known = operator_of(operator)
    clean = _checked(images, prior, level)
    deviation = noise_levels("sigma", sigma, len(clean), clean).like(clean)
    y = known.measure(clean, deviation, generator)
    posterior = sample(
        y,
        known,
        prior,
        deviation,
        draws=0,
        method=method,
        residual=residual,
        generator=generator,
    )
    failed = ~torch.isfinite(posterior.std).flatten(1).all(dim=1)
    if bool(failed.any()):
        number = int(failed.nonzero()[0])
        raise ValueError(f"images: image {number} cannot be sampled: {posterior.status[number]}")
    apart = (clean - posterior.mean).double()
    scores = apart.abs() / posterior.std.double()
    edges, factors = _by_bin(scores, posterior.decoded, edges, level)
    radii = apart.flatten(1).norm(dim=1) / spread(posterior)
    return Calibration(
        level=level,
        edges=edges,
        factors=factors,
        radius_factor=conformal_quantile(radii, level),
        image_shape=tuple(clean.shape[1:]),
        sigma=(float(deviation.min()), float(deviation.max())),
        images=len(clean),
    )


def _checked(images: Any, prior: Prior, level: float) -> Tensor:
    """The images in the prior's type and place."""
    like = parameter_of(prior)
    clean = as_float_tensor("images", images, device=None if like is None else like.device)
    clean = clean if like is None else clean.to(like.dtype)
    shape = prior.image_shape
    if clean.dim() != 4 or (shape is not None and tuple(clean.shape[1:]) != tuple(shape)):
        raise ValueError(
            f"images: expected shape {['N', *(shape or 'CHW')]}, got {list(clean.shape)}".replace(
                "'", ""
            )
        )
    least = _fewest(level)
    if len(clean) < least:
        raise ValueError(
            f"images: expected {least} or more for a level of {level:g}, got {len(clean)}"
        )
    if not bool(((clean >= 0) & (clean <= 1)).all()):
        raise ValueError(
            f"images: expected values in [0, 1], got {float(clean.min()):g} to "
            f"{float(clean.max()):g}"
        )
    return clean


def _rank(number: int, level: float) -> int:
    """Which of the smallest scores covers the level; the level is a decimal, not its binary."""
    return max(1, math.ceil((number + 1) * level - 1e-9))


def _fewest(level: float) -> int:
    """The least number of scores of which one covers the level."""
    number = max(1, math.floor(level / (1 - level)))
    while _rank(number, level) > number:
        number += 1
    return number


def conformal_quantile(scores: Tensor, level: float) -> float:
    """The ceil((n + 1) level)-th smallest of n scores, n large enough for it to be one of them."""
    return float(scores.flatten().kthvalue(_rank(scores.numel(), level)).values)


def _by_bin(
    scores: Tensor, decoded: Tensor, edges: tuple[float, ...], level: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Edges whose bins all hold enough scores, and the factor of each."""
    least = _fewest(level)
    while True:
        index = bins(decoded, edges).flatten()
        sizes = torch.bincount(index, minlength=len(edges) + 1).tolist()
        small = [place for place, size in enumerate(sizes) if size < least]
        if not small or not edges:
            break
        gone = min(small[0], len(edges) - 1)  # its upper edge, but for the last bin
        edges = (*edges[:gone], *edges[gone + 1 :])
    flat = scores.flatten()
    factors = (conformal_quantile(flat[index == b], level) for b in range(len(edges) + 1))
    return edges, tuple(factors)
