"""DeepInverse's physics as operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from jpmap_fast.operators.base import Operator

if TYPE_CHECKING:
    from deepinv.physics import Physics


@torch.no_grad()
def as_operator(
    physics: Physics, image_shape: Sequence[int], *, batch: int | None = None
) -> Operator:
    """A linear physics as an operator of this package.

    Denoising, Inpainting, Demosaicing, CompressedSensing, Blur, BlurFFT and Downsampling become
    ``Denoising``, ``Inpainting``, ``CompressedSensing``, ``Blur`` and ``SuperResolution`` where
    these have the same A on random images. Any other physics, stacked and composed ones included,
    keeps its own A and A_adjoint, with conjugate gradients for the update of x.

    Args:
        physics: a ``deepinv.physics.LinearPhysics``. It is copied: later changes are not seen.
        image_shape: (C, H, W) of the images.
        batch: number of images, for a physics with parameters for each image.

    Returns:
        The operator, on the device of the physics. Its measurements are those of the physics; but
        complex ones are pairs [..., 2] of real and imaginary parts, those of stacked physics are
        flattened and joined, [B, m], and those of a ``CompressedSensing`` are flat.

    Raises:
        TypeError: no deepinv physics, or one that is not linear.
        ValueError: it does not act on such images, or its A_adjoint is not the transpose of A.
        ImportError: deepinv is not installed.

    Example:
        >>> import deepinv, jpmap_fast as jf
        >>> physics = deepinv.physics.Inpainting((1, 28, 28), mask=0.3)  # the fraction KEPT
        >>> jf.deepinv.as_operator(physics, (1, 28, 28))
        Inpainting(mask [1, 28, 28])

    Source: J. Tachella et al., "DeepInverse: A Python package for solving imaging inverse problems
    with deep learning", J. Open Source Software 10, 2025.
    """
    from jpmap_fast.deepinv.translation import translate

    return translate(physics, image_shape, batch).operator
