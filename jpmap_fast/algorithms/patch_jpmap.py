"""Joint MAP of a picture and the codes of all its overlapping patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from jpmap_fast.algorithms.encoder_continuation import EncoderContinuation
from jpmap_fast.algorithms.encoder_schedule import Levels, patch_levels_of
from jpmap_fast.operators.base import Operator


@dataclass(frozen=True, eq=False)
class PatchJPMAP(EncoderContinuation):
    r"""Joint MAP with a prior of patches, such as ``load_prior("patches")``. The objective is

        J(x, {z_i}) = ||A x - y||^2 / (2 sigma^2) + beta'/2 sum_i ||P_i x - G(z_i)||^2
                      + sum_i R(z_i),

    over all overlapping patches P_i x of p x p pixels. Every pixel is in p^2 of them, so that its
    x-update is exact with beta = p^2 beta' and the mean of the G(z_i) over each pixel:

        x <- argmin_x ||A x - y||^2 / (2 sigma^2) + beta/2 ||x - mean_i G(z_i)||^2.

    The z-step is the encoder's, as minimising R leaves a share of the noise in every patch: G(z_i)
    is the estimate of P_i x as a patch with noise of level s, for a mixture of Gaussians its exact
    posterior mean, and that average is ``prior.autoencode(x, s)``. With beta = weight / s^2 and s
    falling this is ``EncoderContinuation``, whose loop it is; what it promises holds here.
    s_1 is never below sigma.

    Args:
        steps, first, last: as there, from a table for these priors where None.
        weight: as there, a number or one an image, from the table where None.

    Raises:
        ValueError, TypeError: as there.

    Source: arXiv 2103.01648, Algorithms 2.1 and 2.4, by patches; D. Zoran, Y. Weiss, "From learning
    models of natural image patches to whole image restoration", ICCV 2011, whose beta of 1, 4, 8,
    16, 32 over sigma^2 are steps 5, last 1/sqrt(32), weight about 1/4, but for the last x-update.
    """

    _name: ClassVar[str] = "patch-jpmap"
    _prior: ClassVar[str] = "patches"

    def _levels(self, operator: Operator) -> Levels:
        return patch_levels_of(operator)

    def _begin(self, end: Tensor, sigma: Tensor) -> Tensor:
        assert self.first is not None
        return torch.maximum(end, sigma).clamp(min=self.first)
