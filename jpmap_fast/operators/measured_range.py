r"""Whether measurements can be those of images with values in [0, 1].

Images of 0..255 or of -1..1 would be restored without a word and wrongly. Three clear cases are
refused, and nothing that noise may do, be sigma right, far too small or somewhat too large:

*   Too large. For x in [0, 1]^n the norm of A x is at most R, and with |v|^2 <= m + 10 sqrt(m) + 50
    and <A x, v> >= -7 ||A x|| of standard normal v, each missed once in 10^11 times,

        ||y||^2 <= (R + 7 sigma)^2 + sigma^2 (m + 10 sqrt(m) + 50).

    Refused is what would exceed this even with 3 R in place of R. Where nothing was observed, y
    does not count.
*   Negative. Where measurements are images and no pixel of A x is below -q, the mean of c pixels,
    of a block or of the whole, is refused below -(q + 0.3 p + 8 s / sqrt(c)): p is the greatest
    pixel of A x, and s the greater of sigma and the deviation among the c pixels.
*   Quiet. sigma > 2.5 means a noise that hides the image, as 10 does in place of 10 / 255; refused
    where the root mean square of y is below sigma / 3, which such noise alone exceeds.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from jpmap_fast._arrays import SCALE_HINT

BEYOND = 3.0  # times the largest norm of A x
BLOCK = 8  # pixels a side of a block whose mean is looked at
DEPTH = 0.3  # of the range of A x, below which a mean is clearly negative
FEWEST = 16  # entries that tell something of their distribution
LOUD = 2.5  # sigma from which on the noise is asked for


def check_values(
    y: Tensor,  # [B, ...]
    sigma: Tensor,  # [B]
    reach: Tensor,  # [B]
    row_sums: tuple[float, float] | None,
    seen: Tensor | None,  # as y, or one image's
) -> None:
    """Raise ValueError where y is none of images in [0, 1].

    Args:
        y: measurements [B, ...]; images with NaN or infinity are passed over.
        sigma: noise deviations [B].
        reach: R, the largest norm of A x [B]; inf where it is not known.
        row_sums: greatest sum of the positive, and of the negative entries of a row of A.
        seen: booleans, where something was observed; None for everywhere.
    """
    finite = torch.isfinite(y.flatten(1)).all(dim=1)
    observed = torch.ones_like(y, dtype=torch.bool) if seen is None else seen.expand_as(y)
    observed = observed & finite.reshape(-1, *[1] * (y.dim() - 1))
    rows = torch.where(observed, y, 0).double()
    sigma, reach = sigma.double(), reach.double()
    power = rows.flatten(1).square().sum(dim=1)
    entries = observed.flatten(1).sum(dim=1)

    noise = sigma.square() * (entries + 10 * entries.sqrt() + 50)
    _refuse(
        rows,
        power > (BEYOND * reach + 7 * sigma).square() + noise,
        f"{SCALE_HINT}, and sigma with them",
    )
    if row_sums is not None and y.dim() == 4:
        _refuse(
            rows,
            _negative(rows, observed.double(), sigma, *row_sums),
            "bring [-1, 1] into it by (y + 1) / 2, with sigma / 2, or add what was subtracted",
        )


def check_noise(y: Tensor, sigma: Tensor) -> None:
    """Raise ValueError where y has nothing of a noise of deviation sigma [B]."""
    rows = y.flatten(1).nan_to_num(0, 0, 0).double()
    power, sigma = rows.square().sum(dim=1), sigma.double()
    noisy = (rows != 0).sum(dim=1)
    quiet = (sigma > LOUD) & (noisy >= FEWEST) & (power < noisy * (sigma / 3).square())
    if bool(quiet.any()):
        image = int(quiet.nonzero()[0])
        raise ValueError(
            f"sigma: expected the deviation of the noise in the units of y, got "
            f"{float(sigma[image]):g} for image {image}, whose values have a root mean square of "
            f"{float((power[image] / noisy[image]).sqrt()):.3g}; {SCALE_HINT}, and sigma with them"
        )


def _negative(
    rows: Tensor, observed: Tensor, sigma: Tensor, positive: float, negative: float
) -> Tensor:
    """Which images [B] have a block of negative mean."""
    bad = torch.zeros_like(sigma, dtype=torch.bool)
    if 0 in rows.shape:
        return bad
    height, width = rows.shape[-2:]
    for size in ((min(BLOCK, height), min(BLOCK, width)), (height, width)):
        stride = tuple(max(1, side // 2) for side in size)
        pixels = size[0] * size[1]
        count = F.avg_pool2d(observed, size, stride) * pixels
        weight = pixels / count.clamp_min(1)
        mean = F.avg_pool2d(rows, size, stride) * weight
        square = F.avg_pool2d(rows.square(), size, stride) * weight
        spread = (square - mean.square()).clamp_min(0).sqrt()
        deviation = torch.maximum(sigma.reshape(-1, 1, 1, 1), spread)
        depth = negative + DEPTH * positive + 8 * deviation / count.clamp_min(1).sqrt()
        bad = bad | ((count >= FEWEST) & (mean < -depth)).flatten(1).any(dim=1)
    return bad


def _refuse(rows: Tensor, bad: Tensor, advice: str) -> None:
    if bool(bad.any()):
        image = int(bad.nonzero()[0])
        low, high = rows[image].min(), rows[image].max()
        raise ValueError(
            "y: expected measurements of images with pixel values in [0, 1], got values from "
            f"{float(low):g} to {float(high):g} in image {image}; {advice}"
        )
