"""What is said of a sample of images: means, medians, intervals, who wins how often."""

from __future__ import annotations

import torch
from torch import Tensor

RESAMPLES = 2000


def bootstrap_interval(values: Tensor, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean.

    Args:
        values: [N], one an image.
        level: coverage in (0, 1).
        seed: of the resampling.

    Source: B. Efron, R. Tibshirani, "An introduction to the bootstrap", 1993, section 13.3.
    """
    sample = values.detach().cpu().double()
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(len(sample), (RESAMPLES, len(sample)), generator=generator)
    means = sample[index].mean(dim=1)
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.quantile(means, tails).tolist()
    return low, high


def win_rate(mine: Tensor, theirs: Tensor) -> float:
    """Share of the images on which ``mine`` is greater; a tie counts half. [N] each."""
    a, b = mine.detach().cpu().double(), theirs.detach().cpu().double()
    return float(((a > b).double() + 0.5 * (a == b).double()).mean())


def share_within(objective: Tensor, best: Tensor, relative: float = 1e-3) -> float:
    """Share of the images whose objective is at most (1 + relative) times the best. [N] each."""
    a, b = objective.detach().cpu().double(), best.detach().cpu().double()
    return float((a <= b * (1 + relative)).double().mean())
