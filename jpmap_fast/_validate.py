"""Checks shared by everything public: what was expected, what came, how to mend it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

SCALE_HINT = "divide by 255 to bring 8-bit values into [0, 1]"


def as_float_tensor(name: str, value: Any, *, device: torch.device | None = None) -> Tensor:
    """A floating-point tensor of a tensor, an array or nested numbers.

    Arrays go to ``device``; a tensor stays where it is.

    Raises:
        TypeError: integer or complex values, or something that is no array at all.
    """
    if not isinstance(value, Tensor):
        try:
            array = np.asarray(value)
            value = torch.as_tensor(array if array.flags.writeable else array.copy())
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"{name}: expected a torch tensor or NumPy array of floats, "
                f"got {type(value).__name__}"
            ) from error
        if device is not None:
            value = value.to(device)
    if not value.is_floating_point():
        raise TypeError(
            f"{name}: expected floating-point values, got {value.dtype}; "
            f"convert to float32 and, for images, {SCALE_HINT}"
        )
    return value


def per_image(
    name: str, value: Any, batch: int, like: Tensor, *, allow_inf: bool = False
) -> Tensor:
    """A positive number, or one for each image, as a tensor [batch] of the type of ``like``.

    Raises:
        ValueError: wrong length, zero, negative, NaN, or infinite unless ``allow_inf``.
        TypeError: not numbers.
    """
    if isinstance(value, bool) or isinstance(value, str) or value is None:
        raise TypeError(f"{name}: expected a number or one for each image, got {value!r}")
    if isinstance(value, (int, float)):
        tensor = torch.tensor(float(value), dtype=torch.float64)
    elif isinstance(value, Tensor):
        if value.dim() > 0 and value.device != like.device:
            raise ValueError(
                f"{name}: expected a tensor on {like.device}, got one on {value.device}; "
                "move both to one device"
            )
        tensor = value
    else:
        tensor = torch.as_tensor(np.asarray(value, dtype=np.float64))
    if tensor.dim() > 1 or (tensor.dim() == 1 and tensor.numel() not in (1, batch)):
        raise ValueError(
            f"{name}: expected a number or a vector of {batch} (one an image), "
            f"got shape {list(tensor.shape)}"
        )
    good = tensor > 0
    if not allow_inf:
        good = good & torch.isfinite(tensor)
    if not bool(good.all()):
        bad = tensor.reshape(-1)[~good.reshape(-1)][0].item()
        raise ValueError(f"{name}: expected finite values > 0, got {bad}")
    out = tensor.reshape(-1).to(like.device, like.dtype).expand(batch).contiguous()
    if batch and not bool((out > 0).all()):
        raise ValueError(f"{name}: {float(tensor.min())} underflows to 0 in {like.dtype}")
    return out


def image_batch(name: str, x: Tensor, image_shape: Sequence[int] | None = None) -> Tensor:
    """X itself if it is [B, C, H, W], of ``image_shape`` when that is given."""
    expected = "[B, C, H, W]" if image_shape is None else str(["B", *image_shape]).replace("'", "")
    if x.dim() != 4 or (image_shape is not None and tuple(x.shape[1:]) != tuple(image_shape)):
        raise ValueError(f"{name}: expected shape {expected}, got {list(x.shape)}")
    return x


def same_device(first: str, a: torch.device, second: str, b: torch.device) -> None:
    """Raise ValueError unless both live on one device."""
    if a != b:
        raise ValueError(
            f"expected {first} and {second} on one device, got {a} and {b}; "
            f"move one of them with .to({str(a)!r})"
        )


def choice(name: str, value: Any, known: Sequence[str]) -> None:
    """Raise ValueError unless ``value`` is one of ``known``."""
    if value not in known:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, known))}, got {value!r}")


def switch(name: str, value: Any) -> None:
    """Raise TypeError unless ``value`` is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected True or False, got {value!r}")


def count(name: str, value: Any, minimum: int) -> None:
    """Raise unless ``value`` is an integer >= ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name}: expected at least {minimum}, got {value}")


def counts(name: str, values: Any, minimum: int) -> None:
    """Raise unless ``values`` is a sequence of integers >= ``minimum``."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise TypeError(f"{name}: expected a sequence of integers, got {values!r}")
    for value in values:
        count(name, value, minimum)


def positive(name: str, value: Any) -> None:
    """Raise unless ``value`` is a finite number > 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name}: expected a finite number > 0, got {value!r}")
