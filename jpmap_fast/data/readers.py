"""Images from .npz arrays, IDX files, single image files and folders of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jpmap_fast.data.idx import is_idx, read_idx

# Names that data sets commonly give their training images, tried in this order.
USUAL_KEYS = ("x_train", "images", "x", "train", "data")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".pgm", ".ppm")


@dataclass
class ImageSet:
    """Images of one shape, with their names.

    Attributes:
        images: [N, C, H, W], float32 in [0, 1], or uint8 where bytes were asked for and stored.
        names: file names, or positions such as "digits[3]", [N].
        failures: (name, reason) of what could not be read; the others were.
    """

    images: Tensor
    names: list[str]
    failures: list[tuple[str, str]] = field(default_factory=list)


def load_images(
    source: str | Path,
    *,
    key: str | None = None,
    image_shape: Sequence[int] | None = None,
    as_bytes: bool = False,
) -> ImageSet:
    """Read images.

    Args:
        source: an .npz or .npy file ([N, H, W], [N, H, W, C] or [N, C, H, W]; uint8, or floating
            point in [0, 1]), a raw IDX file (gzipped or not), one image file, or a folder of image
            files, read in the order of their names.
        key: array of an .npz file; by default x_train, images, x, train, data, or the only one.
        image_shape: (C, H, W) that every image must have; C = 1 turns colour images grey, C = 3
            grey ones into three equal channels.
        as_bytes: keep 8-bit images as uint8, a quarter of the memory.

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
        found = _folder(path, image_shape)
    elif path.suffix.lower() in (".npz", ".npy"):
        found = _numbered(path, _array(path, key))
    elif is_idx(path):
        found = _numbered(path, read_idx(path))
    elif path.suffix.lower() in IMAGE_SUFFIXES:
        found = ImageSet(_file(path, image_shape)[None], [path.name])
    else:
        raise ValueError(
            f"{path}: expected an .npz, .npy, IDX or image file "
            f"({', '.join(IMAGE_SUFFIXES)}), or a folder of images"
        )
    if image_shape is not None and tuple(found.images.shape[1:]) != tuple(image_shape):
        raise ValueError(
            f"{path}: expected images of shape {list(image_shape)}, "
            f"got {list(found.images.shape[1:])}"
        )
    if not as_bytes and found.images.dtype == torch.uint8:
        found.images = found.images.float() / 255
    return found


def _numbered(path: Path, array: np.ndarray[Any, Any]) -> ImageSet:
    images = _as_images(path, array)
    return ImageSet(images, [f"{path.stem}[{i}]" for i in range(len(images))])


def _array(path: Path, key: str | None) -> np.ndarray[Any, Any]:
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            names = list(content.files)
            if key is None:
                usual = [name for name in USUAL_KEYS if name in names]
                key = usual[0] if usual else (names[0] if len(names) == 1 else None)
            if key not in names:
                raise KeyError(
                    f"{path}: expected one of its arrays {', '.join(names)} as key, got {key!r}"
                )
            return np.asarray(content[key])
    except KeyError as error:
        raise ValueError(error.args[0]) from None
    except Exception as error:  # zipfile and NumPy have many errors for one fact: it is damaged
        raise ValueError(
            f"{path}: expected a NumPy file of plain arrays; it is damaged, truncated, or holds "
            f"pickled objects, which are not read ({error})"
        ) from error


def _as_images(path: Path, array: np.ndarray[Any, Any]) -> Tensor:
    """[N, C, H, W] of an array, checked."""
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[-1] in (1, 3, 4) and array.shape[1] not in (1, 3, 4):
        array = np.moveaxis(array, -1, 1)
    if array.ndim != 4 or array.shape[1] not in (1, 3, 4):
        raise ValueError(
            f"{path}: expected images [N, H, W], [N, H, W, C] or [N, C, H, W], "
            f"got shape {list(array.shape)}"
        )
    if array.shape[0] == 0:
        raise ValueError(f"{path}: expected at least one image, got none")
    if array.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(array))
    if not np.issubdtype(array.dtype, np.floating):
        raise TypeError(f"{path}: expected uint8 or floating-point images, got {array.dtype}")
    if not (np.nanmin(array) >= 0 and np.nanmax(array) <= 1):
        raise ValueError(
            f"{path}: expected values in [0, 1], got {np.nanmin(array):g} to {np.nanmax(array):g}; "
            "divide by 255, or store uint8"
        )
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _file(path: Path, image_shape: Sequence[int] | None) -> Tensor:
    """One image file, uint8 [C, H, W]."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            channels = None if image_shape is None else image_shape[0]
            grey = channels == 1 if channels in (1, 3) else image.mode in ("1", "L", "I", "I;16")
            array = np.array(image.convert("L" if grey else "RGB"))
    except Exception as error:  # Pillow raises many kinds for a damaged file
        raise ValueError(f"{path.name}: not a readable image ({error})") from error
    pixels = torch.from_numpy(array)
    pixels = pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1).contiguous()
    if image_shape is not None and tuple(pixels.shape) != tuple(image_shape):
        raise ValueError(
            f"{path.name}: expected an image of shape {list(image_shape)}, got {list(pixels.shape)}"
        )
    return pixels


def _folder(folder: Path, image_shape: Sequence[int] | None) -> ImageSet:
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise ValueError(f"{folder}: expected image files ({', '.join(IMAGE_SUFFIXES)}), got none")
    images: list[Tensor] = []
    names: list[str] = []
    failures: list[tuple[str, str]] = []
    for path in files:
        try:
            pixels = _file(path, image_shape if image_shape or not images else images[0].shape)
        except ValueError as error:
            failures.append((path.name, str(error).removeprefix(f"{path.name}: ")))
            continue
        images.append(pixels)
        names.append(path.name)
    if not images:
        reasons = "; ".join(reason for _, reason in failures[:3])
        raise ValueError(f"{folder}: none of its {len(files)} images could be read: {reasons}")
    return ImageSet(torch.stack(images), names, failures)
