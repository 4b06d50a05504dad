"""Masks and blur kernels of files, by the same readers as images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jpmap_fast._surroundings import steady
from jpmap_fast.data.arrays import ARRAY_SUFFIXES, read_array
from jpmap_fast.data.picture import Array, with_channels
from jpmap_fast.data.pictures import read_pictures


@steady
def load_mask(path: str | Path, *, key: str | None = None) -> Tensor:
    """A mask, bool, 1 = observed: [H, W] of a picture, any shape of an .npy or .npz file.

    White is observed: of two values the larger, of many those from half of the range on, as JPEG
    makes many of two. Transparent pixels count as not observed. Arrays of floats in [0, 1] are
    returned as they are, float32, since weights in between have a meaning to ``Inpainting``.

    Raises:
        ValueError, TypeError, OSError: it cannot be read, or is no mask.
    """
    path = Path(path)
    if path.suffix.lower() in ARRAY_SUFFIXES:
        array = read_array(path, key, ("mask",))
        if array.dtype.kind == "f":
            return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
        if array.dtype.kind not in "bui":
            raise TypeError(f"{path.name}: expected a mask of numbers, got {array.dtype}")
        return torch.from_numpy(_observed(array.astype(np.float64), _largest(array)))
    grey = _one_grey(path, background=0.0)
    return torch.from_numpy(_observed(grey, 1.0))


@steady
def load_kernel(path: str | Path, *, key: str | None = None) -> Tensor:
    """A blur kernel, float32 [kh, kw] or, of an array, with channels and images in front.

    Integers of a picture are taken over their sum; floats, of a picture or an array, as they are.

    Raises:
        ValueError, TypeError, OSError: it cannot be read, or is no kernel.
    """
    path = Path(path)
    if path.suffix.lower() in ARRAY_SUFFIXES:
        array = read_array(path, key, ("kernel",))
        if array.dtype.kind != "f":
            raise TypeError(f"{path.name}: expected a floating-point kernel, got {array.dtype}")
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    pages = list(read_pictures(path, background=0.0))
    if len(pages) != 1:
        raise ValueError(f"{path.name}: expected one kernel, got {len(pages)} pages")
    grey = with_channels(pages[0].values, 1)[0]
    if not grey.any():
        raise ValueError(f"{path.name}: expected a kernel, got a black picture")
    if not pages[0].stored.startswith("float"):
        grey = (grey.astype(np.float64) / grey.sum(dtype=np.float64)).astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(grey))


def _one_grey(path: Path, background: float) -> Array:
    pages = list(read_pictures(path, background=background))
    if len(pages) != 1:
        raise ValueError(f"{path.name}: expected one mask, got {len(pages)} pages")
    return with_channels(pages[0].values, 1)[0]


def _observed(values: Array, largest: float) -> Array:
    """Which of the values of a mask mean observed, bool."""
    found = np.unique(values)
    if len(found) == 2:
        return np.asarray(values == found[1])
    return np.asarray(2 * values >= largest)


def _largest(array: Array) -> float:
    return 1.0 if array.dtype.kind == "b" else float(np.iinfo(array.dtype).max)
