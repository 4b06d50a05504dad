"""Denoisers with a known Lipschitz constant, for plug-and-play methods."""

from jpmap_fast.denoisers.lipschitz import LipschitzDenoiser
from jpmap_fast.denoisers.load import available_denoisers, load_denoiser
from jpmap_fast.denoisers.spectral_norm import convolution_norm, convolution_norm_bound
from jpmap_fast.denoisers.weights import save_denoiser

__all__ = [
    "LipschitzDenoiser",
    "available_denoisers",
    "convolution_norm",
    "convolution_norm_bound",
    "load_denoiser",
    "save_denoiser",
]
