"""Layers of napari as pictures in [0, 1], restored plane by plane, in the units they came in."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from jpmap_fast.data.picture import Array
from jpmap_fast.jobs.device import pick_device
from jpmap_fast.priors.any_size import PHOTOGRAPHS
from jpmap_fast.priors.load import load_prior
from jpmap_fast.skimage import denoise, inpaint

# Of the pixels of a plane, how many may be cut off at the contrast limits.
CUT = 0.001


@dataclass(frozen=True)
class Planes:
    """Pictures of one size, as a layer holds them.

    Attributes:
        data: [..., H, W], or with an axis of 3 or 4 channels behind where it is ``rgb``.
        rgb: whether it has colours.
        limits: what is black and what is white, of grey values; not looked at of colours, which
            count as for ``jpmap_fast.skimage``.
        name: of the layer, for messages.
    """

    data: Any
    rgb: bool
    limits: tuple[float, float]
    name: str

    def __post_init__(self) -> None:
        axes = 3 if self.rgb else 2
        if len(self.data.shape) < axes:
            raise ValueError(
                f"{self.name}: expected a picture or a stack of them, got shape "
                f"{list(self.data.shape)}"
            )
        low, high = self.limits
        if not (self.rgb or low < high):
            raise ValueError(
                f"{self.name}: expected contrast limits that differ, got {low:g} twice"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """[..., H, W], without channels."""
        shape = tuple(self.data.shape)
        return shape[:-1] if self.rgb else shape

    @property
    def count(self) -> int:
        """How many pictures there are."""
        return math.prod(self.shape[:-2])

    def restored(
        self, sigma: float, prior: str, missing: Any = None, keep: bool = True
    ) -> Generator[None, None, Array]:
        """Restore one picture after the other; it yields after each.

        Args:
            sigma: standard deviation of the noise, in units of the layer; 0 estimates it of every
                picture.
            prior: name or path, as ``load_prior`` takes it; "" for that of photographs.
            missing: [H, W], or as the layer without channels, non-zero where pixels are missing;
                None denoises.
            keep: leave the other pixels as they were, which float32 may round.

        Returns:
            All of them, of the shape of the data, float32, in its units; colours in [0, 1]. What is
            transparent stays so.

        Raises:
            ValueError: a mask of another shape, grey values beyond the limits, or as ``inpaint``.
        """
        missing = None if missing is None else self._fitted(missing)
        name = prior.strip() or PHOTOGRAPHS[3 if self.rgb else 1]
        own: dict[str, Any] = {"prior": load_prior(name, device=pick_device("auto"))}
        own |= {"channel_axis": -1 if self.rgb else None, "sigma": self._in_units(sigma)}
        out = np.empty(self.data.shape, np.float32)
        for index in np.ndindex(self.shape[:-2]):
            restore, seen = partial(denoise, **own), None
            if missing is not None:
                mask = np.asarray(missing[index])
                restore, seen = partial(inpaint, mask=mask, keep=keep, **own), mask == 0
            out[index] = self._plane(np.asarray(self.data[index]), seen, restore)
            yield
        return out

    def _plane(self, plane: Array, seen: Array | None, restore: Callable[[Array], Array]) -> Array:
        """One picture restored, of which the pixels count that are ``seen``, or all."""
        if not self.rgb:
            low, high = self.limits
            self._check_limits(plane if seen is None else plane[seen])
            return low + (high - low) * restore((plane.astype(np.float64) - low) / (high - low))
        opacity = plane[..., 3:] / self._white
        return np.concatenate([restore(plane[..., :3]), opacity], axis=-1)

    def _check_limits(self, values: Array) -> None:
        low, high = self.limits
        beyond = int(((values < low) | (values > high)).sum())
        if beyond > CUT * values.size:
            raise ValueError(
                f"{self.name}: expected values within the contrast limits, which say what is black "
                f"and what is white, {low:g} to {high:g}, got {beyond} pixels beyond that would be "
                f"cut off; widen them to {float(values.min()):g} to {float(values.max()):g}"
            )
        if beyond:
            warnings.warn(
                f"{self.name}: {beyond} pixels beyond the contrast limits count as black or white",
                stacklevel=2,
            )

    def _fitted(self, missing: Any) -> Any:
        """Missing pixels of each picture, as the layer without channels."""
        shape, own = tuple(missing.shape), self.shape
        if shape == own[-2:]:
            return np.broadcast_to(np.asarray(missing), own)
        if shape != own:
            raise ValueError(
                f"mask: expected a labels layer of shape {list(own)} or {list(own[-2:])} for "
                f"{self.name}, got {list(shape)}"
            )
        return missing

    def _in_units(self, sigma: float) -> float | None:
        """The noise level of values in [0, 1]; None where it is to be estimated."""
        if sigma == 0:
            return None
        if not self.rgb:
            return sigma / (self.limits[1] - self.limits[0])
        return sigma / self._white

    @property
    def _white(self) -> float:
        """The greatest value of colours."""
        kind = np.dtype(self.data.dtype)
        return 1.0 if kind.kind == "f" else float(np.iinfo(kind).max)
