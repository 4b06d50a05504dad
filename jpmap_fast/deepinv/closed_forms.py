"""The physics that this package has an operator of its own for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import deepinv.physics as physics_
import torch
from deepinv.physics import Physics
from torch import Tensor

from jpmap_fast.operators import (
    Blur,
    Composition,
    CompressedSensing,
    Denoising,
    Inpainting,
    SuperResolution,
)
from jpmap_fast.operators.base import Operator

_Shape = tuple[int, ...]

# DeepInverse's names of paddings; both centre a kernel at (kh // 2, kw // 2) and flip it.
_BOUNDARY = {"constant": "zero", "zeros": "zero"}


def closed_form(physics: Physics, image_shape: _Shape) -> Operator | None:
    """An operator of this package with the A of the physics; None where there is none.

    The physics may be of a subclass that changed A: compare before use.
    """
    for kind, translate in _TRANSLATIONS.items():
        if isinstance(physics, kind):
            try:
                return translate(physics, image_shape)
            except (AttributeError, TypeError, ValueError):
                # E.g. a mask beyond [0, 1], no filter yet, a size that the factor does not divide.
                return None
    return None


def _denoising(physics: Any, image_shape: _Shape) -> Operator:
    return Denoising()


def _inpainting(physics: Any, image_shape: _Shape) -> Operator:
    return _bound(Inpainting(_shared(physics.mask)), image_shape)


def _compressed_sensing(physics: Any, image_shape: _Shape) -> Operator | None:
    if physics.channelwise and image_shape[0] > 1:
        return None
    return CompressedSensing(physics._A.clone(), image_shape)


def _single_pixel(physics: Any, image_shape: _Shape) -> Operator | None:
    # Hadamard rows are orthonormal: conjugate gradients are exact after two steps.
    if physics.fast or image_shape[0] > 1:
        return None
    return CompressedSensing(physics.u * physics.mask[0] @ physics.vh, image_shape)


def _composed(physics: Any, image_shape: _Shape) -> Operator | None:
    """Members in the order of their application, each on what the one before measures."""
    found: Operator | None = None
    shape = image_shape
    for member in physics.physics_list:
        operator = closed_form(member, shape)
        if operator is None:
            return None
        shape = operator.bind(shape).measurement_shape
        found = operator if found is None else Composition(operator, found)
    return found


def _blur(physics: Any, image_shape: _Shape) -> Operator:
    padding = physics.padding.lower()
    return _bound(Blur(_shared(physics.filter), _BOUNDARY.get(padding, padding)), image_shape)


def _blur_fft(physics: Any, image_shape: _Shape) -> Operator:
    return _bound(Blur(_shared(physics.filter), "circular"), image_shape)


def _downsampling(physics: Any, image_shape: _Shape) -> Operator | None:
    kernel: Tensor | None = physics.filter
    if kernel is not None and physics.padding != "circular":
        return None
    kernel = torch.ones(1, 1) if kernel is None else _shared(kernel)
    return _bound(SuperResolution(physics.factor, kernel), image_shape)


def _shared(parameter: Tensor) -> Tensor:
    """A copy, without the batch dimension where one serves all images."""
    one = parameter.dim() == 4 and parameter.shape[0] == 1
    return (parameter[0] if one else parameter).detach().clone()


def _bound(operator: Operator, image_shape: _Shape) -> Operator:
    operator.bind(image_shape)
    return operator


_TRANSLATIONS: dict[type[Physics], Callable[[Any, _Shape], Operator | None]] = {
    physics_.Denoising: _denoising,
    physics_.Inpainting: _inpainting,
    physics_.CompressedSensing: _compressed_sensing,
    physics_.SinglePixelCamera: _single_pixel,
    physics_.Blur: _blur,
    physics_.BlurFFT: _blur_fft,
    physics_.Downsampling: _downsampling,
    physics_.ComposedLinearPhysics: _composed,
}
