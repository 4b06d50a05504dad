"""Checks shared by everything public: what was expected, what came, how to mend it."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jpmap_fast._arrays import SCALE_HINT, as_float_tensor, as_tensor
from jpmap_fast._per_image import PerImage

__all__ = [
    "SCALE_HINT",
    "PerImage",
    "as_float_tensor",
    "checked_numbers",
    "choice",
    "count",
    "counts",
    "generator_or_none",
    "image_batch",
    "noise_levels",
    "number",
    "per_image",
    "positive",
    "same_device",
    "switch",
]

# The least noise level by precision: below, rounding of y over sigma shows in restored images.
SMALLEST_SIGMA = {torch.float32: 1e-6, torch.float64: 1e-12}


def per_image(
    name: str,
    value: Any,
    batch: int,
    like: Tensor,
    *,
    allow_zero: bool = False,
    advice: str = "",
    share: bool = False,
) -> Tensor:
    """A positive number, or one for each image, as a tensor [batch] of the type of ``like``.

    See ``checked_numbers`` for what it may be, and ``PerImage.like`` for ``share``.
    """
    found = checked_numbers(name, value, batch, like, allow_zero=allow_zero, advice=advice)
    return found.like(like, share=share)


def checked_numbers(
    name: str,
    value: Any,
    batch: int,
    like: Tensor,
    *,
    allow_zero: bool = False,
    advice: str = "",
) -> PerImage:
    """A positive number, or one for each image, looked at on the host.

    One number is a number of Python or NumPy, or an array or tensor of one entry. One for each
    image is a list, an array or a tensor [B] or [B, 1, ..., 1]. ``advice`` ends the message about
    a value out of range. A device is waited for where it holds the numbers, once.

    Raises:
        ValueError: wrong length, zero (unless ``allow_zero``), negative, NaN or infinite, or below
            what the type of ``like`` holds.
        TypeError: not real numbers.
    """
    given = _numbers(name, value, batch)
    if isinstance(given, Tensor):
        if given.numel() != 1 and (given.numel() != batch or given.shape[0] != batch):
            raise ValueError(
                f"{name}: expected a number or a vector of {batch} (one an image), "
                f"got shape {list(given.shape)}"
            )
        if given.dim() > 0 and given.device != like.device and isinstance(value, Tensor):
            raise ValueError(
                f"{name}: expected a tensor on {like.device}, got one on {given.device}; "
                "move both to one device"
            )
        given = given.reshape(-1)
        # By a list, which derivatives of torch.func let through.
        seen = np.array(given.detach().tolist(), dtype=np.float64)
    else:
        seen = np.array([given])
    limits, found = torch.finfo(like.dtype), PerImage(given, seen, batch)
    if not (seen.size and limits.tiny <= found.ends[0] and found.ends[1] <= limits.max):
        _check_values(name, seen, like.dtype, allow_zero, advice)
    return found


def _check_values(
    name: str,
    seen: np.ndarray[Any, np.dtype[np.float64]],
    dtype: torch.dtype,
    allow_zero: bool,
    advice: str,
) -> None:
    """Raise ValueError unless the values are in range; which most are by their ends alone."""
    good = np.isfinite(seen) & ((seen >= 0) if allow_zero else (seen > 0))
    if not good.all():
        least = ">= 0" if allow_zero else "> 0"
        bad = float(seen[~good][0])
        raise ValueError(f"{name}: expected finite values {least}, got {bad}{advice}")
    rounded = _rounded(seen, dtype)
    lost = ((seen > 0) & (rounded == 0)) | np.isinf(rounded)
    if lost.any():
        bad = float(seen[lost][0])
        raise ValueError(f"{name}: {bad} is out of range in {dtype}{advice}")


def noise_levels(name: str, value: Any, batch: int, like: Tensor) -> PerImage:
    """``checked_numbers`` of noise deviations to restore with, which are not too small.

    Raises:
        ValueError, TypeError: as ``checked_numbers``; also below ``SMALLEST_SIGMA``.
    """
    advice = (
        f"; measurements without noise are the limit of small {name}: pass 1e-3, which fits them "
        "to a thousandth of the range of images"
    )
    levels = checked_numbers(name, value, batch, like, advice=advice)
    smallest = SMALLEST_SIGMA[like.dtype]
    if levels.seen.size and levels.ends[0] < 2 * smallest:
        # To compare them as they are computed with.
        least = _rounded(np.array([smallest, levels.ends[0]]), like.dtype)
        if least[1] < least[0]:
            raise ValueError(
                f"{name}: expected at least {smallest:g} in {like.dtype}, got {least[1]:g}{advice}"
            )
    return levels


def _numbers(name: str, value: Any, batch: int) -> Tensor | float:
    """Real numbers as a tensor; a number of Python or NumPy as one of Python."""
    expected = f"{name}: expected a number or one for each of {batch} images"
    if value is None or isinstance(value, (str, bytes, bool, np.bool_)):
        raise TypeError(f"{expected}, got {value!r}")
    if isinstance(value, Real):
        return _real(name, value)
    tensor = as_tensor(name, value)
    if tensor.dtype == torch.bool or tensor.is_complex():
        raise TypeError(f"{expected}, got values of {tensor.dtype}")
    return tensor if tensor.is_floating_point() else tensor.double()


def _rounded(
    values: np.ndarray[Any, np.dtype[np.float64]], dtype: torch.dtype
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The numbers that a type of real numbers has in their place."""
    if dtype == torch.float64:
        return values
    return torch.from_numpy(values).to(dtype).double().numpy()


