"""A model of the residual x - G(z), by its name or as an object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from jpmap_fast.residuals.covariance import ResidualCovariance
from jpmap_fast.residuals.grey_value import GreyValueVariance

Residual: TypeAlias = ResidualCovariance | GreyValueVariance

# The name of the model of the paper, p(x|z) = N(G(z), gamma^2 I), which every prior has.
WHITE = "white"


def checked_residual(
    residual: str | Residual | None, carried: Mapping[str, Residual]
) -> Residual | None:
    """A residual model of itself or of its name; None for the white one.

    Args:
        residual: what a caller gave; None for "white".
        carried: the models that the prior carries, by name.

    Raises:
        ValueError: a name that the prior does not carry, or one that it must not. TypeError:
            neither a name nor a model.
    """
    if WHITE in carried:
        raise ValueError(
            f"prior.residuals: expected other names than {WHITE!r}, which is that of the paper's "
            "model, got a model of that name"
        )
    if residual is None or (isinstance(residual, str) and residual == WHITE):
        return None
    if isinstance(residual, str):
        if residual not in carried:
            known = ", ".join(repr(name) for name in (WHITE, *sorted(carried)))
            raise ValueError(
                f"residual: expected one of {known}, which this prior carries, got {residual!r}; "
                "fit_residuals(prior, images) adds the others"
            )
        return carried[residual]
    if not isinstance(residual, (ResidualCovariance, GreyValueVariance)):
        raise TypeError(
            "residual: expected a name, a ResidualCovariance or a GreyValueVariance, got "
            f"{type(residual).__name__}"
        )
    return residual


def residuals_of(prior: Any) -> Mapping[str, Residual]:
    """The models that a prior carries beside the white one: its ``residuals``, {} without."""
    carried = getattr(prior, "residuals", None)
    return carried if isinstance(carried, Mapping) else {}
