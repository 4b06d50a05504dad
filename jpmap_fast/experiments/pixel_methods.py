"""Methods with other priors, with the settings that were chosen for them on training images."""

from __future__ import annotations

import torch

from jpmap_fast.algorithms import Algorithm, PnPADMM
from jpmap_fast.denoisers import load_denoiser
from jpmap_fast.experiments import methods as names
from jpmap_fast.experiments.baselines import (
    EPLL,
    Supervised,
    TotalVariation,
    load_mixture,
    load_network,
)
from jpmap_fast.experiments.baselines.tuned import tuned


def pixel_methods(images: str, problem: str, device: torch.device) -> dict[str, Algorithm]:
    """Plug-and-play ADMM, total variation, EPLL, and the network trained for inpainting.

    Args:
        images: "mnist" or "faces".
        problem: name of the degradation.
        device: where to.
    """
    found: dict[str, Algorithm] = {
        names.PNP: PnPADMM(load_denoiser(images, device), **tuned("pnp-admm", images, problem)),
        names.TV: TotalVariation(**tuned("tv", images, problem)),
        names.EPLL: EPLL(load_mixture(images, device), **tuned("epll", images, problem)),
    }
    if problem == "inpainting":
        found[names.SUPERVISED] = Supervised(load_network(images, device))
    return found
