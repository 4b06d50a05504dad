"""Gaussian mixtures of patches as deepinv has them: their fit, their files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jpmap_fast.experiments.baselines._deepinv import deepinv_module
from jpmap_fast.experiments.baselines._files import located, read, write
from jpmap_fast.training.mixture import fit_mixture as fit_moments

FORMAT = "jpmap-fast mixture 1"


def fit_mixture(patches: Tensor, components: int, **options: Any) -> tuple[Any, float]:
    """``jpmap_fast.training.fit_mixture`` as a mixture of deepinv.

    Means are held at 0, unlike in deepinv's own ``fit``: the Wiener step of EPLL, deepinv's as
    that of Zoran and Weiss, is that of mean 0.

    Args:
        patches: [N, d], values in [0, 1], N > components.
        components: K >= 1.
        options: as there.

    Returns:
        A ``deepinv.optim.utils.GaussianMixtureModel`` and the mean log likelihood of a patch, in
        nats, before the last iteration.

    Raises:
        ImportError: deepinv is not installed. ValueError, TypeError: a setting is out of range.
    """
    weights, covariances, likelihood = fit_moments(patches, components, **options)
    return deepinv_mixture(weights, covariances.to(patches.dtype)), likelihood


def deepinv_mixture(weights: Tensor, covariances: Tensor) -> Any:
    """A ``GaussianMixtureModel`` of mean 0, of weights [K] and covariances [K, d, d]."""
    components, size = covariances.shape[:2]
    kind = deepinv_module("optim.utils", "a mixture").GaussianMixtureModel
    model = kind(components, size, device=covariances.device).to(covariances.dtype)
    model.set_weights(weights)
    model.set_cov(covariances)
    return model


def save_mixture(mixture: Any, path: str | Path, recipe: dict[str, Any] | None = None) -> None:
    """Write a mixture of mean 0, its Cholesky factors in half precision.

    The product of a rounded factor and its transpose is a covariance whatever the rounding.

    Raises:
        ValueError: half precision cannot hold a factor, or a mean is not 0.
    """
    if bool((mixture.mu != 0).any()):
        raise ValueError("mixture: expected means of 0")
    factors = torch.linalg.cholesky(mixture.get_cov().double())
    rows, columns = torch.tril_indices(factors.shape[1], factors.shape[1])
    packed = factors[:, rows, columns].half()
    if not bool((packed[:, rows == columns] > 0).all() & torch.isfinite(packed).all()):
        raise ValueError("mixture: expected Cholesky factors in the range of half precision")
    tensors = {"factors": packed, "weights": mixture.get_weights().float()}
    write(path, FORMAT, tensors, recipe=recipe or {})


@torch.inference_mode(False)
@torch.no_grad()
def load_mixture(name_or_path: str | Path, device: torch.device | str | None = None) -> Any:
    """A fitted ``deepinv.optim.utils.GaussianMixtureModel``, float32.

    Args:
        name_or_path: "mnist" (6 x 6 pixels) or "faces" (6 x 6 pixels in colour), or a file of
            ``save_mixture``.
        device: where to; the CPU by default.

    Raises:
        ImportError: deepinv is not installed. FileNotFoundError: no such file.
        ValueError: an unknown name, or a damaged or foreign file.
    """
    path = located("mixture", name_or_path)
    tensors, _ = read(path, FORMAT)
    if {name: value.dim() for name, value in tensors.items()} != {"factors": 2, "weights": 1}:
        raise ValueError(f"{path}: expected factors [K, d (d + 1) / 2] and weights [K]")
    packed, weights = tensors["factors"].double(), tensors["weights"]
    size = math.isqrt(2 * packed.shape[1])
    if packed.shape != (len(weights), size * (size + 1) // 2):
        raise ValueError(f"{path}: expected triangles of {len(weights)} factors")
    rows, columns = torch.tril_indices(size, size)
    # A comparison with NaN is false.
    if not bool((packed[:, rows == columns] > 0).all() & (packed.abs() < math.inf).all()):
        raise ValueError(f"{path}: expected finite factors with positive diagonals")
    if not bool((weights > 0).all() & (weights < math.inf).all()):
        raise ValueError(f"{path}: expected finite weights > 0")
    factors = packed.new_zeros(len(weights), size, size)
    factors[:, rows, columns] = packed
    return deepinv_mixture(weights.to(device), (factors @ factors.mT).float().to(device))
