"""Training of priors of patches: a mixture of Gaussians."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from jpmap_fast._validate import count
from jpmap_fast.priors.patch_mixture import PatchMixture
from jpmap_fast.priors.patch_prior import PatchPrior
from jpmap_fast.training.mixture import fit_mixture
from jpmap_fast.training.patch_sampling import random_patches


def train_patches(
    pictures: Sequence[Tensor],
    *,
    patch_size: int = 8,
    components: int = 200,
    patches: int = 1_000_000,
    iterations: int = 10,
    seconds: float = math.inf,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> tuple[PatchPrior, float]:
    """Fit a mixture of Gaussians to the patches of pictures, less their means.

    Args:
        pictures: uint8 [C, H, W] each, of one C.
        patch_size: p >= 1.
        components: K >= 1.
        patches: how many to draw, > K.
        iterations, seconds: see ``fit_mixture``.
        seed: of the patches and the first components.
        device: where to fit.

    Returns:
        A ``PatchPrior`` on the CPU, in float32, and the mean log likelihood of a patch, in nats.

    Raises:
        ValueError, TypeError: a setting out of range, or pictures of another kind.
    """
    count("patch_size", patch_size, 1)
    count("components", components, 1)
    count("patches", patches, components + 1)
    kinds = {(p.dtype, p.dim(), p.shape[0] if p.dim() else 0) for p in pictures}
    if len(kinds) != 1 or next(iter(kinds))[:2] != (torch.uint8, 3):
        raise ValueError(
            f"pictures: expected uint8 [C, H, W] of one C, got {sorted(map(str, kinds)) or 'none'}"
        )
    generator = torch.Generator().manual_seed(seed)
    points = random_patches(pictures, patch_size, patches, generator)
    points -= points.mean(dim=1, keepdim=True)
    weights, covariances, likelihood = fit_mixture(
        points.to(device),
        components,
        iterations=iterations,
        seconds=seconds,
        generator=generator,
    )
    shape = (len(pictures[0]), patch_size, patch_size)
    mixture = PatchMixture.of(weights.cpu(), covariances.cpu(), shape)
    return PatchPrior(mixture, mean_free=True).requires_grad_(False).eval(), likelihood
