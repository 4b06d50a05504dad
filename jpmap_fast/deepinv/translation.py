"""A physics, its measurements and its noise in this package's terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from deepinv.physics import LinearPhysics, Physics
from deepinv.utils import TensorList
from torch import Tensor

from jpmap_fast._arrays import as_tensor
from jpmap_fast.deepinv.closed_forms import closed_form
from jpmap_fast.deepinv.layout import Layout, scaled
from jpmap_fast.deepinv.matrix_free import PhysicsOperator
from jpmap_fast.deepinv.noise import member_levels
from jpmap_fast.deepinv.snapshot import converted
from jpmap_fast.operators.base import Operator


@dataclass(frozen=True)
class Translation:
    """An operator and how the physics' measurements become its y."""

    operator: Operator
    layout: Layout

    def problem(self, y: Any, physics: Physics, sigma: Any) -> tuple[Any, Operator, Any]:
        """Measurements, operator and noise level, as ``restore`` takes them.

        ``sigma=None`` asks the noise model. Members of stacked physics that differ in their levels
        are scaled to the first one's.

        Raises:
            TypeError, ValueError: y is not of the physics, or its noise has no Gaussian level.
        """
        operator, layout, sigma = self.levelled(physics, sigma)
        if not layout.trivial:
            y = layout.pack(y)
        if isinstance(sigma, Tensor) and isinstance(y, Tensor):
            sigma = sigma.to(y.device)
        return y, operator, sigma

    def levelled(self, physics: Physics, sigma: Any) -> tuple[Operator, Layout, Any]:
        """Operator, layout and noise level; ``sigma=None`` asks the noise model.

        Raises:
            TypeError, ValueError: the noise has no Gaussian level.
        """
        operator, layout = self.operator, self.layout
        if sigma is None:
            layout, sigma = scaled(layout, member_levels(physics))
            if layout is not self.layout and isinstance(operator, PhysicsOperator):
                operator = operator.scaled(layout)
        return operator, layout, sigma


def translate(physics: Any, image_shape: Sequence[int], batch: int | None) -> Translation:
    """See ``as_operator``."""
    if not isinstance(physics, Physics):
        raise TypeError(f"physics: expected a deepinv physics, got {type(physics).__name__}")
    if not isinstance(physics, LinearPhysics):
        raise TypeError(
            f"physics: expected a deepinv LinearPhysics, got {type(physics).__name__}, whose A is "
            "not linear"
        )
    shape = tuple(image_shape)
    special = closed_form(physics, shape)
    if special is not None and special.batch is not None:
        batch = special.batch
    own = PhysicsOperator(converted(physics), shape, batch)
    if special is not None and _agree(special, own):
        flat = special.measurement_shape(shape, own.images(0)) != own.layout.shape
        return Translation(special, replace(own.layout, flat=flat))
    own.check_adjoint()
    return Translation(own, own.layout)


def count_of(y: Any) -> int | None:
    """How many images measurements are of; None for a single number."""
    first = y if hasattr(y, "ndim") else y[0]
    return int(first.shape[0]) if getattr(first, "ndim", 0) else None


def image_shape_of(physics: Physics, y: Any) -> tuple[int, ...]:
    """(C, H, W) of the images that measurements of a physics are of, for a prior of any size.

    Raises:
        ValueError: they are none of the physics.
    """
    members = list(y) if isinstance(y, (TensorList, list, tuple)) else None
    if members is None:
        y = as_tensor("y", y)
        y = y[None] if y.dim() == 3 else y  # one picture
    else:
        y = TensorList([as_tensor("y", member) for member in members])
    try:
        with torch.no_grad():
            return tuple(physics.A_adjoint(y).shape[1:])
    except (RuntimeError, IndexError, ValueError) as error:
        shapes = [list(member.shape) for member in members or [y]]
        raise ValueError(
            f"y: expected measurements of the {type(physics).__name__}, which may be for images of "
            f"one size, got shape {', '.join(map(str, shapes))}: {error}"
        ) from error


def _agree(special: Operator, own: PhysicsOperator) -> bool:
    """Whether both have the same A: a subclass may have changed it."""
    images = own.images(own.batch or 1)
    try:
        here = special.to(own.device, own.dtype).A(images)
    except (RuntimeError, ValueError):
        return False
    there = own.A(images)
    if here.shape != there.shape and (here.dim() > 2 or here.numel() != there.numel()):
        return False
    there = there.reshape(here.shape)
    # Fourier transforms and sums in another order: a few roundings of ||A x|| each.
    return bool((here - there).norm() <= 1000 * torch.finfo(own.dtype).eps * there.norm())
