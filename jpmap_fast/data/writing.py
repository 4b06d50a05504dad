"""Pictures written in the kind they were read in, whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from jpmap_fast._files import written_whole
from jpmap_fast.data.picture import Array

# Files that keep every number of a picture; others are answered by PNG, or by TIFF for several.
TIFF_SUFFIXES = (".tif", ".tiff")
_PNG_HOLDS = {"bool", "uint8", "int8", "uint16"}
# The type written for the type read, where it is another one.
_WRITTEN = {"bool": "uint8", "float16": "float32", "int8": "uint8"}


def answer_suffix(suffix: str, stored: Sequence[str]) -> str:
    """The suffix of what answers a file: itself for TIFF and PNG, PNG for one picture, else TIFF.

    JPEG and palettes would lose what was restored, and only TIFF holds several deep pictures,
    floats and integers of 32 bits.

    Args:
        suffix: of the file.
        stored: ``Picture.stored`` of each of its pictures.
    """
    if suffix.lower() in TIFF_SUFFIXES:
        return suffix
    if len(stored) > 1 or not _PNG_HOLDS >= set(stored):
        return ".tif"
    return suffix if suffix.lower() == ".png" else ".png"


def write_pictures(path: Path, images: Sequence[Tensor], stored: Sequence[str]) -> None:
    """Images [C, H, W] as one file, each in the type it was read in.

    Integers are clipped to [0, 1] and rounded to their full range; floats are written as they are,
    which only TIFF can hold.

    Args:
        path: ends in .tif or .tiff, or for one image of at most 16 bits in .png.
        images: C = 1 or 3.
        stored: ``Picture.stored`` of each.
    """
    arrays = [_as(image, kind) for image, kind in zip(images, stored, strict=True)]
    with written_whole(path) as part:
        if path.suffix.lower() in TIFF_SUFFIXES:
            _write_tiff(part, arrays)
        else:
            (array,) = arrays
            _write_png(part, array)


def _as(image: Tensor, stored: str) -> Array:
    """[H, W] or [H, W, 3] in the type that answers ``stored``."""
    dtype = np.dtype(_WRITTEN.get(stored, stored))
    values = np.moveaxis(image.detach().cpu().double().numpy(), 0, -1)
    values = values[..., 0] if values.shape[-1] == 1 else values
    if dtype.kind == "f":
        return values.astype(dtype)
    top = np.iinfo(dtype).max
    return np.rint(np.clip(np.nan_to_num(values), 0, 1) * top).astype(dtype)


def _write_tiff(path: Path, arrays: list[Array]) -> None:
    import tifffile

    with tifffile.TiffWriter(path) as writer:
        for array in arrays:
            kind = "rgb" if array.ndim == 3 else "minisblack"
            writer.write(np.ascontiguousarray(array), photometric=kind, metadata=None)


def _write_png(path: Path, array: Array) -> None:
    if array.dtype == np.uint8:
        from PIL import Image

        Image.fromarray(np.ascontiguousarray(array)).save(path)
        return
    import imagecodecs

    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(array)))
