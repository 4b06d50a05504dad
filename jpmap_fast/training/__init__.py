"""Training of priors."""

from jpmap_fast.training.evaluation import reconstruction_psnr
from jpmap_fast.training.mixture import fit_mixture
from jpmap_fast.training.patch_trainer import train_patches
from jpmap_fast.training.photo_evaluation import denoising_psnr
from jpmap_fast.training.photo_step import PhotoRecipe
from jpmap_fast.training.photo_trainer import train_photos
from jpmap_fast.training.recipe import Recipe
from jpmap_fast.training.trainer import train

__all__ = [
    "PhotoRecipe",
    "Recipe",
    "denoising_psnr",
    "fit_mixture",
    "reconstruction_psnr",
    "train",
    "train_patches",
    "train_photos",
]
