"""Draws of what measurements may have been: p(z | y) by weighted draws, p(x | z, y) exactly."""

from jpmap_fast.sampling._sample import DEFAULT_METHOD, METHODS, as_method, sample, with_codes
from jpmap_fast.sampling._sampler import Sampler
from jpmap_fast.sampling.amis import AMIS
from jpmap_fast.sampling.calibration import Calibration
from jpmap_fast.sampling.conformal import calibrate
from jpmap_fast.sampling.mala import MALA
from jpmap_fast.sampling.method import SamplingMethod
from jpmap_fast.sampling.posterior import Posterior
from jpmap_fast.sampling.smc import SMC

__all__ = [
    "AMIS",
    "DEFAULT_METHOD",
    "MALA",
    "METHODS",
    "SMC",
    "Calibration",
    "Posterior",
    "Sampler",
    "SamplingMethod",
    "as_method",
    "calibrate",
    "sample",
    "with_codes",
]
