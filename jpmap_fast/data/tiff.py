"""TIFF files: every page a picture, of any depth."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jpmap_fast.data.picture import (
    Array,
    Picture,
    check_size,
    composite,
    finished,
    from_cmyk,
    oriented,
    unit_range,
)

_ASSOCIATED, _UNASSOCIATED = 1, 2  # alpha that colours are multiplied by, or not
_ORIENTATION = 274


def read_tiff(path: Path, background: float) -> Iterator[Picture]:
    """The pages of a TIFF file but for thumbnails and the smaller levels of pyramids.

    Raises:
        ValueError: damaged, or a kind of pixel that cannot be shown rightly.
    """
    import tifffile

    with tifffile.TiffFile(path) as file:
        pages: list[Any] = [page.aspage() for page in file.pages]
        shown = [page for page in pages if not page.is_reduced] or pages
        if not shown:
            raise ValueError("a TIFF file without a page")
        _check_whole(file, pages[-1])
        for page in shown:
            yield _picture(page, background)


def _check_whole(file: Any, last: Any) -> None:
    """Raise ValueError where there are pictures that no page of the file leads to."""
    layout, handle = file.tiff, file.filehandle
    handle.seek(last.offset)
    (tags,) = struct.unpack(layout.tagnoformat, handle.read(layout.tagnosize))
    handle.seek(tags * layout.tagsize, 1)
    (following,) = struct.unpack(layout.offsetformat, handle.read(layout.offsetsize))
    if following:
        raise ValueError(f"truncated or damaged after {len(file.pages)} pages")
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
        table = page.colormap
        # 16 bits by the format; of 8-bit colours some writers make 256 v and some 257 v.
        table = (table >> 8 if table.max(initial=0) > 255 else table).astype(np.uint8)
        values = unit_range(np.moveaxis(table[:, array[..., 0]], 0, -1))
        return finished(_turned(page, values), "uint8", notes)
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
    alpha = None
    for position, kind in enumerate(extra):
        if kind in (_ASSOCIATED, _UNASSOCIATED):
            alpha = values[..., colours + position], kind == _ASSOCIATED
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
    if photometric == PHOTOMETRIC.MINISWHITE:
        if array.dtype.kind == "f":
            raise ValueError("floats in which 0 is white are not read; store them with 0 black")
        values = 1 - values
    if alpha is not None and not (alpha[0] == 1).all():
        values = composite(values, alpha[0], background, alpha[1])
        notes.append(f"alpha composited on {background:g}")
    return finished(_turned(page, values), stored, notes)


def _pixels(page: Any) -> Array:
    """The samples of a page [H, W, c]."""
    check_size(int(page.size))
    array: Array = page.asarray()
    axes = page.axes
    if array.ndim != len(axes) or set(axes) - set("YXS"):
        raise ValueError(f"expected a flat picture, got the axes {axes} of shape {array.shape}")
    if "S" in axes:
        array = np.moveaxis(array, axes.index("S"), -1)
    else:
        array = array[..., None]
    return array


def _turned(page: Any, values: Array) -> Array:
    tag = page.tags.get(_ORIENTATION)
    return oriented(values, 1 if tag is None else int(tag.value))
