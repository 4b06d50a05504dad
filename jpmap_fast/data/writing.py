"""Pictures in the kind they were read in, as files that are written whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from torch import Tensor

from jpmap_fast._files import write_whole
from jpmap_fast.data.picture import Array

# Files that keep every number of a picture; others are answered by PNG, or by TIFF for several.
TIFF_SUFFIXES = (".tif", ".tiff")
_PNG_HOLDS = {"bool", "uint8", "int8", "uint16"}
# Effort of zlib: quick rather than a few percent smaller.
PNG_LEVEL = 3
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
    """The file of ``encoded`` images, whole or not at all.

    Args:
        path: ends in a suffix that ``encoded`` takes.
        images, stored: as ``encoded`` takes them.
    """
    write_whole(path, encoded(path.suffix, images, stored))


def encoded(suffix: str, images: Sequence[Tensor], stored: Sequence[str]) -> bytes:
    """Images [C, H, W] as the content of one file, each in the type it was read in.

    Integers are clipped to [0, 1] and rounded to their full range; floats are kept as they are,
    which only TIFF can hold.

    Args:
        suffix: .tif or .tiff, or for one image of at most 16 bits .png.
        images: C = 1 or 3.
        stored: ``Picture.stored`` of each.
    """
    arrays = [_as(image, kind) for image, kind in zip(images, stored, strict=True)]
    if suffix.lower() in TIFF_SUFFIXES:
        return _tiff(arrays)
    (array,) = arrays
    return _png(array)


def _as(image: Tensor, stored: str) -> Array:
    """[H, W] or [H, W, 3] in the type that answers ``stored``."""
    dtype = np.dtype(_WRITTEN.get(stored, stored))
    values = image.detach().cpu().double()
    if dtype.kind != "f":
        values = values.nan_to_num().clamp_(0, 1).mul_(np.iinfo(dtype).max).round_()
    array = np.moveaxis(values.numpy(), 0, -1)
    array = array[..., 0] if array.shape[-1] == 1 else array
    return np.ascontiguousarray(array.astype(dtype))


def _tiff(arrays: list[Array]) -> bytes:
    import tifffile

    content = BytesIO()
    with tifffile.TiffWriter(content) as writer:
        for array in arrays:
            kind = "rgb" if array.ndim == 3 else "minisblack"
            writer.write(array, photometric=kind, metadata=None)
    return content.getvalue()


def _png(array: Array) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.png_encode(array, level=PNG_LEVEL))
