"""TIFF files: every page a picture, of any depth."""

from __future__ import annotations

import logging
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jpmap_fast.data.picture import Array, Picture, check_size, finished, from_cmyk, unit_range

# Errors say what is wrong with a file; tifffile says it on standard error once more.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_ASSOCIATED, _UNASSOCIATED = 1, 2  # alpha that colours are multiplied by, or not
_ORIENTATION = 274
# Compressions that leave YCbCr where the page promises RGB.
_APERIO = (33003, 33004)


def read_tiff(path: Path, background: float) -> Iterator[Picture]:
    """The pages of a TIFF file but for thumbnails and the smaller levels of pyramids.

    Raises:
        ValueError: damaged, or a kind of pixel that cannot be shown rightly.
    """
    import tifffile

    with tifffile.TiffFile(path) as file:
        chained = _chain(file)
        pages: list[Any] = [page.aspage() for page in file.pages]
        shown = [page for page in pages if not page.is_reduced] or pages
        if not shown:
            raise ValueError("a TIFF file without a page")
        if len(pages) != chained:
            raise ValueError(f"truncated or damaged after {len(pages)} of {chained} pages")
        _check_series(file)
        for page in shown:
            yield _picture(page, background)


def _chain(file: Any) -> int:
    """The number of pages, of which each says where the next one is.

    Walked before anything else is read: tifffile follows a chain that leads back into itself.

    Raises:
        ValueError: it leads out of the file, or to a page before.
    """
    layout, handle = file.tiff, file.filehandle
    # A header of byte order and version, 4 bytes (a large file's 8), then the first page's place.
    place = 8 if layout.version == 43 else 4
    seen: set[int] = set()
    while True:
        handle.seek(place)
        found = handle.read(layout.offsetsize)
        if len(found) < layout.offsetsize:
            raise ValueError(f"truncated or damaged after {len(seen)} pages")
        (offset,) = struct.unpack(layout.offsetformat, found)
        if offset == 0:
            return len(seen)
        if offset in seen:
            raise ValueError(f"damaged: after {len(seen)} pages comes one of them again")
        seen.add(offset)
        handle.seek(offset)
        found = handle.read(layout.tagnosize)
        if len(found) < layout.tagnosize:
            raise ValueError(f"truncated or damaged after {len(seen) - 1} pages")
        (tags,) = struct.unpack(layout.tagnoformat, found)
        place = offset + layout.tagnosize + tags * layout.tagsize


def _check_series(file: Any) -> None:
    """Raise ValueError where there are pictures that no page of the file leads to."""
    for series in file.series:
        found = sum(page.size for page in series.pages if page is not None)
        if not series.is_multifile and int(series.size) > found:
            raise ValueError(
                f"frames of the series {series.shape} have no pages of their own; store each frame "
                "as a page"
            )


def _picture(page: Any, background: float) -> Picture:
    from tifffile import PHOTOMETRIC

    array = _pixels(page)
    notes: list[str] = []
    photometric = page.photometric
    stored = "bool" if page.bitspersample == 1 else array.dtype.name
    largest = None
    if array.dtype.kind == "u" and page.bitspersample not in (8 * array.dtype.itemsize, 1):
        largest = 2 ** int(page.bitspersample) - 1
    if photometric == PHOTOMETRIC.PALETTE:
        if page.colormap is None:
            raise ValueError("a palette picture without its palette")
        table = _eight_bits(page.colormap)
        values = unit_range(np.moveaxis(table[:, array[..., 0]], 0, -1))
        return finished(values, table.dtype.name, notes, orientation=_orientation(page))
    values = unit_range(array, largest)
    colours = {PHOTOMETRIC.RGB: 3, PHOTOMETRIC.SEPARATED: 4, PHOTOMETRIC.YCBCR: 3}.get(
        photometric, 1
    )
    if photometric not in (
        PHOTOMETRIC.MINISBLACK,
        PHOTOMETRIC.MINISWHITE,
        PHOTOMETRIC.RGB,
        PHOTOMETRIC.SEPARATED,
        PHOTOMETRIC.YCBCR,
    ):
        name = getattr(photometric, "name", photometric)
        raise ValueError(f"pixels of the kind {name} are not read; store grey or RGB")
    # tifffile's JPEG decoder has made RGB of YCbCr; nothing else has.
    if photometric == PHOTOMETRIC.YCBCR and page.compression not in (6, 7, 33007):
        raise ValueError("YCbCr pixels without JPEG compression are not read; store RGB")
    if values.shape[-1] < colours:
        raise ValueError(f"expected {colours} samples a pixel, got {values.shape[-1]}")
    extra = [int(kind) for kind in page.extrasamples][: values.shape[-1] - colours]
    alpha, premultiplied = None, False
    for position, kind in enumerate(extra):
        if kind in (_ASSOCIATED, _UNASSOCIATED):
            alpha, premultiplied = values[..., colours + position], kind == _ASSOCIATED
            break
    if extra and alpha is None:
        raise ValueError(
            f"expected {colours} samples a pixel, got {values.shape[-1]} of which nothing says "
            "what they are"
        )
    values = values[..., :colours]
    if photometric == PHOTOMETRIC.SEPARATED:
        values = from_cmyk(values)
        notes.append("CMYK turned to RGB without a colour profile")
    # tifffile marks the booleans that it writes so, and means 1 by true all the same.
    if photometric == PHOTOMETRIC.MINISWHITE and not (stored == "bool" and page.is_shaped):
        if array.dtype.kind == "f":
            raise ValueError("floats in which 0 is white are not read; store them with 0 black")
        values = 1 - values
    return finished(
        values,
        stored,
        notes,
        orientation=_orientation(page),
        alpha=alpha,
        premultiplied=premultiplied,
        background=background,
    )


def _eight_bits(table: Array) -> Array:
    """A palette in the type that its colours have.

    They have 16 bits by the format; of 8-bit colours v some writers make 256 v, some 257 v, and
    some leave them as they are.
    """
    high, low = table >> 8, table & 255
    if not high.any():
        return low.astype(np.uint8)
    if not low.any() or (low == high).all():
        return high.astype(np.uint8)
    return table.astype(np.uint16)


def _pixels(page: Any) -> Array:
    """The samples of a page [H, W, c]."""
    check_size(int(page.size), page.parent.filehandle.size)
    if page.compression in _APERIO:
        raise ValueError("JPEG 2000 of Aperio is not read; store another compression")
    _check_segments(page)
    array: Array = page.asarray()
    axes = page.axes
    if array.ndim != len(axes) or set(axes) - set("YXS"):
        raise ValueError(f"expected a flat picture, got the axes {axes} of shape {array.shape}")
    if "S" in axes:
        array = np.moveaxis(array, axes.index("S"), -1)
    else:
        array = array[..., None]
    return array


def _check_segments(page: Any) -> None:
    """Raise ValueError unless every strip or tile is in the file: one missing would be black."""
    offsets, counts, end = page.dataoffsets, page.databytecounts, page.parent.filehandle.size
    if len(offsets) != len(counts) or len(offsets) < math.prod(page.chunked):
        raise ValueError("damaged: not all of its strips or tiles are listed")
    for offset, count in zip(offsets, counts, strict=True):
        if offset < 1 or count < 1 or offset + count > end:
            raise ValueError("truncated or damaged: not all of its strips or tiles are there")


def _orientation(page: Any) -> int:
    tag = page.tags.get(_ORIENTATION)
    return 1 if tag is None else int(tag.value)
