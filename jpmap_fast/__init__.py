"""Image restoration with generative priors: joint posterior maximisation, fast.

``restore(y, operator, prior, sigma)`` is where to start.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import jpmap_fast._extension  # noqa: F401  (registers the compiled operators)
from jpmap_fast._extension import build_info
from jpmap_fast.algorithms import (
    CSGM,
    JPMAP,
    AlternateConvexSearch,
    History,
    MAPz,
    MAPzSplitting,
    PnPADMM,
)
from jpmap_fast.data.digits import mnist_test_digits
from jpmap_fast.denoisers import load_denoiser
from jpmap_fast.operators import (
    Blur,
    Composition,
    CompressedSensing,
    Denoising,
    Inpainting,
    LinearOperator,
    MatrixFree,
    Operator,
    Stack,
    StructuredSensing,
    SuperResolution,
    bicubic_kernel,
    box_kernel,
    gaussian_kernel,
    motion_kernel,
)
from jpmap_fast.priors import (
    MLPVAE,
    ConvVAE,
    ModulePrior,
    Prior,
    available_priors,
    load_prior,
    save_prior,
)
from jpmap_fast.restore import restore
from jpmap_fast.restorer import Restorer
from jpmap_fast.result import Result
from jpmap_fast.solvers import Adam, GaussNewton

if TYPE_CHECKING:
    from jpmap_fast.deepinv import Reconstructor as Reconstructor

__version__ = "0.1.0"

__all__ = [
    "CSGM",
    "JPMAP",
    "MLPVAE",
    "Adam",
    "AlternateConvexSearch",
    "Blur",
    "Composition",
    "CompressedSensing",
    "ConvVAE",
    "Denoising",
    "GaussNewton",
    "History",
    "Inpainting",
    "LinearOperator",
    "MAPz",
    "MAPzSplitting",
    "MatrixFree",
    "ModulePrior",
    "Operator",
    "PnPADMM",
    "Prior",
    "Reconstructor",
    "Restorer",
    "Result",
    "Stack",
    "StructuredSensing",
    "SuperResolution",
    "available_priors",
    "bicubic_kernel",
    "box_kernel",
    "build_info",
    "gaussian_kernel",
    "load_denoiser",
    "load_prior",
    "mnist_test_digits",
    "motion_kernel",
    "restore",
    "save_prior",
]


def __getattr__(name: str) -> Any:
    # Importing deepinv takes longer than everything else: only when it is asked for.
    if name == "Reconstructor":
        return importlib.import_module("jpmap_fast.deepinv").Reconstructor
    if name == "deepinv":
        return importlib.import_module("jpmap_fast.deepinv")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
