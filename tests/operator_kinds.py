"""One or more of every kind of operator, found by their classes: a new kind must be added here."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast.operators import BoundOperator

SHAPE = (1, 6, 8)
BATCH = 3
PIXELS = 48

_G = torch.Generator().manual_seed(0)
MATRIX = torch.randn(10, PIXELS, generator=_G) / 3
MASK = (torch.rand(6, 8, generator=_G) < 0.5).float()
KERNEL = torch.rand(3, 2, generator=_G) / 5
SEVERAL = torch.rand(BATCH, 1, 3, 3, generator=_G) / 6


class Rows(jf.MatrixFree):
    """The first two rows of each image."""

    def A(self, x: Tensor) -> Tensor:
        return x[..., :2, :]

    def A_adjoint(self, y: Tensor) -> Tensor:
        return torch.nn.functional.pad(y, (0, 0, 0, 4))

    def measurement_shape(self, image_shape, like):
        return (image_shape[0], 2, image_shape[2])


def weigh(x: Tensor) -> Tensor:
    """A symmetric A, found by name."""
    return 0.5 * x


KINDS: dict[str, Callable[[], jf.Operator]] = {
    "denoising": jf.Denoising,
    "inpainting": lambda: jf.Inpainting(MASK),
    "inpainting-per-image": lambda: jf.Inpainting(MASK.expand(BATCH, 1, 6, 8).contiguous()),
    "compressed-sensing": lambda: jf.CompressedSensing(MATRIX, SHAPE),
    "compressed-sensing-tall": lambda: jf.CompressedSensing(
        torch.cat((MATRIX,) * 6) + torch.eye(60, PIXELS), SHAPE
    ),
    "dct": lambda: jf.StructuredSensing.dct(9, SHAPE, torch.Generator().manual_seed(1)),
    "hadamard": lambda: jf.StructuredSensing.hadamard(9, SHAPE, torch.Generator().manual_seed(1)),
    "blur": lambda: jf.Blur(KERNEL),
    "blur-per-image": lambda: jf.Blur(SEVERAL),
    **{
        f"blur-{boundary}": lambda boundary=boundary: jf.Blur(KERNEL, boundary)
        for boundary in ("zero", "reflect", "replicate", "valid")
    },
    "super-resolution": lambda: jf.SuperResolution(2),
    "super-resolution-kernel": lambda: jf.SuperResolution(2, SEVERAL),
    "linear-operator": lambda: jf.LinearOperator(weigh, weigh),
    "matrix-free": Rows,
    "composition": lambda: jf.Composition(jf.Inpainting(MASK), jf.Blur(SEVERAL)),
    "composition-closed": lambda: jf.Composition(jf.CompressedSensing(MATRIX), jf.Blur(KERNEL)),
    "stack": lambda: jf.Stack([jf.SuperResolution(2), jf.Inpainting(MASK)], noise=[0.5, 2]),
}


def bound(name: str) -> BoundOperator:
    """The operator of that name, bound to ``BATCH`` images of ``SHAPE``."""
    return KINDS[name]().bind(SHAPE, BATCH)


def images(dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Images [BATCH, *SHAPE] in [0, 1]."""
    g = torch.Generator().manual_seed(seed)
    return torch.rand(BATCH, *SHAPE, generator=g, dtype=torch.float64).to(dtype)
