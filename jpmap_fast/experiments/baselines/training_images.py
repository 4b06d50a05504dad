"""The training images of the baselines, of which the last are held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

# File and array of each set, and how many of its images nothing is trained or tuned on.
SETS = {"mnist": ("mnist.npz", "x_train", 1000), "faces": ("faces_train.npz", "x", 500)}


def training_images(folder: str | Path, name: str) -> tuple[Tensor, Tensor]:
    """Images to train on, and those held out for a first look at the result.

    Args:
        folder: with ``mnist.npz`` (``x_train`` uint8 [N, 28, 28]) or ``faces_train.npz`` (``x``
            uint8 [N, 3, 64, 64]).
        name: "mnist" or "faces".

    Returns:
        [N - held out, C, H, W] and [held out, C, H, W], uint8.

    Raises:
        FileNotFoundError: no such file. ValueError: no such array, of another kind, or too short.
    """
    file, array, aside = SETS[name]
    path = Path(folder) / file
    with np.load(path, allow_pickle=False) as arrays:
        if array not in arrays:
            raise ValueError(f"{path}: expected an array {array}, got {', '.join(arrays)}")
        images = torch.from_numpy(arrays[array])
    images = images[:, None] if images.dim() == 3 else images
    if images.dtype != torch.uint8 or images.dim() != 4 or len(images) <= aside:
        raise ValueError(
            f"{path}: expected more than {aside} uint8 images, got {images.dtype} "
            f"{list(images.shape)}"
        )
    return images[:-aside], images[-aside:]
