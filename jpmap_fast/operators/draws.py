"""What draws of x given z and y are made of: arguments written out for each image, and noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jpmap_fast.operators.bound import BoundOperator


def of_each(
    bound: BoundOperator, decoded: Tensor, y: Tensor, beta: Tensor, sigma: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What ``sample_x`` of an operator is given, checked and written out for each image."""
    batch, measured = len(decoded), bound.operator.measurement_shape(bound.image_shape, decoded)
    for name, value, one in (("y", y, measured), ("beta", beta, ()), ("sigma", sigma, ())):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
        if tuple(value.shape) not in ((batch, *one), (1, *one)):
            raise ValueError(
                f"{name}: expected shape {[batch, *one]}, or {[1, *one]} for one that all "
                f"{batch} images have, got {list(value.shape)}"
            )
    good = {"beta": (beta, beta > 0), "sigma": (sigma, (sigma > 0) & (sigma < torch.inf))}
    for name, (value, fits) in good.items():
        # To ask a GPU is to wait for it.
        if value.device.type == "cpu" and not bool(fits.all()):
            least = "> 0" if name == "beta" else "> 0 and finite"
            raise ValueError(f"{name}: expected values {least}, got {value[~fits][0].item()}")
    # Written out before anything is drawn: every image has noise of its own.
    y, beta, sigma = (v.expand(batch, *v.shape[1:]).contiguous() for v in (y, beta, sigma))
    return y, beta, sigma


def scaled(noise: Tensor, deviation: Tensor) -> Tensor:
    """Noise [B, ...] times a deviation an image [B]."""
    return deviation.reshape(-1, *[1] * (noise.dim() - 1)) * noise
