"""Residual models as tensors and numbers, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from jpmap_fast.residuals.base import Residual
from jpmap_fast.residuals.covariance import ResidualCovariance
from jpmap_fast.residuals.grey_value import GreyValueVariance

# Of the names of their tensors in a file of weights: PREFIX + the model's name + "." + which.
PREFIX = "residual."


def packed(residuals: Mapping[str, Residual]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by their names in a file, and the numbers of laws by the names of their models."""
    tensors, laws = {}, {}
    for name, model in residuals.items():
        if isinstance(model, GreyValueVariance):
            laws[name] = {"floor": model.floor, "slope": model.slope}
            continue
        # Deviations, which half precision holds better than variances.
        tensors[f"{PREFIX}{name}.deviation"] = model.diagonal.sqrt()
        if model.factor is not None:
            tensors[f"{PREFIX}{name}.factor"] = model.factor
    return tensors, laws


def check_pixels(residuals: Mapping[str, Residual], pixels: int) -> None:
    """Raise ValueError unless the covariances are of images of so many pixels."""
    for name, model in residuals.items():
        if isinstance(model, ResidualCovariance) and len(model.diagonal) != pixels:
            raise ValueError(
                f"residual {name!r}: expected a covariance of {pixels} pixels, as many as the "
                f"prior's images have, got one of {len(model.diagonal)}"
            )


def unpacked(tensors: Mapping[str, Tensor], laws: Mapping[str, Any]) -> dict[str, Residual]:
    """The models of ``packed``.

    Raises:
        ValueError, TypeError: shapes or values of no model.
    """
    residuals: dict[str, Residual] = {}
    for name, law in laws.items():
        residuals[name] = GreyValueVariance(**law)
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, part = key.removeprefix(PREFIX).rpartition(".")
        parts.setdefault(name, {})[part] = value.float()
    for name, held in parts.items():
        if not name or "deviation" not in held or not set(held) <= {"deviation", "factor"}:
            raise ValueError(f"residual {name!r}: expected its deviation, got {sorted(held)}")
        residuals[name] = ResidualCovariance(held["deviation"].square(), held.get("factor"))
    return residuals
