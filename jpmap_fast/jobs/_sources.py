"""What a run restores: files of pictures, or slices of one array."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jpmap_fast._messages import FieldError
from jpmap_fast.data.arrays import (
    ARRAY_SUFFIXES,
    as_pictures,
    check_levels,
    pixel_values,
    read_array,
)
from jpmap_fast.data.idx import is_idx, read_idx
from jpmap_fast.data.picture import TURNED_GREY, Array, loses_colour, with_channels
from jpmap_fast.data.readers import USUAL_KEYS, fitting_pictures, page_names, picture_files
from jpmap_fast.jobs._places import as_file, asked, full_name, look_again, stamp

# Images of an array in one source, and worked on at a time.
BATCH = 64


@dataclass(frozen=True)
class Item:
    """One image, or the measurements of one.

    Attributes:
        name: of the file, the page or the row.
        values: [C, H, W] or [m] float32.
        stored: ``Picture.stored``; "" for a row of an array.
        notes: what was done to it.
        row: its place in the array, or among the pages of its file.
        grey: whether it has three channels of a picture that was stored with one.
        sigma: the noise level that was estimated of it, where it was already.
    """

    name: str
    values: Array
    row: int
    stored: str = ""
    notes: tuple[str, ...] = ()
    grey: bool = False
    sigma: float | None = None


@dataclass(frozen=True)
class Source:
    """Images that are finished together.

    Attributes:
        name: of a file, or of a slice of an array.
        file: of pictures; None for an array, of which no pictures are written.
        stamp: what tells whether it is still the same.
        read: its images; raises ValueError, TypeError or OSError where they cannot be had.
        count: images of the whole array; of a file None, it is not known before it is read.
        shape: of each of its items; of a file None.
    """

    name: str
    file: Path | None
    stamp: list[Any]
    read: Callable[[], list[Item]]
    count: int | None = None
    shape: tuple[int, ...] | None = None


# Of one image, (C, H, W), each None where any will do, or of its measurements, (m,).
Shape = tuple[int | None, ...]


def sources(
    paths: Sequence[Path],
    shape: Shape,
    *,
    key: str | None,
    background: float,
    batch: int = BATCH,
) -> tuple[list[Source], bool]:
    """The sources of the inputs, and whether they are rows of an array.

    Args:
        paths: picture files and folders, or one .npz, .npy or IDX file.
        shape: of one image or its measurements.
        key: name of the array in an .npz file.
        background: grey level behind transparent pixels.
        batch: images of an array in one source.

    Raises:
        ValueError: inputs that do not go together, or an array of another shape.
        TypeError: an array of no numbers. OSError: nothing there.
    """
    arrays = [path for path in paths if is_array(path)]
    if arrays and len(paths) > 1:
        raise FieldError(
            "{inputs}: expected picture files and folders, or one {suffixes} file, got {count} "
            "inputs with {name} among them",
            {
                "suffixes": " or ".join(ARRAY_SUFFIXES),
                "count": len(paths),
                "name": arrays[0].name,
            },
        )
    if arrays:
        (path,) = arrays
        array = _content(path, key)
        names = full_name(path), path.name, path.stem
        return list(_slices(array, names, stamp(path), shape, batch)), True
    found = [
        picture_source(file, shape, background, name=full_name(file), stamp=stamp(file))
        for file in unfolded(paths)
    ]
    return found, False


def unfolded(paths: Sequence[Path]) -> list[Path]:
    """Files, and those of folders that are named like pictures, each once."""
    files = [file for path in paths for file in _files(path)]
    return list({full_name(file): file for file in files}.values())


def _files(path: Path) -> list[Path]:
    """The file, or those of the folder that are named like pictures."""
    with asked(path):
        look_again(path)
        return picture_files(path) if path.is_dir() else [path]


def array_sources(array: Array, shape: Shape, batch: int = BATCH) -> list[Source]:
    """The sources of an array that is in memory.

    Raises:
        ValueError, TypeError: as ``sources``.
    """
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return list(_slices(array, ("images", "images", "images"), [digest], shape, batch))


def check_vectors(paths: Sequence[Path], operator: str) -> None:
    """Raise ValueError where files cannot be measurements [N, m] of such an operator."""
    if len(paths) != 1 or not is_array(paths[0]):
        raise FieldError(
            "{inputs}: {name} restores measurements y [N, m] from one .npz or .npy file; "
            "to try it on images, add {simulate}",
            {"name": operator.replace("-", " ")},
        )


def check_shape(got: tuple[int, ...], wanted: Shape) -> None:
    """Raise ValueError where a picture has another shape than wanted."""
    fits = len(got) == len(wanted) and 0 not in got
    if not fits or any(size not in (None, one) for size, one in zip(wanted, got, strict=True)):
        form = ", ".join(
            "CHW"[place] if size is None else str(size) for place, size in enumerate(wanted)
        )
        raise ValueError(f"picture: expected shape [{form}], got {list(got)}")


def is_array(path: Path) -> bool:
    """Whether it is a file that holds one array of images."""
    with asked(path):
        return path.is_file() and (path.suffix.lower() in ARRAY_SUFFIXES or is_idx(path))


def picture_source(
    file: Path, shape: Shape, background: float, *, name: str, stamp: list[Any]
) -> Source:
    """The source of one picture file.

    Args:
        file: that is read.
        shape: of one image or its measurements.
        background: grey level behind transparent pixels.
        name, stamp: of the source.
    """

    def read() -> list[Item]:
        with as_file(file) as here:
            pages = list(fitting_pictures(here, shape, background))
        names = page_names(file.name, len(pages))
        any_size = None in shape
        return [
            Item(name, page.values, row, page.stored, page.notes, any_size and page.grey)
            for row, (name, page) in enumerate(zip(names, pages, strict=True))
        ]

    return Source(name, file, stamp, read)


def _content(path: Path, key: str | None) -> Array:
    with as_file(path) as here:
        if path.suffix.lower() not in ARRAY_SUFFIXES:
            return read_idx(here)
        return read_array(here, key, ("y", "measurements", *USUAL_KEYS))


def _slices(
    array: Array,
    names: tuple[str, str, str],
    stamp: list[Any],
    wanted: Shape,
    size: int,
) -> Iterator[Source]:
    """Slices of an array; ``names`` are those of the sources, for errors, and of its rows."""
    shape = _shape_in(array, wanted)
    rows = _vectors(array, shape[0]) if len(shape) == 1 else _images(array, shape)
    for begin in range(0, len(rows), size):
        part = rows[begin : begin + size]

        def read(part: Array = part, begin: int = begin) -> list[Item]:
            notes: list[tuple[str, ...]] = [()] * len(part)
            if part.ndim > 2:
                part = pixel_values(names[1], part)
                notes = [(TURNED_GREY,) * loses_colour(image, shape[0]) for image in part]
                part = np.stack([with_channels(image, shape[0]) for image in part])
            return [
                Item(f"{names[2]}[{row}]", values.astype(np.float32), row, notes=told)
                for row, (values, told) in enumerate(zip(part, notes, strict=True), begin)
            ]

        name = f"{names[0]}[{begin}:{begin + len(part)}]"
        yield Source(name, None, stamp, read, len(rows), shape)


def _shape_in(array: Array, wanted: Shape) -> tuple[int, ...]:
    """The shape of each image of an array, for a prior that takes several."""
    known = tuple(size for size in wanted if size is not None)
    if len(known) == len(wanted):
        return known
    channels = wanted[0]
    if array.ndim == 3 and channels in (array.shape[0], array.shape[2]):  # one picture
        first = channels == array.shape[0]
        return array.shape if first else (array.shape[2], *array.shape[:2])
    images = as_pictures("y", array)
    return (channels or images.shape[1], *images.shape[2:])


def _vectors(array: Array, size: int) -> Array:
    if array.dtype.kind != "f":
        raise TypeError(f"y: expected floating-point measurements, got {array.dtype}")
    rows = np.atleast_2d(array)
    if rows.ndim != 2 or rows.shape[1] != size:
        raise ValueError(f"y: expected measurements [N, {size}], got shape {list(array.shape)}")
    return rows


def _images(array: Array, shape: tuple[int, ...]) -> Array:
    wanted = ", ".join(["N", *map(str, shape)])
    try:
        images = as_pictures("y", array, shape)
    except ValueError:
        images = array
    grey = {1, 3} >= {images.shape[1] if images.ndim == 4 else 0, shape[0]}
    if (
        images.ndim != 4
        or images.shape[2:] != shape[1:]
        or not (images.shape[1] == shape[0] or grey)
    ):
        raise ValueError(
            f"y: expected images [{wanted}] for this prior, got shape {list(array.shape)}"
        )
    check_levels("y", images)
    return images
