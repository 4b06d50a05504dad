"""A picture: its numbers in [0, 1], and what is needed to store another like it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# What is said of a picture that ``with_channels`` takes its colours from.
TURNED_GREY = "colours turned grey, as the prior is"
# Luma of ITU-R BT.601, as Pillow and most readers turn colours grey.
LUMA = (0.299, 0.587, 0.114)
# An integer picture that uses no more than this part of its range is no picture of that range:
# 8-bit numbers in 16 bits are a 257th. Those of a 12-bit camera are a sixteenth and may be a dark
# picture just as well, of which a note tells.
LEAST_USED, DARK = 1 / 256, 1 / 16

# Samples of one picture: a header may promise any number of them in a few bytes. Ten thousand
# times as many as bytes are the pages of blank paper; what is small does no harm.
MOST_SAMPLES, SMALL, MOST_A_BYTE = 1 << 28, 1 << 24, 10_000
# Of all that is read or restored for people who are not the machine's own; None where they are.
_LIMIT: ContextVar[int | None] = ContextVar("most numbers", default=None)


@dataclass(frozen=True)
class Picture:
    """One picture, or one page or frame of a file of several.

    Attributes:
        values: [C, H, W] float32, C = 1 or 3; integers over the largest of their type, floats as
            they were.
        stored: name of the type it was stored in: "bool", "uint8", "uint16", "uint32", "float16",
            "float32" or "float64".
        notes: what was done to it that a person may want to know.
        opaque: whether no pixel of it was transparent.
        grey: whether its three channels are equal ones, made of a grey picture.
    """

    values: Array
    stored: str
    notes: tuple[str, ...] = ()
    opaque: bool = True
    grey: bool = False


@contextmanager
def at_most(numbers: int) -> Iterator[None]:
    """Within it no file with more numbers is read, and no larger picture restored."""
    before = _LIMIT.set(numbers)
    try:
        yield
    finally:
        _LIMIT.reset(before)


def check_limit(numbers: int, what: str) -> None:
    """Raise ValueError where there are more numbers than ``at_most`` allows."""
    most = _LIMIT.get()
    if most is not None and numbers > most:
        raise ValueError(f"expected at most {most} numbers in {what}, got {numbers}")


def check_size(samples: int, stored: int) -> None:
    """Raise ValueError where a picture promises more samples than any in so many bytes."""
    check_limit(samples, "a picture")
    most = min(MOST_SAMPLES, max(SMALL, MOST_A_BYTE * stored))
    if samples > most:
        raise ValueError(
            f"expected at most {most} samples in a picture of {stored} bytes, got {samples}"
        )


def unit_range(array: Array, largest: int | None = None) -> Array:
    """Numbers as pixel values, float64: integers over their type's largest, floats as they are.

    Args:
        array: of any shape.
        largest: of the integers, that of their type by default.

    Raises:
        ValueError: negative integers. TypeError: neither numbers of at most 32 bits (floats: 64)
            nor booleans.
    """
    kind = array.dtype.kind
    if kind == "b":
        return array.astype(np.float64)
    if kind == "f":
        if array.dtype.itemsize > 8:
            raise TypeError(f"expected floats of at most 64 bits, got {array.dtype}")
        return array.astype(np.float64)
    if kind not in "ui" or array.dtype.itemsize > 4:
        raise TypeError(
            f"expected integers of 8, 16 or 32 bits, booleans or floats, got {array.dtype}"
        )
    top = int(np.iinfo(array.dtype).max) if largest is None else largest
    least = int(array.min(initial=0))
    if least < 0:
        raise ValueError(f"expected integers >= 0, got {least}; store uint16, or floats in [0, 1]")
    return array.astype(np.float64) / top


def brightness_note(values: Array, stored: str) -> str | None:
    """What there is to say of how little of their range the pixels of an image use.

    Args:
        values: in [0, 1].
        stored: the type that they were integers of, or a float.

    Raises:
        ValueError: integers of more than 8 bits that would be black, as 8-bit numbers are in 16.
    """
    if stored in ("bool", "uint8", "int8") or stored.startswith("float"):
        return None
    used, top = float(np.max(values, initial=0.0)), int(np.iinfo(stored).max)
    if 0 < used < LEAST_USED:
        raise ValueError(
            f"expected {stored} values that use the range 0 to {top}, got at most "
            f"{round(used * top)}: the picture would be black; store it in a type that fits, or "
            "floats in [0, 1]"
        )
    if 0 < used <= DARK:
        return f"dark: {stored} values up to {round(used * top)} of {top}; a 10 or 12-bit camera's?"
    return None


def composite(
    values: Array, alpha: Array, background: float, premultiplied: bool, notes: list[str]
) -> Array:
    """Values [..., c] over a background: alpha v + (1 - alpha) b, or v + (1 - alpha) b; noted.

    Raises:
        ValueError: of what the picture shows nothing is left, as of white ink on white.
    """
    if (alpha == 1).all():
        return values
    alpha = alpha[..., None]
    seen = values if premultiplied else alpha * values
    laid = seen + (1 - alpha) * background
    on = {1.0: "white", 0.0: "black"}.get(background, f"{background:g}")
    if alpha.min() < alpha.max() and laid.min() == laid.max():
        raise ValueError(
            f"its shape is in its transparency alone and vanishes on {on}; choose another "
            "background"
        )
    notes.append(f"alpha composited on {on}")
    return laid


def from_cmyk(values: Array) -> Array:
    """Red, green and blue of inks [..., 4] in [0, 1], without a colour profile: (1 - c)(1 - k)."""
    return (1 - values[..., :3]) * (1 - values[..., 3:])


def oriented(values: Array, orientation: int) -> Array:
    """A picture [H, W, ...] as viewers show it, of the EXIF or TIFF orientation 1 to 8."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values


def finished(
    values: Array,
    stored: str,
    notes: list[str],
    *,
    orientation: int = 1,
    alpha: Array | None = None,
    premultiplied: bool = False,
    background: float = 1.0,
) -> Picture:
    """The picture of decoded pixels.

    Args:
        values: [H, W, c], c = 1 or 3, in [0, 1].
        stored, notes: as of a ``Picture``.
        orientation: EXIF or TIFF orientation, 1 to 8.
        alpha: opacity [H, W] in [0, 1].
        premultiplied: whether values are multiplied by alpha already.
        background: grey level behind transparent pixels.
    """
    opaque = alpha is None or bool((alpha == 1).all())
    if alpha is not None:
        values = composite(values, alpha, background, premultiplied, notes)
    shown = oriented(values, orientation)
    planes = np.ascontiguousarray(np.moveaxis(shown, -1, 0), dtype=np.float32)
    return Picture(planes, stored, tuple(notes), opaque)


def loses_colour(values: Array, channels: int | None) -> bool:
    """Whether ``with_channels`` makes colours grey: three equal channels have none."""
    if channels != 1 or values.shape[0] != 3:
        return False
    first, *others = values
    return not all(np.array_equal(first, other, equal_nan=True) for other in others)


def with_channels(values: Array, channels: int | None) -> Array:
    """[C, H, W] with one channel, the luma of colours, or with three, equal ones of grey."""
    if channels == 1 and values.shape[0] == 3:
        weights = np.asarray(LUMA).reshape(3, 1, 1)
        grey: Array = (values.astype(np.float64) * weights).sum(axis=0, keepdims=True)
        return grey.astype(np.float32)
    if channels == 3 and values.shape[0] == 1:
        return np.repeat(values, 3, axis=0)
    return values
