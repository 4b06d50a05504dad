"""Training of priors."""

from jpmap_fast.training.evaluation import reconstruction_psnr
from jpmap_fast.training.recipe import Recipe
from jpmap_fast.training.trainer import train

__all__ = ["Recipe", "reconstruction_psnr", "train"]
