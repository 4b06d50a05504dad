"""The noise level that a physics carries."""

from __future__ import annotations

from typing import Any

import torch
from deepinv.physics import GaussianNoise, Physics, StackedPhysics, ZeroNoise
from torch import Tensor


def noise_level(physics: Physics) -> Tensor:
    """Standard deviation of the noise of a physics, ``physics.noise_model.sigma``.

    Args:
        physics: one whose noise is ``deepinv.physics.GaussianNoise``.

    Returns:
        sigma > 0 in the units of y: a number [], or one an image [B].

    Raises:
        ValueError: another noise model or none, a sigma that is not finite and > 0 or that varies
            within an image, or stacked physics, whose members have noise models of their own.
    """
    if isinstance(physics, StackedPhysics):
        raise ValueError(
            "physics: expected one noise model, got stacked physics; ask its members, or restore "
            "with sigma=None, which weighs each by its own level"
        )
    return member_levels(physics)[0]


def member_levels(physics: Physics) -> list[Tensor]:
    """``noise_level`` of every member of stacked physics, of the physics itself otherwise."""
    if isinstance(physics, StackedPhysics):
        return [_level(member) for member in physics.physics_list]
    return [_level(physics)]


def _level(physics: Physics) -> Tensor:
    model = getattr(physics, "noise_model", None)
    advice = "pass sigma=, the standard deviation of the noise, to restore"
    if model is None or isinstance(model, ZeroNoise):
        raise ValueError(f"physics: expected GaussianNoise, got {_name(physics)} without; {advice}")
    if not isinstance(model, GaussianNoise):
        raise ValueError(
            f"physics: expected GaussianNoise, got {_name(model)}, for which J1 does not stand; "
            f"{advice} where a Gaussian comes near"
        )
    # A physics of complex dtype makes its sigma complex as well.
    sigma = torch.as_tensor(model.sigma).detach().real
    if sigma.numel() != 1 and sigma.numel() != sigma.shape[0]:
        raise ValueError(
            "physics.noise_model.sigma: expected a number or one an image, got shape "
            f"{list(sigma.shape)}; {advice}"
        )
    sigma = sigma.reshape(()) if sigma.numel() == 1 else sigma.reshape(-1)
    if not bool((torch.isfinite(sigma) & (sigma > 0)).all()):
        raise ValueError(
            f"physics.noise_model.sigma: expected finite values > 0, got {sigma.tolist()}; {advice}"
        )
    return sigma


def _name(module: Any) -> str:
    return type(module).__name__
