"""Images from .npz arrays, IDX files, picture files and folders of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jpmap_fast._surroundings import steady
from jpmap_fast.data.arrays import (
    ARRAY_SUFFIXES,
    as_pictures,
    check_levels,
    check_unit,
    pixel_values,
    read_array,
)
from jpmap_fast.data.idx import is_idx, read_idx
from jpmap_fast.data.picture import TURNED_GREY, Array, Picture, loses_colour, with_channels
from jpmap_fast.data.pictures import PICTURE_SUFFIXES, is_picture_name, read_pictures

# Names that data sets commonly give their training images, tried in this order.
USUAL_KEYS = ("x_train", "images", "x", "train", "data")


@dataclass
class ImageSet:
    """Images of one shape, with their names.

    Attributes:
        images: [N, C, H, W], float32 in [0, 1], or uint8 where bytes were asked for and stored.
        names: file names, positions such as "digits[3]", or pages such as "stack.tif[3]", [N].
        failures: (name, reason) of what could not be read; the others were.
        notes: (name, what was done to it), such as alpha that was laid on the background.
    """

    images: Tensor
    names: list[str]
    failures: list[tuple[str, str]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)


@steady
def load_images(
    source: str | Path,
    *,
    key: str | None = None,
    image_shape: Sequence[int] | None = None,
    as_bytes: bool = False,
    background: float = 1.0,
) -> ImageSet:
    """Read images into memory.

    Args:
        source: an .npz or .npy file ([N, H, W], [N, H, W, C] or [N, C, H, W]; unsigned integers of
            8, 16 or 32 bits, booleans, or floating point in [0, 1]), a raw IDX file (gzipped or
            not), one picture file (see ``read_pictures``), whose pages or frames are so many
            images, or a folder of picture files, read in the order of their names.
        key: array of an .npz file; by default x_train, images, x, train, data, or the only one.
        image_shape: (C, H, W) that every image must have; C = 1 turns colour images grey by the
            luma of ITU-R BT.601, C = 3 grey ones into three equal channels.
        as_bytes: keep 8-bit images as uint8, a quarter of the memory.
        background: grey level in [0, 1] behind transparent pixels.

    Returns:
        An ``ImageSet``. In a folder, a file that cannot be read, or has another shape, is named in
        ``failures`` and the others are read.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: not a file of images, damaged, empty, values outside [0, 1], no such key.
        TypeError: an array of another type.
    """
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if path.is_dir():
        found = _folder(path, image_shape, background)
    elif path.suffix.lower() in ARRAY_SUFFIXES:
        found = _numbered(path, read_array(path, key, USUAL_KEYS))
    elif is_idx(path):
        found = _numbered(path, read_idx(path))
    elif path.suffix.lower() in PICTURE_SUFFIXES:
        found = _stacked([path], image_shape, background)
        if found.failures:
            name, reason = found.failures[0]
            raise ValueError(f"{name}: {reason}")
    else:
        raise ValueError(
            f"{path}: expected an .npz, .npy, IDX or picture file "
            f"({', '.join(PICTURE_SUFFIXES)}), or a folder of pictures"
        )
    if image_shape is not None and tuple(found.images.shape[1:]) != tuple(image_shape):
        raise ValueError(
            f"{path}: expected images of shape {list(image_shape)}, "
            f"got {list(found.images.shape[1:])}"
        )
    bytes_ = as_bytes and found.images.dtype == torch.uint8
    if not bytes_ and found.images.dtype == torch.uint8:
        found.images = found.images.float() / 255
    return found


def picture_files(folder: Path) -> list[Path]:
    """The picture files of a folder in the order of their names, hidden ones left out.

    Raises:
        ValueError: there are none.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and is_picture_name(path))
    if not files:
        raise ValueError(
            f"{folder}: expected image files ({', '.join(PICTURE_SUFFIXES)}), got none"
        )
    return files


def fitting_pictures(
    path: Path, image_shape: Sequence[int | None], background: float
) -> Iterator[Picture]:
    """The pictures of a file with the channels of ``image_shape``, and of that shape.

    Args:
        path: of the file.
        image_shape: (C, H, W), each None where any will do. A note tells of colours that were
            turned grey.
        background: grey level behind transparent pixels.

    Raises:
        ValueError: one cannot be read, has another shape, or not that of the first one; the text
            begins with the file's name.
    """
    first: tuple[int, ...] | None = None
    for picture in read_pictures(path, background=background):
        values, notes = with_channels(picture.values, image_shape[0]), picture.notes
        sizes = zip(image_shape, values.shape, strict=False)
        if len(image_shape) != 3 or any(size not in (None, got) for size, got in sizes):
            raise ValueError(
                f"{path.name}: expected an image of shape {list(image_shape)}, "
                f"got {list(values.shape)}"
            )
        first = values.shape if first is None else first
        if values.shape != first:
            raise ValueError(f"{path.name}: expected pages of one shape, got several")
        before, after = picture.values.shape[0], values.shape[0]
        if loses_colour(picture.values, image_shape[0]):
            notes = (*notes, TURNED_GREY)
        yield Picture(values, picture.stored, notes, grey=before < after)


def page_names(name: str, count: int) -> list[str]:
    """The name of a file's only picture, or of each of its pages."""
    return [name] if count == 1 else [f"{name}[{i}]" for i in range(count)]


def _numbered(path: Path, array: Array) -> ImageSet:
    images = as_pictures(str(path), array)
    names = [f"{path.stem}[{i}]" for i in range(len(images))]
    if images.dtype == np.uint8:
        return ImageSet(torch.from_numpy(np.ascontiguousarray(images)), names)
    check_levels(str(path), images)
    values = pixel_values(str(path), images)
    check_unit(str(path), values)
    return ImageSet(torch.from_numpy(np.ascontiguousarray(values)), names)


def _folder(folder: Path, image_shape: Sequence[int] | None, background: float) -> ImageSet:
    files = picture_files(folder)
    found = _stacked(files, image_shape, background)
    if not found.names:
        reasons = "; ".join(reason for _, reason in found.failures[:3])
        raise ValueError(f"{folder}: none of its {len(files)} images could be read: {reasons}")
    return found


def _stacked(
    files: Sequence[Path], image_shape: Sequence[int] | None, background: float
) -> ImageSet:
    """All pictures of the files, whole bytes as bytes; of one shape, the first's if not said."""
    images: list[Array] = []
    found = ImageSet(torch.zeros(0), [])
    for path in files:
        shape = image_shape if image_shape is not None or not images else images[0].shape
        try:
            pages = list(fitting_pictures(path, shape or (None, None, None), background))
            for page in pages:
                check_unit(path.name, page.values)
        except ValueError as error:
            found.failures.append((path.name, str(error).removeprefix(f"{path.name}: ")))
            continue
        names = page_names(path.name, len(pages))
        found.names += names
        for name, page in zip(names, pages, strict=True):
            images.append(_packed(page.values))
            found.notes += [(name, note) for note in page.notes]
    if images:
        if any(image.dtype != np.uint8 for image in images):
            images = [_unpacked(image) for image in images]
        found.images = torch.from_numpy(np.stack(images))
    return found


def _packed(values: Array) -> Array:
    """Bytes where all values are multiples of 1/255, as they are of 8-bit pictures."""
    rounded = np.rint(values.astype(np.float64) * 255).clip(0, 255).astype(np.uint8)
    return rounded if np.array_equal(_unpacked(rounded), values) else values


def _unpacked(image: Array) -> Array:
    return image.astype(np.float32) / np.float32(255) if image.dtype == np.uint8 else image
