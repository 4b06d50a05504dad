"""Generative priors: the protocol, the networks, their weights, and decoders with derivatives."""

from jpmap_fast._hub import pinned_name
from jpmap_fast.priors.base import ModulePrior, Prior
from jpmap_fast.priors.conv_vae import ConvVAE
from jpmap_fast.priors.decoder_base import Decoder
from jpmap_fast.priors.hierarchical_prior import HierarchicalPhotoPrior
from jpmap_fast.priors.load import available_priors, load_prior
from jpmap_fast.priors.mlp_decoder import MLPDecoder
from jpmap_fast.priors.mlp_vae import MLPVAE
from jpmap_fast.priors.patch_mixture import PatchMixture
from jpmap_fast.priors.patch_prior import PatchPrior
from jpmap_fast.priors.photo_prior import PhotoPrior
from jpmap_fast.priors.weights import save_prior

__all__ = [
    "MLPVAE",
    "ConvVAE",
    "Decoder",
    "HierarchicalPhotoPrior",
    "MLPDecoder",
    "ModulePrior",
    "PatchMixture",
    "PatchPrior",
    "PhotoPrior",
    "Prior",
    "available_priors",
    "load_prior",
    "pinned_name",
    "save_prior",
]
