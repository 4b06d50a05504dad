"""Random masks, to simulate missing pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from jpmap_fast._surroundings import steady
from jpmap_fast._validate import count as check_count
from jpmap_fast._validate import counts, number


@steady
def random_masks(
    count: int,
    image_shape: Sequence[int],
    missing: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One mask an image, 1 = observed: each pixel is missing with the given probability.

    A pixel is missing in all its channels at once.

    Args:
        count: number of masks, >= 1.
        image_shape: (C, H, W).
        missing: probability in [0, 1).
        generator: source of the draws; torch's default generator if None.

    Returns:
        [count, 1, H, W] float32 of zeros and ones.

    Raises:
        ValueError: missing or count is out of range. TypeError: not numbers.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> random_masks(2, (1, 28, 28), 0.8, generator).shape
        torch.Size([2, 1, 28, 28])
    """
    count = check_count("count", count, 1)
    image_shape = counts("image_shape", image_shape, 1)
    if not 0 <= number("missing", missing, finite=False) < 1:
        raise ValueError(f"missing: expected a fraction in [0, 1), got {missing}")
    device = None if generator is None else generator.device
    height, width = image_shape[-2:]
    draws = torch.rand(
        count, 1, height, width, generator=generator, device=device, dtype=torch.float32
    )
    return (draws >= missing).float()
