"""What ``jpmap-fast restore`` reads: images, measurements, masks and matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jpmap_fast.cli._common import one_line
from jpmap_fast.data import load_images

ARRAYS = (".npz", ".npy")
# A value this many sigmas above 1 is no pixel of an image in [0, 1].
FAR = 10.0


@dataclass
class Inputs:
    """Images, or measurements, in the order they came.

    Attributes:
        values: [N, C, H, W] or [N, m] float32.
        names: [N].
        failures: (name, reason) of what could not be read.
        files: whether they came as image files, each with a name of its own.
    """

    values: Tensor
    names: list[str]
    failures: list[tuple[str, str]] = field(default_factory=list)
    files: bool = False


def read_inputs(
    paths: Sequence[Path],
    image_shape: tuple[int, ...],
    *,
    key: str | None,
    sigma: float,
    vectors: bool,
    clean: bool,
) -> Inputs:
    """Read images or measurements.

    Args:
        paths: image files and folders, or one .npz, .npy or IDX file.
        image_shape: (C, H, W) of the prior.
        key: name of the array in an .npz file.
        sigma: noise level in [0, 1] units, for a check of the range.
        vectors: measurements are vectors [N, m] rather than images.
        clean: the inputs are clean images, whatever the measurements will be.

    Raises:
        ValueError: inputs that do not go together, or values of the wrong shape or range.
        OSError: an array file cannot be read.
    """
    single = [path for path in paths if not path.is_dir() and path.suffix.lower() in ARRAYS]
    if single and len(paths) > 1:
        raise ValueError(
            f"INPUT: expected image files and folders, or one {' or '.join(ARRAYS)} file, "
            f"got {len(paths)} inputs with {single[0].name} among them"
        )
    if single and not clean:
        array = read_array(single[0], key, ("y", "measurements", "images"))
        shaped = _vectors(array) if vectors else _images(array, image_shape, sigma)
        return Inputs(shaped, [f"{single[0].stem}[{i}]" for i in range(len(shaped))])
    if vectors and not clean:
        raise ValueError(
            "INPUT: compressed sensing restores measurements y [N, m] from one .npz or .npy file; "
            "to try it on images, add --simulate"
        )
    return _read_images(paths, image_shape, key)


def _read_images(paths: Sequence[Path], image_shape: tuple[int, ...], key: str | None) -> Inputs:
    parts: list[Tensor] = []
    found = Inputs(torch.zeros(0, *image_shape), [], files=True)
    for path in paths:
        try:
            images = load_images(path, key=key, image_shape=image_shape)
        except (ValueError, TypeError, OSError) as error:
            if len(paths) == 1 and (path.is_dir() or path.suffix.lower() in ARRAYS):
                raise
            found.failures.append((path.name, one_line(error)))
            continue
        parts.append(images.images)
        found.names += list(images.names)
        found.failures += list(images.failures)
        # A file with many images (an array, an IDX file) has no name for each of them.
        found.files = found.files and (path.is_dir() or len(images.names) == 1)
    if parts:
        found.values = torch.cat(parts)
    if found.files and paths[0].suffix.lower() in ARRAYS:
        found.files = False
    return found


def read_array(path: Path, key: str | None, usual: Sequence[str]) -> np.ndarray[Any, Any]:
    """The array of an .npy file; of an .npz file the one named ``key``, or the usual or only one.

    Raises:
        ValueError: no such array, or not an array file. OSError: the file cannot be read.
    """
    try:
        content = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path.name}: not a readable .npy or .npz file ({error})") from error
    except OSError:
        raise
    except Exception as error:  # a broken zip archive has an error class of its own
        raise ValueError(f"{path.name}: not a readable .npz file ({error})") from error
    if isinstance(content, np.ndarray):
        return content
    with content as arrays:
        names = list(arrays.files)
        wanted = [key] if key is not None else [name for name in usual if name in names]
        if key is None and not wanted and len(names) == 1:
            wanted = names
        if not wanted or wanted[0] not in names:
            ask = "choose one with --key" if key is None else f"there is no {key!r}"
            raise ValueError(f"{path.name}: holds the arrays {', '.join(names)}; {ask}")
        try:
            return np.asarray(arrays[wanted[0]])
        except Exception as error:
            raise ValueError(f"{path.name}: cannot read array {wanted[0]!r} ({error})") from error


def read_mask(path: Path) -> Tensor:
    """A mask, 1 = observed: of an image (white = observed), or of an .npy or .npz file.

    Raises:
        ValueError, TypeError, OSError: it cannot be read, or is no mask.
    """
    if path.suffix.lower() in ARRAYS:
        array = read_array(path, None, ("mask",))
        if array.dtype == np.uint8 and array.max(initial=0) > 1:
            array = array > 127
        return torch.as_tensor(array)
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            grey = np.asarray(image.convert("L"))
    except UnidentifiedImageError:
        raise ValueError(f"{path.name}: not an image file, nor .npy or .npz") from None
    return torch.as_tensor(grey > 127)


def read_matrix(path: Path) -> Tensor:
    """A [m, n] of an .npy or .npz file, float32."""
    array = read_array(path, None, ("A", "matrix"))
    if not np.issubdtype(array.dtype, np.floating):
        raise TypeError(f"{path.name}: expected a floating-point matrix, got {array.dtype}")
    return torch.as_tensor(array.astype(np.float32))


def _vectors(array: np.ndarray[Any, Any]) -> Tensor:
    if not np.issubdtype(array.dtype, np.floating):
        raise TypeError(f"y: expected floating-point measurements, got {array.dtype}")
    if array.ndim not in (1, 2):
        raise ValueError(f"y: expected measurements [m] or [N, m], got shape {list(array.shape)}")
    return torch.as_tensor(np.atleast_2d(array).astype(np.float32))


def _images(array: np.ndarray[Any, Any], image_shape: tuple[int, ...], sigma: float) -> Tensor:
    """[H, W], [N, H, W], [C, H, W] or [N, C, H, W] as [N, C, H, W], 8-bit values over 255."""
    if array.dtype == np.uint8:
        array = array.astype(np.float32) / 255
    if not np.issubdtype(array.dtype, np.floating):
        raise TypeError(
            f"y: expected floats with pixel values about [0, 1], or uint8, got {array.dtype}"
        )
    shape = array.shape
    if image_shape[0] == 1 and array.ndim in (2, 3) and shape[-2:] == image_shape[1:]:
        array = array.reshape(-1, *image_shape)
    elif shape == image_shape:
        array = array[None]
    if array.ndim != 4 or array.shape[1:] != image_shape:
        wanted = ", ".join(["N", *map(str, image_shape)])
        raise ValueError(f"y: expected images [{wanted}] for this prior, got shape {list(shape)}")
    with np.errstate(invalid="ignore"):
        highest = float(np.max(array, where=np.isfinite(array), initial=0.0))
    if highest > 1 + FAR * sigma:
        raise ValueError(
            f"y: expected pixel values about [0, 1], got values up to {highest:g}; divide by 255"
        )
    return torch.as_tensor(array.astype(np.float32))
