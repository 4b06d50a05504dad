"""How pictures differ from what a decoder gives: truer models of p(x|z) than equal noise."""

from jpmap_fast.residuals.base import WHITE, Residual, checked_residual, residuals_of
from jpmap_fast.residuals.covariance import Covariance, ResidualCovariance
from jpmap_fast.residuals.grey_value import GreyValueVariance

__all__ = [
    "WHITE",
    "Covariance",
    "GreyValueVariance",
    "Residual",
    "ResidualCovariance",
    "checked_residual",
    "residuals_of",
]
