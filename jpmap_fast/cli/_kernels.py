"""Blur kernels as ``jpmap-fast restore --kernel`` names them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jpmap_fast.cli._inputs import ARRAYS, read_array
from jpmap_fast.operators import box_kernel, gaussian_kernel, motion_kernel

FORMS = "gaussian:SIGMA, box:SIZE, motion:LENGTH:ANGLE or a file"


def read_kernel(text: str) -> Tensor:
    """A kernel, float32: gaussian:2, box:5, motion:9:30, or the content of a file.

    An .npy or .npz file holds it as it is, [kh, kw] or more dimensions; an image file gives its
    grey values over their sum.

    Raises:
        ValueError, TypeError, OSError: not one of these, or the file holds no kernel.
    """
    name, *numbers = text.split(":")
    makers: dict[str, tuple[int, Callable[..., Tensor]]] = {
        "gaussian": (1, lambda sigma: gaussian_kernel(float(sigma))),
        "box": (1, lambda size: box_kernel(int(size))),
        "motion": (2, lambda length, angle: motion_kernel(float(length), float(angle))),
    }
    if name in makers and numbers:
        count, make = makers[name]
        if len(numbers) != count:
            raise ValueError(f"--kernel: expected {FORMS}, got {text!r}")
        try:
            return make(*numbers)
        except ValueError as error:
            raise ValueError(f"--kernel {text}: {error}") from error
    path = Path(text)
    if not path.is_file():
        raise ValueError(f"--kernel: expected {FORMS}, got {text!r}")
    if path.suffix.lower() in ARRAYS:
        array = read_array(path, None, ("kernel",))
        if not np.issubdtype(array.dtype, np.floating):
            raise TypeError(f"{path.name}: expected a floating-point kernel, got {array.dtype}")
        return torch.as_tensor(array.astype(np.float32))
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            grey = torch.as_tensor(np.asarray(image.convert("L"), dtype=np.float32).copy())
    except UnidentifiedImageError:
        raise ValueError(f"{path.name}: not an image file, nor .npy or .npz") from None
    if not grey.any():
        raise ValueError(f"{path.name}: expected a kernel, got a black image")
    return grey / grey.sum()
