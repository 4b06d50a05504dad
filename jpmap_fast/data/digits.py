"""The digits that come with the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jpmap_fast._surroundings import steady

_FILE = Path(__file__).parent / "bundled" / "mnist_test_digits.npz"


@steady
def mnist_test_digits(count: int | None = None) -> tuple[Tensor, Tensor]:
    """Digits of the MNIST test set: the first fifty of each class, in turn 0, 1, ..., 9, 0, 1, ...

    Args:
        count: how many, 1 to 500; None for all.

    Returns:
        images [count, 1, 28, 28] float32, values in [0, 1], and labels [count] int64.

    Raises:
        ValueError: count is out of range.
        TypeError: count is no integer.

    Example:
        >>> images, labels = mnist_test_digits(12)
        >>> images.shape, labels.tolist()
        (torch.Size([12, 1, 28, 28]), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1])
    """
    with np.load(_FILE, allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    if count is None:
        count = len(images)
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"count: expected an integer or None, got {count!r}")
    if not 1 <= count <= len(images):
        raise ValueError(f"count: expected 1 to {len(images)}, got {count}")
    pixels = torch.from_numpy(images[:count, None].astype(np.float32)) / 255
    return pixels, torch.from_numpy(labels[:count].astype(np.int64))
