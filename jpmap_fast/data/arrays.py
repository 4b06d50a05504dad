"""Arrays of .npy and .npz files."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from jpmap_fast.data.picture import Array, brightness_note, check_limit, unit_range

ARRAY_SUFFIXES = (".npz", ".npy")


def read_array(path: Path, key: str | None, usual: Sequence[str]) -> Array:
    """The array of an .npy file; of an .npz file the one named ``key``, or the usual or only one.

    Raises:
        ValueError: no such array, or not an array file; the text begins with the file's name.
        FileNotFoundError: no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        _check_packed(path)
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            names = list(content.files)
            if key is None:
                found = [name for name in usual if name in names]
                key = found[0] if found else (names[0] if len(names) == 1 else None)
            if key in names:
                return np.asarray(content[key])
    except Exception as error:  # zipfile and NumPy have many errors for one fact: it is damaged
        raise ValueError(
            f"{path}: expected a NumPy file of plain arrays; it is damaged, truncated, or holds "
            f"pickled objects, which are not read ({error})"
        ) from error
    raise ValueError(
        f"{path}: expected one of its arrays {', '.join(names)} as key, got {key!r}; choose one "
        "with --key or key="
    )


def _check_packed(path: Path) -> None:
    """Raise ValueError where a file would unpack to more numbers than ``at_most`` allows."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            return check_limit(_promised(file), path.name)
    with zipfile.ZipFile(path) as archive:
        total = 0
        for entry in archive.infolist():
            with archive.open(entry) as file:
                total += _promised(file)
        check_limit(total, path.name)


def _promised(file: IO[bytes]) -> int:
    """The numbers that the header of a .npy file promises, none where it is no such file."""
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0}
        return math.prod(read.get(version, np.lib.format.read_array_header_2_0)(file)[0])
    except ValueError:  # ``np.load`` says what it is
        return 0


def as_pictures(name: str, array: Array, image_shape: Sequence[int] | None = None) -> Array:
    """An array as [N, C, H, W] in its own type.

    Args:
        name: of the file or argument, for errors.
        array: [H, W], [N, H, W], [N, H, W, C] or [N, C, H, W]; also [C, H, W] or [H, W, C] where
            ``image_shape`` says so.
        image_shape: (C, H, W) that tells one image from several.

    Raises:
        ValueError: another shape, or nothing at all.
    """
    shape = array.shape
    if image_shape is not None and shape == tuple(image_shape):
        array = array[None]
    elif image_shape is not None and shape == (*image_shape[1:], image_shape[0]):
        array = np.moveaxis(array, -1, 0)[None]
    elif array.ndim == 2:
        array = array[None, None]
    elif array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and shape[-1] in (1, 3, 4) and shape[1] not in (1, 3, 4):
        array = np.moveaxis(array, -1, 1)
    if array.ndim != 4 or array.shape[1] not in (1, 3, 4):
        raise ValueError(
            f"{name}: expected images [N, H, W], [N, H, W, C] or [N, C, H, W], "
            f"got shape {list(shape)}"
        )
    if 0 in array.shape:
        raise ValueError(f"{name}: expected at least one image, got none, of shape {list(shape)}")
    return array


def pixel_values(name: str, array: Array) -> Array:
    """Images as float32, integers over the largest of their type, floats as they are.

    Raises:
        ValueError, TypeError: numbers that are no pixel values, see ``picture.unit_range``.
    """
    try:
        return unit_range(array).astype(np.float32)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{name}: {error}") from error


def check_levels(name: str, array: Array) -> None:
    """Raise where an array of images holds no pixel values, or integers that would all be black.

    Raises:
        ValueError, TypeError: see ``picture.unit_range`` and ``picture.brightness_note``.
    """
    try:
        unit_range(array[:0])  # refuses types without numbers
        ends = np.array([array.min(initial=0), array.max(initial=0)], dtype=array.dtype)
        brightness_note(unit_range(ends), array.dtype.name)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{name}: {error}") from error


def check_unit(name: str, values: Array) -> None:
    """Raise ValueError unless all values are numbers in [0, 1]."""
    if not np.isfinite(values).all():
        raise ValueError(f"{name}: expected pixel values in [0, 1], got NaN or infinity")
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    if low < 0 or high > 1:
        white = next((top for top in (255, 4095, 65535) if 2 < high <= top), None)
        mend = f"divide by {white}, or store integers"
        if low < 0 or white is None:
            mend = "shift and scale them"
        raise ValueError(
            f"{name}: expected pixel values in [0, 1], got {low:g} to {high:g}; {mend}"
        )
