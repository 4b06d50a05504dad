"""Image restoration with generative priors: joint posterior maximisation, fast.

``restore(y, operator, prior, sigma)`` is where to start.
"""

import jpmap_fast._extension  # noqa: F401  (registers the compiled operators)
from jpmap_fast._extension import build_info
from jpmap_fast.algorithms import (
    CSGM,
    JPMAP,
    AlternateConvexSearch,
    History,
    MAPz,
    MAPzSplitting,
)
from jpmap_fast.data.digits import mnist_test_digits
from jpmap_fast.operators import CompressedSensing, Denoising, Inpainting, LinearOperator, Operator
from jpmap_fast.priors import MLPVAE, ModulePrior, Prior, available_priors, load_prior
from jpmap_fast.restore import restore
from jpmap_fast.restorer import Restoration, Restorer
from jpmap_fast.result import Result
from jpmap_fast.solvers import Adam, GaussNewton

__version__ = "0.1.0"

__all__ = [
    "CSGM",
    "JPMAP",
    "MLPVAE",
    "Adam",
    "AlternateConvexSearch",
    "CompressedSensing",
    "Denoising",
    "GaussNewton",
    "History",
    "Inpainting",
    "LinearOperator",
    "MAPz",
    "MAPzSplitting",
    "ModulePrior",
    "Operator",
    "Prior",
    "Restoration",
    "Restorer",
    "Result",
    "available_priors",
    "build_info",
    "load_prior",
    "mnist_test_digits",
    "restore",
]
