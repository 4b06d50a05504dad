"""The operator that the options of ``jpmap-fast restore`` name."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast.cli._kernels import read_kernel
from jpmap_fast.cli._restore_options import OperatorName, RestoreOptions
from jpmap_fast.cli._sources import Item
from jpmap_fast.data.arrays import read_array
from jpmap_fast.data.marks import load_mask
from jpmap_fast.masks import random_masks
from jpmap_fast.operators import Operator


class Degradation:
    """A for any images of a run: files are read once, random masks are each image's own.

    Args:
        options: of the command.
        image_shape: (C, H, W).

    Raises:
        ValueError, TypeError, OSError: a mask, matrix or kernel cannot be read or does not fit.
    """

    def __init__(self, options: RestoreOptions, image_shape: tuple[int, ...]) -> None:
        self._options = options
        self._shape = image_shape
        self._shared = None if options.missing is not None else self._make()
        # Masks or kernels of their own of so many images; None where all share one.
        self._count: int | None = None
        if self._shared is not None:
            for of_each in (getattr(self._shared, name, None) for name in ("mask", "kernel")):
                if isinstance(of_each, Tensor) and of_each.dim() == 4 and len(of_each) > 1:
                    self._count = len(of_each)
            self._shared.bind(image_shape)

    def check_sources(self, files: int, rows: bool) -> None:
        """Raise ValueError where nobody can tell which image has which mask or kernel.

        Args:
            files: number of sources.
            rows: whether they are slices of one array.
        """
        if self._count is not None and not rows and files != 1:
            raise ValueError(
                f"expected one mask or kernel for {files} picture files, got {self._count}; one "
                "for each image goes with an array or a file of as many pages"
            )

    def check_count(self, images: int) -> None:
        """Raise ValueError where there is another number of masks or kernels than of images."""
        if self._count not in (None, images):
            what = "mask" if isinstance(self._shared, jf.Inpainting) else "kernel"
            raise ValueError(
                f"{what}: expected one {what} or one for each of {images} images, got {self._count}"
            )

    def operator(self, items: Sequence[Item]) -> Operator:
        """A of these images."""
        if self._shared is not None and self._count is not None:
            rows = torch.tensor([item.row for item in items])
            return self._shared.bind(self._shape, self._count).select(rows).operator
        if self._shared is not None:
            return self._shared
        missing = self._options.missing
        assert missing is not None
        draws = [self.draws(item.name, "mask") for item in items]
        return jf.Inpainting(
            torch.cat([random_masks(1, self._shape, missing, source) for source in draws])
        )

    def draws(self, name: str, purpose: str) -> torch.Generator:
        """Random numbers of one image, whatever others there are and in whatever order."""
        text = f"{self._options.seed} {purpose} {name}".encode()
        seed = int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1
        return torch.Generator().manual_seed(seed)

    def measurement_shape(self) -> tuple[int, ...]:
        """Of one image."""
        if self._shared is None:  # masks
            return self._shape
        return self._shared.bind(self._shape).measurement_shape

    def measure(self, images: Tensor, items: Sequence[Item]) -> Tensor:
        """Simulated measurements of clean images [B, C, H, W], the noise each image's own."""
        clean = self.operator(items).A(images)
        sigma = self._options.sigma / 255
        noise = [
            torch.randn(clean.shape[1:], generator=self.draws(item.name, "noise")) for item in items
        ]
        return clean + sigma * torch.stack(noise)

    def arrays(self) -> dict[str, Any]:
        """What another run needs to know of A beside its measurements."""
        shared = self._shared
        if isinstance(shared, jf.Inpainting):
            return {"mask": shared.mask.numpy()}
        if isinstance(shared, jf.CompressedSensing):
            return {"A": shared.matrix.numpy()}
        if isinstance(shared, (jf.Blur, jf.SuperResolution)):
            return {"kernel": shared.kernel.numpy()}
        return {}

    def _make(self) -> Operator:
        options = self._options
        if options.operator is OperatorName.inpainting:
            assert options.mask is not None
            return jf.Inpainting(load_mask(options.mask))
        if options.operator is OperatorName.compressed_sensing:
            if options.matrix is not None:
                return jf.CompressedSensing(read_matrix(options.matrix), self._shape)
            assert options.measurements is not None
            generator = torch.Generator().manual_seed(options.seed)
            return jf.CompressedSensing.gaussian(options.measurements, self._shape, generator)
        kernel = None if options.kernel is None else read_kernel(options.kernel)
        if options.operator is OperatorName.super_resolution:
            assert options.factor is not None
            return jf.SuperResolution(options.factor, kernel)
        if options.operator is OperatorName.blur:
            return jf.Blur(kernel, options.boundary)
        return jf.Denoising()


def read_matrix(path: Path) -> Tensor:
    """A [m, n] of an .npy or .npz file, float32."""
    array = read_array(path, None, ("A", "matrix"))
    if array.dtype.kind != "f":
        raise TypeError(f"{path.name}: expected a floating-point matrix, got {array.dtype}")
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
