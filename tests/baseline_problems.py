"""Small problems, a mixture and a network for the methods that a prior is compared with."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn

import jpmap_fast as jf

deepinv = pytest.importorskip("deepinv")


from jpmap_fast.experiments.baselines import (  # noqa: E402
    fit_mixture,
)
from jpmap_fast.experiments.baselines.network import build_network  # noqa: E402
from jpmap_fast.priors.overlapping import extract_patches  # noqa: E402


def shape_only(*shape: int, dtype: torch.dtype = torch.float32) -> jf.ModulePrior:
    """A prior that gives shape and precision, and fails when it is asked for anything else."""

    class Nothing(nn.Module):
        def __init__(self):
            super().__init__()
            self.blank = nn.Parameter(torch.zeros(1, dtype=dtype), requires_grad=False)

        def forward(self, value):
            raise AssertionError("a method in pixel space asked the prior")

    return jf.ModulePrior(Nothing(), Nothing(), 1.0, 2, shape)


def smooth_images(number: int, *shape: int, seed: int = 0) -> torch.Tensor:
    """Random images with large uniform parts, in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(number, shape[0], 4, 4, generator=generator)
    return torch.nn.functional.interpolate(draws, size=shape[1:], mode="nearest")


def digits_problem(number: int, name: str = "inpainting"):
    """Digits, the operator of a degradation and measurements."""
    from jpmap_fast._problems import make_problem
    from jpmap_fast.experiments.digit_images import digits

    return make_problem(name, digits(number), torch.Generator().manual_seed(0), torch.device("cpu"))


@cache
def patch_mixture():
    """A mixture of patches of 5 x 5 pixels of smooth images, in double precision."""
    patches = extract_patches(smooth_images(40, 1, 24, 24, seed=5), 5).mT.flatten(0, 1).double()
    found, _ = fit_mixture(
        patches, 6, iterations=8, floor=1e-4, generator=torch.Generator().manual_seed(0)
    )
    return found


@cache
def untrained_network():
    """An untrained network whose normalisation is not the identity."""
    torch.manual_seed(0)
    network = build_network(1, (4, 6))
    network.train()
    network(torch.rand(8, 1, 12, 12))
    return network.requires_grad_(False).eval()
