"""Measurement operators."""

import jpmap_fast.operators.named  # noqa: F401  (registers them by name)
from jpmap_fast.operators.base import Operator
from jpmap_fast.operators.blur import Blur
from jpmap_fast.operators.blur_kernels import (
    bicubic_kernel,
    box_kernel,
    gaussian_kernel,
    motion_kernel,
)
from jpmap_fast.operators.bound import BoundOperator
from jpmap_fast.operators.composition import Composition
from jpmap_fast.operators.compressed_sensing import CompressedSensing
from jpmap_fast.operators.diagonal import Denoising, Inpainting
from jpmap_fast.operators.linear import LinearOperator
from jpmap_fast.operators.matrix_free import MatrixFree
from jpmap_fast.operators.stack import Stack
from jpmap_fast.operators.structured import StructuredSensing
from jpmap_fast.operators.super_resolution import SuperResolution

__all__ = [
    "Blur",
    "BoundOperator",
    "Composition",
    "CompressedSensing",
    "Denoising",
    "Inpainting",
    "LinearOperator",
    "MatrixFree",
    "Operator",
    "Stack",
    "StructuredSensing",
    "SuperResolution",
    "bicubic_kernel",
    "box_kernel",
    "gaussian_kernel",
    "motion_kernel",
]
