"""Priors for pictures of any size that know their patches."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jpmap_fast._surroundings import full_precision
from jpmap_fast.priors.any_size import AnySizePrior
from jpmap_fast.priors.base import Prior
from jpmap_fast.priors.overlapping import average_of_patches
from jpmap_fast.priors.patch_mixture import PatchMixture
from jpmap_fast.priors.protocol import has_codes, make_decoder, make_encoder
from jpmap_fast.priors.vae import VAE

# Patches of one picture at a time: their products stay in a CPU's caches, or are 0.5 GB.
PATCHES_ON_CPU, PATCHES_ON_GPU = 2**11, 2**16


class PatchPrior(AnySizePrior):
    r"""A prior for pictures of any height and width, made of a prior of patches.

        autoencode(x, s) = mean at each pixel of E(P_i x; s) over all overlapping patches P_i x,

    E the estimate of a patch with noise of level s: of a ``PatchMixture`` its exact posterior mean,
    of a prior with codes the decoded mean of its encoder, of one with ``autoencode`` that. Every
    pixel is in exactly p^2 patches, the picture being mirrored at its borders.

    Args:
        patch: a ``PatchMixture``, or a ``Prior`` for images of a fixed shape (C, p, p).
        mean_free: whether ``patch`` knows patches less the mean of their values, which is taken out
            before and put back after: a flat prior of the mean.

    Attributes:
        patch: as given.
        gamma: root mean squared error of ``autoencode`` at s = 25/255.
        image_shape: (C, H, W); None until bound.

    Raises:
        ValueError: patches of no fixed shape, or not square. TypeError: no prior.
    """

    method = "patch-jpmap"

    def __init__(self, patch: PatchMixture | Prior, mean_free: bool = False) -> None:
        super().__init__()
        if not isinstance(patch, (PatchMixture, VAE, Prior)):
            raise TypeError(
                "patch: expected a PatchMixture or a prior with encode and decode, got "
                f"{type(patch).__name__}"
            )
        if not isinstance(mean_free, bool):
            raise TypeError(f"mean_free: expected True or False, got {mean_free!r}")
        shape = patch.image_shape
        if shape is None or len(shape) != 3 or shape[1] != shape[2]:
            raise ValueError(
                f"patch: expected a prior for square patches (C, p, p), got one for "
                f"{'any size' if shape is None else tuple(shape)}"
            )
        self.patch = patch
        self.mean_free = mean_free

    @property
    def channels(self) -> int:
        """1 for grey pictures, 3 for colour."""
        return int(self._patch_shape[0])

    @property
    def settings(self) -> dict[str, Any]:
        """How to make it: the patches' class and settings, and ``mean_free``.

        Raises:
            ValueError: a prior of patches that cannot be written to a file.
        """
        kind, settings = type(self.patch).__name__, getattr(self.patch, "settings", None)
        if not isinstance(settings, dict):
            raise ValueError(
                "patch: expected a PatchMixture, an MLPVAE or a ConvVAE to be written, got "
                f"{kind}; keep it as your code makes it"
            )
        return {"patch": kind, "settings": settings, "mean_free": self.mean_free}

    @property
    def _patch_shape(self) -> tuple[int, ...]:
        shape = self.patch.image_shape
        assert shape is not None
        return tuple(shape)

    def autoencode(self, x: Tensor, s: Tensor) -> Tensor:
        """Pictures of pictures [B, C, H, W] with noise of level s [B]: see the class.

        Args:
            x: values about [0, 1].
            s: noise levels >= 0, in the units of x. A prior with codes is not told.
        """
        # One at a time on a CPU, where a picture then has the bits that it has alone.
        size, most = self._patch_shape[-1], PATCHES_ON_GPU if x.is_cuda else PATCHES_ON_CPU
        places = math.prod(length + size - 1 for length in x.shape[2:])
        several = max(1, most // places) if x.is_cuda else 1
        with torch.no_grad(), full_precision():
            parts = [
                average_of_patches(self._estimator(part, levels), part, size, most)
                for part, levels in zip(x.split(several), s.split(several), strict=True)
            ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _estimator(self, x: Tensor, s: Tensor) -> Callable[[Tensor], Tensor]:
        """Estimates of patches [B, C p p, N] of pictures with noise s."""
        patch = self.patch
        estimate: Callable[[Tensor], Tensor]
        if isinstance(patch, PatchMixture):
            estimate = patch.estimator(s, x)
        else:
            estimate = _of_images(patch, s, x)
        return _without_mean(estimate) if self.mean_free else estimate


def _of_images(patch: Prior, s: Tensor, like: Tensor) -> Callable[[Tensor], Tensor]:
    """The estimate by a prior of images that are patches."""
    told: Callable[[Tensor, Tensor], Tensor] | None = None
    if has_codes(patch):
        encode, decode = make_encoder(patch, like[:0]), make_decoder(patch, like[:0]).value
    else:
        told = patch.autoencode  # type: ignore[attr-defined]
    shape = tuple(patch.image_shape or ())

    def estimate(patches: Tensor) -> Tensor:
        batch, size, number = patches.shape
        images = patches.mT.reshape(batch * number, *shape)
        if told is None:
            found = decode(encode(images))
        else:
            found = told(images, s.repeat_interleave(number))
        return found.reshape(batch, number, size).mT

    return estimate


def _without_mean(estimate: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def of_whole(patches: Tensor) -> Tensor:
        mean = patches.mean(dim=1, keepdim=True)
        return estimate(patches - mean) + mean

    return of_whole
