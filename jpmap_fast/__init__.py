"""Image restoration with generative priors: joint posterior maximisation, fast.

``restore(y, operator, prior, sigma)`` is where to start.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import jpmap_fast.kernels  # noqa: F401  (first: it says what is wrong with torch or the build)
from jpmap_fast._foreign import register_translator as _register_translator
from jpmap_fast._masks import random_masks
from jpmap_fast._metrics import psnr, ssim
from jpmap_fast._noise_level import estimate_sigma
from jpmap_fast._restore import restore
from jpmap_fast._restorer import Restorer
from jpmap_fast._result import Result
from jpmap_fast.algorithms import (
    ADMM,
    CSGM,
    JPMAP,
    AlternateConvexSearch,
    EncoderContinuation,
    HierarchicalJPMAP,
    History,
    LinearisedADMM,
    MAPz,
    MAPzSplitting,
    PatchJPMAP,
    PnPADMM,
    largest_weight,
)
from jpmap_fast.data import (
    load_images,
    load_kernel,
    load_mask,
    mnist_test_digits,
    read_pictures,
)
from jpmap_fast.denoisers import (
    LipschitzDenoiser,
    available_denoisers,
    load_denoiser,
    save_denoiser,
)
from jpmap_fast.kernels import build_info
from jpmap_fast.operators import (
    Blur,
    BoundOperator,
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
    HierarchicalPhotoPrior,
    ModulePrior,
    PatchMixture,
    PatchPrior,
    PhotoPrior,
    Prior,
    available_priors,
    load_prior,
    save_prior,
)
from jpmap_fast.residuals import GreyValueVariance, ResidualCovariance
from jpmap_fast.sampling import AMIS, MALA, SMC, Calibration, Posterior, Sampler, calibrate, sample
from jpmap_fast.solvers import Adam, GaussNewton

if TYPE_CHECKING:
    from jpmap_fast._fit_residuals import fit_residuals as fit_residuals
    from jpmap_fast.deepinv import Reconstructor as Reconstructor
    from jpmap_fast.deepinv import as_operator as as_operator
    from jpmap_fast.training import train as train
    from jpmap_fast.training import train_second_stage as train_second_stage

__version__ = version("jpmap_fast")

__all__ = [
    "AMIS",
    "ADMM",
    "CSGM",
    "JPMAP",
    "MALA",
    "MLPVAE",
    "SMC",
    "Adam",
    "AlternateConvexSearch",
    "Blur",
    "BoundOperator",
    "Calibration",
    "Composition",
    "CompressedSensing",
    "ConvVAE",
    "Denoising",
    "EncoderContinuation",
    "GaussNewton",
    "GreyValueVariance",
    "HierarchicalJPMAP",
    "HierarchicalPhotoPrior",
    "History",
    "Inpainting",
    "LinearOperator",
    "LipschitzDenoiser",
    "LinearisedADMM",
    "MAPz",
    "MAPzSplitting",
    "MatrixFree",
    "ModulePrior",
    "PatchJPMAP",
    "PatchMixture",
    "PatchPrior",
    "PhotoPrior",
    "Operator",
    "PnPADMM",
    "Posterior",
    "Prior",
    "Reconstructor",
    "ResidualCovariance",
    "Restorer",
    "Result",
    "Sampler",
    "Stack",
    "StructuredSensing",
    "SuperResolution",
    "as_operator",
    "available_denoisers",
    "available_priors",
    "bicubic_kernel",
    "box_kernel",
    "build_info",
    "calibrate",
    "estimate_sigma",
    "fit_residuals",
    "gaussian_kernel",
    "largest_weight",
    "load_denoiser",
    "load_images",
    "load_kernel",
    "load_mask",
    "load_prior",
    "mnist_test_digits",
    "motion_kernel",
    "psnr",
    "random_masks",
    "read_pictures",
    "restore",
    "sample",
    "save_denoiser",
    "save_prior",
    "ssim",
    "train",
    "train_second_stage",
]


# Where names are that are imported only when asked for: deepinv takes longer than everything else,
# and restoring needs no training.
_ON_REQUEST = {
    "Reconstructor": "deepinv",
    "as_operator": "deepinv",
    "fit_residuals": "_fit_residuals",
    "train": "training",
    "train_second_stage": "training",
}
# Packages that need no import of their own, by the same way.
_PACKAGES = ("deepinv", "skimage")


# restore(y, physics, prior) without a further import.
_register_translator("deepinv.physics", "Physics", "jpmap_fast.deepinv.translation")


def __getattr__(name: str) -> Any:
    if name == "Restoration":  # what a Restorer returned before it returned a Result
        return Result
    if name in _ON_REQUEST:
        return getattr(importlib.import_module(f"jpmap_fast.{_ON_REQUEST[name]}"), name)
    if name in _PACKAGES:
        return importlib.import_module(f"jpmap_fast.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
