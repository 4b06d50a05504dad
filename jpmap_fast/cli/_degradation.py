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
        if self._shared is not None:
            self._shared.bind(image_shape)

    def operator(self, names: Sequence[str]) -> Operator:
        """A of the images of these names."""
        if self._shared is not None:
            return self._shared
        missing = self._options.missing
        assert missing is not None
        masks = [random_masks(1, self._shape, missing, self.draws(n, "mask")) for n in names]
        return jf.Inpainting(torch.cat(masks))

    def draws(self, name: str, purpose: str) -> torch.Generator:
        """Random numbers of one image, whatever others there are and in whatever order."""
        text = f"{self._options.seed} {purpose} {name}".encode()
        seed = int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1
        return torch.Generator().manual_seed(seed)

    def measurement_shape(self) -> tuple[int, ...]:
        """Of one image."""
        bound = self.operator(["one"]).bind(self._shape)
        return bound.measurement_shape(self._shape, torch.zeros(()))

    def measure(self, images: Tensor, names: Sequence[str]) -> Tensor:
        """Simulated measurements of clean images [B, C, H, W], the noise each image's own."""
        clean = self.operator(names).A(images)
        sigma = self._options.sigma / 255
        noise = [
            torch.randn(clean.shape[1:], generator=self.draws(name, "noise")) for name in names
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
