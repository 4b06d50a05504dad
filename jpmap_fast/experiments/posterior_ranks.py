"""Ranks of truths among posterior draws, and how probable their histograms are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from jpmap_fast._prepared import prepare
from jpmap_fast.operators import Operator
from jpmap_fast.priors.base import Prior
from jpmap_fast.sampling import Posterior
from jpmap_fast.sampling.model import Model

# Draws of each truth, whose rank is 0..99, and bins of a histogram of ranks.
DRAWS, BINS = 99, 20
# What a sampler without its weights is found out by.
TELLING = ("log density", "|z|", "z1", "z2")


def chi_square_p(ranks: Tensor) -> float:
    """How probable so uneven a histogram of ranks in 0..99 is."""
    counts = histogram(ranks)
    expected = counts.sum() / BINS
    value = ((counts - expected) ** 2 / expected).sum()
    return float(torch.special.gammaincc(torch.tensor((BINS - 1) / 2).double(), value / 2))


def histogram(ranks: Tensor) -> Tensor:
    """Counts of ranks by bin [BINS] float64."""
    return torch.bincount(ranks * BINS // (DRAWS + 1), minlength=BINS).double()


def ranks(
    z: Tensor, x: Tensor, mean: Tensor, truth_z: Tensor, truth_x: Tensor, model: Model
) -> dict[str, Tensor]:
    """Ranks of the truths among draws, one an image.

    Args:
        z, x: draws [B, DRAWS, k] and [B, DRAWS, C, H, W].
        mean: [B, C, H, W].
        truth_z, truth_x: [B, k] and [B, C, H, W].
        model: of the measurements.
    """

    def rank(draws: Tensor, truth: Tensor) -> Tensor:
        return (draws < truth[:, None]).sum(dim=1)

    found = {f"z{i + 1}": rank(z[..., i], truth_z[:, i]) for i in range(z.shape[2])}
    both = torch.cat((truth_z[:, None], z), dim=1).double()
    density = model.log_joint(both)
    found["log density"] = rank(density[:, 1:], density[:, 0])
    found["|z|"] = rank(z.norm(dim=-1), truth_z.norm(dim=-1))
    flat, truth, centre = x.flatten(2), truth_x.flatten(1), mean.flatten(1)
    middle = truth.shape[1] // 2 + truth_x.shape[-1] // 2
    found["centre pixel"] = rank(flat[..., middle], truth[:, middle])
    found["mean of x"] = rank(flat.mean(dim=-1), truth.mean(dim=-1))
    found["||x - mean||"] = rank(
        (flat - centre[:, None]).norm(dim=-1), (truth - centre).norm(dim=-1)
    )
    return found


def all_ranks(
    found: Posterior,
    truth_z: Tensor,
    truth_x: Tensor,
    problem: tuple[Tensor, Operator, Prior, Any],
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """``ranks`` of a posterior, and as "bare ..." those of its codes with the weights left out.

    Args:
        found: with ``DRAWS`` draws.
        truth_z, truth_x: what was measured.
        problem: measurements, operator, prior and sigma.
        generator: picks the codes without weights.
    """
    x = found.x
    assert x is not None
    with torch.no_grad():
        model = Model(prepare(*problem).problem)
        told = ranks(found.z, x, found.mean, truth_z, truth_x, model)
        pick = torch.randint(512, (len(truth_z), DRAWS), generator=generator).to(truth_z.device)
        bare = found.codes.gather(1, pick[..., None].expand(-1, -1, truth_z.shape[1]))
        without = ranks(bare, x, found.mean, truth_z, truth_x, model)
    return told | {f"bare {name}": without[name] for name in TELLING}
