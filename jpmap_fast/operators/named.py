"""The operators of the package by name, and what each is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jpmap_fast._masks import random_masks
from jpmap_fast._messages import FieldError
from jpmap_fast.data.arrays import read_array
from jpmap_fast.data.marks import load_mask
from jpmap_fast.operators.base import Operator
from jpmap_fast.operators.blur import Blur
from jpmap_fast.operators.boundary import BOUNDARIES
from jpmap_fast.operators.compressed_sensing import CompressedSensing
from jpmap_fast.operators.diagonal import Denoising, Inpainting
from jpmap_fast.operators.kernel_texts import NAMED, is_formula, read_kernel
from jpmap_fast.operators.registry import NamedOperator, Option, register
from jpmap_fast.operators.super_resolution import SuperResolution

_Options = Mapping[str, Any]
_Shape = tuple[int, ...]
_Generators = Sequence[torch.Generator]


def read_matrix(path: str | Path) -> Tensor:
    """A [m, n] of an .npy or .npz file, float32."""
    path = Path(path)
    array = read_array(path, None, ("A", "matrix"))
    if array.dtype.kind != "f":
        raise TypeError(f"{path.name}: expected a floating-point matrix, got {array.dtype}")
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _positive(value: int) -> bool:
    return value >= 1


_MASK = Option(
    "mask",
    Path,
    "a picture (white = observed), or .npy or .npz (1 = observed).",
    read=load_mask,
)
_MISSING = Option(
    "missing",
    float,
    "fraction of pixels to hide",
    accepts=lambda value: 0 <= value < 1,
    expected="a fraction in [0, 1)",
    draws="mask",
    of_each=True,
)
_MATRIX = Option("matrix", Path, "A [m, n], .npy or .npz.", read=read_matrix)
_MEASUREMENTS = Option(
    "measurements",
    int,
    "rows of a random matrix",
    accepts=_positive,
    expected="at least 1",
    draws="matrix",
)
_KERNEL_HELP = (
    "gaussian:SIGMA, box:SIZE, motion:LENGTH:ANGLE, a picture (over its sum), or .npy or .npz. "
    "For super-resolution also box, the mean of each block, or bicubic, as picture programs reduce."
)
_KERNEL = Option(
    "kernel", str, _KERNEL_HELP, read=read_kernel, formula=is_formula, metavar="KERNEL"
)
_BOUNDARY = Option(
    "boundary",
    str,
    "what the picture is beyond its border: circular, zero, reflect, replicate, or valid, if only "
    "what needs nothing from beyond was measured. A photograph's blur is none of these exactly; "
    "replicate comes close.",
    default="circular",
    choices=BOUNDARIES,
)
_FACTOR = Option(
    "factor",
    int,
    "one pixel of FACTOR x FACTOR is kept; without --kernel, their mean.",
    accepts=_positive,
    expected="at least 1",
)


def _denoising(options: _Options, shape: _Shape, generators: _Generators) -> Operator:
    return Denoising()


def _inpainting(options: _Options, shape: _Shape, generators: _Generators) -> Operator:
    if "missing" in options:
        masks = [random_masks(1, shape, options["missing"], draws) for draws in generators]
        return Inpainting(torch.cat(masks))
    return Inpainting(options["mask"])


def _compressed_sensing(options: _Options, shape: _Shape, generators: _Generators) -> Operator:
    if "measurements" in options:
        return CompressedSensing.gaussian(options["measurements"], shape, generators[0])
    return CompressedSensing(options["matrix"], shape)


def _blur(options: _Options, shape: _Shape, generators: _Generators) -> Operator:
    return Blur(options["kernel"], options["boundary"])


def _super_resolution(options: _Options, shape: _Shape, generators: _Generators) -> Operator:
    return SuperResolution(options["factor"], options.get("kernel"))


def _no_named_kernel(options: _Options) -> None:
    if options.get("kernel") in NAMED:
        raise FieldError(
            "{kernel} {got}: only for {operator} super-resolution, whose factor it takes its size "
            "from",
            {"got": options["kernel"]},
        )


register(NamedOperator("denoising", "y = x + noise", _denoising))
register(
    NamedOperator(
        "inpainting",
        "y = mask x + noise",
        _inpainting,
        (_MASK, _MISSING),
        required=("mask",),
        arrays=lambda operator: {"mask": operator.mask},
    )
)
register(
    NamedOperator(
        "compressed-sensing",
        "y = A x + noise, A a dense matrix",
        _compressed_sensing,
        (_MATRIX, _MEASUREMENTS),
        required=("matrix",),
        arrays=lambda operator: {"A": operator.matrix},
        vectors=True,
    )
)
register(
    NamedOperator(
        "blur",
        "y = kernel * x + noise",
        _blur,
        (_KERNEL, _BOUNDARY),
        required=("kernel",),
        arrays=lambda operator: {"kernel": operator.kernel},
        check=_no_named_kernel,
    )
)
register(
    NamedOperator(
        "super-resolution",
        "y = every FACTOR-th pixel of kernel * x, + noise",
        _super_resolution,
        (_KERNEL, _FACTOR),
        required=("factor",),
        arrays=lambda operator: {"kernel": operator.kernel},
    )
)
