"""Generative priors: the protocol, the networks, their weights."""

from jpmap_fast.priors.base import ModulePrior, Prior
from jpmap_fast.priors.conv_vae import ConvVAE
from jpmap_fast.priors.load import available_priors, load_prior
from jpmap_fast.priors.mlp_vae import MLPVAE
from jpmap_fast.priors.weights import save_prior

__all__ = [
    "MLPVAE",
    "ConvVAE",
    "ModulePrior",
    "Prior",
    "available_priors",
    "load_prior",
    "save_prior",
]
