"""Masks and blur kernels of files, by the same readers as images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jpmap_fast._surroundings import steady
from jpmap_fast.data.arrays import ARRAY_SUFFIXES, read_array
from jpmap_fast.data.picture import Array, Picture, with_channels
from jpmap_fast.data.pictures import read_pictures


@steady
def load_mask(path: str | Path, *, key: str | None = None) -> Tensor:
    """A mask, bool, 1 = observed: [H, W] of a picture, any shape of an .npy or .npz file.

    White is observed: of two values the larger, of many those from half of the range on, as JPEG
    makes many of two. Arrays of floats in [0, 1] are returned as they are, float32, since weights
    in between have a meaning to ``Inpainting``.

    Raises:
        ValueError: it cannot be read; it has transparent pixels, which may mean either; or many
            values, none of them white. TypeError, OSError: no numbers, or no file.
    """
    path = Path(path)
    if path.suffix.lower() in ARRAY_SUFFIXES:
        array = read_array(path, key, ("mask",))
        if array.dtype.kind == "f":
            return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
        if array.dtype.kind not in "bui":
            raise TypeError(f"{path.name}: expected a mask of numbers, got {array.dtype}")
        return _observed(path, array.astype(np.float64), _largest(array))
    return _observed(path, with_channels(_only_picture(path, "mask").values, 1)[0], 1.0)


@steady
def load_kernel(path: str | Path, *, key: str | None = None) -> Tensor:
    """A blur kernel, float32 [kh, kw] or, of an array, with channels and images in front.

    Integers of a picture are taken over their sum; floats, of a picture or an array, as they are.

    Raises:
        ValueError: it cannot be read, is black or has transparent pixels. TypeError, OSError: no
            kernel, or no file.
    """
    path = Path(path)
    if path.suffix.lower() in ARRAY_SUFFIXES:
        array = read_array(path, key, ("kernel",))
        if array.dtype.kind != "f":
            raise TypeError(f"{path.name}: expected a floating-point kernel, got {array.dtype}")
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    picture = _only_picture(path, "kernel")
    grey = with_channels(picture.values, 1)[0]
    if not grey.any():
        raise ValueError(f"{path.name}: expected a kernel, got a black picture")
    if not picture.stored.startswith("float"):
        grey = (grey.astype(np.float64) / grey.sum(dtype=np.float64)).astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(grey))


def _only_picture(path: Path, role: str) -> Picture:
    """The one picture of a file, without transparent pixels."""
    pages = list(read_pictures(path, any_levels=True))
    if len(pages) != 1:
        raise ValueError(f"{path.name}: expected one {role}, got {len(pages)} pages")
    if not pages[0].opaque:
        raise ValueError(
            f"{path.name}: expected an opaque {role}, got transparent pixels, which may mean white "
            "or black; lay it on one of them"
        )
    return pages[0]


def _observed(path: Path, values: Array, largest: float) -> Tensor:
    """Which of the values of a mask mean observed, bool."""
    found = np.unique(values)
    if len(found) == 2:
        return torch.from_numpy(np.asarray(values == found[1]))
    if len(found) > 2 and 2 * found[-1] < largest:
        raise ValueError(
            f"{path.name}: expected white where pixels are observed, or two values; got "
            f"{len(found)} values, the brightest {found[-1] / largest:.3g} of white"
        )
    return torch.from_numpy(np.asarray(2 * values >= largest))


def _largest(array: Array) -> float:
    return 1.0 if array.dtype.kind == "b" else float(np.iinfo(array.dtype).max)