def generator_or_none(generator: Any) -> torch.Generator | None:
    """A source of random numbers, or None for torch's default one.

    Raises:
        TypeError: anything else, such as a seed.
    """
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator: expected a torch.Generator or None, got {generator!r}; of a seed it is "
            "torch.Generator().manual_seed(seed)"
        )
    return generator


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


def count(name: str, value: Any, minimum: int) -> int:
    """The value as an integer of Python.

    Raises:
        TypeError: not an integer of Python, NumPy or torch. ValueError: below ``minimum``.
    """
    try:
        if _is_boolean(value):
            raise TypeError
        found = operator.index(value)
    except (TypeError, RuntimeError):  # the latter of torch, for more than one entry
        raise TypeError(f"{name}: expected an integer, got {value!r}") from None
    if found < minimum:
        raise ValueError(f"{name}: expected at least {minimum}, got {found}")
    return found


def counts(name: str, values: Any, minimum: int) -> tuple[int, ...]:
    """A sequence of integers, or an array [n] of them, as integers of Python.

    Raises:
        TypeError: no sequence, or not of integers. ValueError: one is below ``minimum``.
    """
    array = isinstance(values, (np.ndarray, Tensor)) and values.ndim == 1
    if not (array or isinstance(values, Sequence)) or isinstance(values, (str, bytes)):
        raise TypeError(f"{name}: expected a sequence of integers, got {values!r}")
    return tuple(count(name, value, minimum) for value in values)


def number(name: str, value: Any, *, finite: bool = True) -> float:
    """The value as a number of Python.

    Raises:
        TypeError: not a real number of Python, NumPy or torch. ValueError: NaN or infinite where it
            is to be ``finite``.
    """
    found = _real(name, value)
    if finite and not math.isfinite(found):
        raise ValueError(f"{name}: expected a finite number, got {value!r}")
    return found


def positive(name: str, value: Any) -> float:
    """The value as a finite number of Python > 0.

    Raises:
        TypeError: not a real number of Python, NumPy or torch. ValueError: out of range.
    """
    found = _real(name, value)
    if not (math.isfinite(found) and found > 0):
        raise ValueError(f"{name}: expected a finite number > 0, got {value!r}")
    return found


def _real(name: str, value: Any) -> float:
    plain = value
    if isinstance(value, (np.ndarray, Tensor)) and value.ndim == 0:
        plain = value.item()
    if _is_boolean(value) or not isinstance(plain, Real):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    try:
        return float(plain)
    except OverflowError:  # an integer beyond every float
        return math.inf


def _is_boolean(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_)) or (
        getattr(value, "dtype", None) in (torch.bool, np.bool_)
    )
