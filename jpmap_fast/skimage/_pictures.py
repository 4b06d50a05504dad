"""Arrays as scikit-image has them, as pictures of this package, and back."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from jpmap_fast._messages import one_of
from jpmap_fast._validate import count
from jpmap_fast.data.picture import Array, brightness_note, unit_range
from jpmap_fast.priors.any_size import PHOTOGRAPHS


@dataclass(frozen=True)
class ArrayPicture:
    """A picture that came as an array.

    Attributes:
        values: [C, H, W] floats; integers over the largest of their type, floats as they were.
        stored: the type that it came in.
        axis: where its channels were; None for a grey picture without.
    """

    values: Array
    stored: np.dtype[Any]
    axis: int | None

    @classmethod
    def of(cls, image: Any, channel_axis: int | None) -> ArrayPicture:
        """The picture of an array.

        Args:
            image: [H, W], or with one axis more for its channels.
            channel_axis: which one; None for none.

        Raises:
            ValueError: another shape or number of channels, or negative integers.
            TypeError: masked entries, or a type that has no range of pixel values.
        """
        if np.ma.isMaskedArray(image):
            raise TypeError(
                "image: expected a plain array, got a masked one; inpaint(image.data, image.mask) "
                "fills what is masked"
            )
        array = np.asarray(image)
        axis = _channel_axis(array.shape, channel_axis)
        try:
            values = unit_range(array)
        except (ValueError, TypeError) as error:
            raise type(error)(f"image: {error}") from None
        planes = values[None] if axis is None else np.moveaxis(values, axis, 0)
        return cls(planes, array.dtype, axis)

    @property
    def prior(self) -> str:
        """The name of the bundled prior for such pictures."""
        return PHOTOGRAPHS[self.values.shape[0]]

    def check_brightness(self, seen: Array | None = None) -> None:
        """Warn of a picture that hardly uses the range of its type.

        Args:
            seen: [H, W], the pixels that count; None for all.

        Raises:
            ValueError: it would be black, as numbers of 8 bits in 16 are.
        """
        values = self.values if seen is None else self.values[:, seen]
        try:
            note = brightness_note(values, self.stored.name)
        except ValueError as error:
            raise ValueError(f"image: {error}") from None
        if note is not None:
            warnings.warn(f"image: {note}", stacklevel=3)

    def array(self, planes: Array) -> Array:
        """Values [C, H, W] as the picture came: its channels where they were, floats.

        Floats of 32 bits or fewer are answered by 32 bits, everything else by 64.
        """
        values = planes[0] if self.axis is None else np.moveaxis(planes, 0, self.axis)
        single = self.stored.kind == "f" and self.stored.itemsize <= 4
        return np.ascontiguousarray(values, dtype=np.float32 if single else np.float64)


def _channel_axis(shape: tuple[int, ...], given: int | None) -> int | None:
    """The axis of the channels, counted from the first."""
    if given is None:
        if len(shape) != 2:
            raise ValueError(
                f"image: expected [H, W] where channel_axis is None, got shape {list(shape)}; of a "
                "colour picture [H, W, 3] channel_axis is -1"
            )
        return None
    if len(shape) != 3:
        raise ValueError(
            f"image: expected [H, W] and an axis of channels, got shape {list(shape)} with "
            f"channel_axis={given}"
        )
    axis = count("channel_axis", given, -3) % 3
    if given > 2:
        raise ValueError(f"channel_axis: expected one of 3 axes, -3 to 2, got {given}")
    if shape[axis] not in PHOTOGRAPHS:
        raise ValueError(
            f"image: expected {one_of(PHOTOGRAPHS)} channels along axis {given}, got "
            f"{shape[axis]}; drop an alpha channel, and restore other channels one by one, as grey "
            "pictures"
        )
    return axis
