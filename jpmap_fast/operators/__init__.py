"""Measurement operators."""

from jpmap_fast.operators.base import Operator
from jpmap_fast.operators.compressed_sensing import CompressedSensing
from jpmap_fast.operators.diagonal import Denoising, Inpainting
from jpmap_fast.operators.linear import LinearOperator

__all__ = ["CompressedSensing", "Denoising", "Inpainting", "LinearOperator", "Operator"]
