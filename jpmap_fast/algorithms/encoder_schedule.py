"""Noise levels that the encoder is asked at, by the kind of measurement."""

from __future__ import annotations

from dataclasses import dataclass

from jpmap_fast.operators import Blur, Denoising, Inpainting, SuperResolution
from jpmap_fast.operators.base import Operator


@dataclass(frozen=True)
class Levels:
    """Noise levels in geometric progression, and the coupling weight that goes with them.

    Attributes:
        steps: how often the encoder is asked.
        first: the first level, in [0, 1] units; what the first guess is wrong by.
        last: the last one over sigma.
        weight: lambda, in beta = lambda / s^2.
        noise: instead of it, for a blur: the share of s^2 that the noise of an x-update has.
    """

    steps: int
    first: float
    last: float
    weight: float | None = None
    noise: float | None = None


DENOISING = Levels(1, 1 / 255, 1.0, 1.0)
# A Gaussian kernel likes lambda = 0.1 best and those of a shaking hand 0.19: with both the noise of
# an x-update has about a third of the power that the encoder is told. Narrow kernels, where it
# would have more, are held at 0.19.
BLUR = Levels(8, 130 / 255, 1.6, noise=0.33)
SUPER_RESOLUTION = Levels(8, 75 / 255, 1.4, 0.1)
# Few pixels at little noise like lambda = 0.1 a little better; but then observed ones keep more
# noise than s at every step, and many of them at much noise come out noisy.
INPAINTING = Levels(30, 30 / 255, 0.5, 0.25)

# Of kinds that were not searched.
OTHER = Levels(8, 75 / 255, 1.6, 0.19)

_PHOTOS = (DENOISING, INPAINTING, SUPER_RESOLUTION, BLUR, OTHER)
# Of the prior ``patches``, in the same order: denoising begins at sigma. Those of super-resolution
# and blurs are the search's (benchmarks/results/patch_levels.json).
_PATCH_BLUR = Levels(8, 49 / 255, 1.0, 0.23)
_PATCHES = (
    Levels(3, 1 / 255, 0.3, 0.45),
    INPAINTING,
    Levels(8, 49 / 255, 1.4, 0.1),
    _PATCH_BLUR,
    _PATCH_BLUR,
)


def levels_of(operator: Operator) -> Levels:
    """The levels for an operator, after a search on training pictures (benchmarks/photo_levels.py).

    Of blurs and inpainting lambda is not the search's own: see above.
    """
    return _of_kind(_PHOTOS, operator)


def patch_levels_of(operator: Operator) -> Levels:
    """The same for priors of patches, tried on crops of training and held-out pictures."""
    return _of_kind(_PATCHES, operator)


def _of_kind(table: tuple[Levels, ...], operator: Operator) -> Levels:
    """What a table has for denoising, inpainting, super-resolution, blur or anything else."""
    kinds = (Denoising, Inpainting, SuperResolution, Blur)
    return next(
        (row for row, k in zip(table, kinds, strict=False) if isinstance(operator, k)), table[-1]
    )
