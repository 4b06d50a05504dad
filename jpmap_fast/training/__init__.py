"""Training of priors."""

from jpmap_fast.training.evaluation import reconstruction_psnr
from jpmap_fast.training.hierarchical import (
    HierarchicalRecipe,
    train_hierarchical_photos,
)
from jpmap_fast.training.mixture import fit_mixture
from jpmap_fast.training.patch_trainer import train_patches
from jpmap_fast.training.photo_evaluation import denoising_psnr
from jpmap_fast.training.photo_recipe import PhotoRecipe
from jpmap_fast.training.photo_trainer import train_photos
from jpmap_fast.training.recipe import Recipe
from jpmap_fast.training.second_stage import train_second_stage
from jpmap_fast.training.trainer import train

__all__ = [
    "HierarchicalRecipe",
    "PhotoRecipe",
    "Recipe",
    "denoising_psnr",
    "fit_mixture",
    "reconstruction_psnr",
    "train",
    "train_hierarchical_photos",
    "train_patches",
    "train_photos",
    "train_second_stage",
]
