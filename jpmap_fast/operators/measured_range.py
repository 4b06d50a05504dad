r"""Whether measurements can be those of images with values in [0, 1].

Images of 0..255 or of -1..1 would be restored without a word and wrongly. Three clear cases are
refused, and nothing that noise may do, be sigma right, far too small or somewhat too large:

*   Too large. For x in [0, 1]^n the norm of A x is at most R, and with |v|^2 <= m + 10 sqrt(m) + 50
    and <A x, v> >= -7 ||A x|| of standard normal v, each missed once in 10^11 times,

        ||y||^2 <= (R + 7 sigma)^2 + sigma^2 (m + 10 sqrt(m) + 50).

    Refused is what would exceed this even with 3 R in place of R and twice the noise; and, where no
    entry of A x is above p, a mean of y above 3 p + 14 sigma / sqrt(m). Where nothing was observed,
    y does not count.
*   Negative. Where measurements are images and no pixel of A x is below -q, the mean of c pixels,
    of a block or of the whole, is refused below -(q + 0.3 p + 8 s / sqrt(c)): p is the greatest
    pixel of A x, and s the greater of sigma and the deviation among the c pixels.
*   Quiet. sigma > 2.5 means a noise that hides the image, as 10 does in place of 10 / 255; refused
    where the root mean square of y is below sigma / 3, which such noise alone exceeds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jpmap_fast._arrays import SCALE_HINT, parts_of

BEYOND = 3.0  # times the largest norm of A x
MISTAKEN = 2.0  # times sigma, which may be told too small
BLOCK = 8  # pixels a side of a block whose mean is looked at
DEPTH = 0.3  # of the range of A x, below which a mean is clearly negative
FEWEST = 16  # entries that tell something of their distribution
LOUD = 2.5  # sigma from which on the noise is asked for


def quiet(y: Tensor, sigma: Tensor) -> Tensor:
    """Where y [B, ...] has nothing of a noise of deviation sigma [B]; booleans [B]."""
    noisy, power = _power(y)
    sigma = sigma.double()
    return (sigma > LOUD) & (noisy >= FEWEST) & (power < noisy * (sigma / 3).square())


def check_noise(y: Tensor, sigma: Tensor) -> None:
    """Raise ValueError where y is ``quiet``; sigma may be on the host."""
    if float(sigma.max()) <= LOUD:
        return
    sigma = sigma.to(y.device)
    bad = quiet(y, sigma)
    if bool(bad.any()):
        image = int(bad.nonzero()[0])
        noisy, power = _power(y)
        raise ValueError(
            f"sigma: expected the deviation of the noise in the units of y, got "
            f"{float(sigma[image]):g} for image {image}, whose values have a root mean square of "
            f"{float((power[image] / noisy[image]).sqrt()):.3g}; {SCALE_HINT}, and sigma with them"
        )


def _power(y: Tensor) -> tuple[Tensor, Tensor]:
    """How many values of each image are not 0, and the sum of their squares."""
    parts = parts_of(y)
    if len(parts) > 1:
        found = [_power(y[part]) for part in parts]
        noisy, power = (torch.cat(values) for values in zip(*found, strict=True))
        return noisy, power
    rows = y.flatten(1).nan_to_num(0, 0, 0).double()
    return (rows != 0).sum(dim=1), rows.square().sum(dim=1)


def check_size(
    y: Tensor, sigma: Tensor, reach: Tensor, top: float | None, seen: Tensor | None
) -> None:
    """Raise ValueError where y is ``too_large``."""
    bad = too_large(y, sigma, reach, top, seen)
    _refuse(y, seen, bad, f"{SCALE_HINT}, and sigma with them")


def too_large(
    y: Tensor, sigma: Tensor, reach: Tensor, top: float | None, seen: Tensor | None
) -> Tensor:
    """Where y is too large; booleans [B].

    Args:
        y: measurements [B, ...]; images with NaN or infinity are passed over.
        sigma: noise deviations [B].
        reach: R, the largest norm of A x [B].
        top: p, the greatest entry of A x; None if not known.
        seen: booleans as y or one image's, where something was observed; None for everywhere.
    """
    parts = parts_of(y)
    if len(parts) == 1:
        return _too_large(y, sigma, reach, top, seen)
    sigma, reach = sigma.expand(len(y)), reach.expand(len(y))
    return torch.cat(
        [_too_large(y[part], sigma[part], reach[part], top, _of(seen, y, part)) for part in parts]
    )


def _too_large(
    y: Tensor, sigma: Tensor, reach: Tensor, top: float | None, seen: Tensor | None
) -> Tensor:
    rows, observed = _observed(y, seen)
    sigma, entries = sigma.double(), observed.flatten(1).sum(dim=1)
    power = rows.flatten(1).square().sum(dim=1)
    noise = (MISTAKEN * sigma).square() * (entries + 10 * entries.sqrt() + 50)
    limit = (BEYOND * reach.double() + 7 * MISTAKEN * sigma).square() + noise
    bad = power > limit
    if top is not None:
        mean = rows.flatten(1).sum(dim=1) / entries
        bad = bad | (mean > BEYOND * top + 7 * MISTAKEN * sigma / entries.sqrt())
    return bad


def least(row_sums: tuple[float, float]) -> float:
    """The mean below which pixels without noise are too low, of the row sums of A."""
    positive, negative = row_sums
    return -(negative + DEPTH * positive)


def check_sign(
    y: Tensor,
    sigma: Tensor,
    row_sums: tuple[float, float],
    seen: Tensor | None,
    finite: bool = False,
) -> None:
    """Raise ValueError where y is ``too_low``."""
    bad = too_low(y, sigma, row_sums, seen, finite=finite)
    if bad is None:
        return
    advice = "bring [-1, 1] into it by (y + 1) / 2, with sigma / 2, or add what was taken"
    _refuse(y, seen, bad, advice)


def too_low(
    y: Tensor,
    sigma: Tensor,
    row_sums: tuple[float, float],
    seen: Tensor | None,
    asks: bool = True,
    finite: bool = False,
) -> Tensor | None:
    """Where pixels are negative; booleans [B], or None for nowhere.

    Args:
        y: measurements [B, C, H, W]; images with NaN or infinity are passed over.
        sigma: noise deviations [B].
        row_sums: greatest sum of the positive, and of the negative entries of a row of A.
        seen: as in ``too_large``.
        asks: whether the device may be asked if there is anything to look at.
        finite: whether all of y is known to be; where all of it was observed as well nothing needs
            to be counted.
    """
    parts = parts_of(y)
    if len(parts) == 1:
        return _too_low(y, sigma, row_sums, seen, asks, finite)
    sigma = sigma.expand(len(y))
    found = [
        _too_low(y[part], sigma[part], row_sums, _of(seen, y, part), asks, finite) for part in parts
    ]
    if all(bad is None for bad in found):
        return None
    whole = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    for part, bad in zip(parts, found, strict=True):
        if bad is not None:
            whole[part] = bad
    return whole


def _too_low(
    y: Tensor,
    sigma: Tensor,
    row_sums: tuple[float, float],
    seen: Tensor | None,
    asks: bool,
    finite: bool,
) -> Tensor | None:
    height, width = y.shape[-2:]
    whole = finite and seen is None
    rows, observed = (y.double(), None) if whole else _observed(y, seen)
    bad: Tensor | None = None
    for size in ((min(BLOCK, height), min(BLOCK, width)), (height, width)):
        share = None if observed is None else _windows(observed, size)
        mean = _mean(_windows(rows, size), share)
        if asks and float(mean.min()) >= least(row_sums):
            continue
        square = _mean(_windows(rows.square(), size), share)
        spread = (square - mean.square()).clamp_min(0).sqrt()
        deviation = torch.maximum(sigma.double().reshape(-1, 1, 1, 1), spread)
        count = (torch.ones_like(mean) if share is None else share) * size[0] * size[1]
        lowest = least(row_sums) - 8 * deviation / count.clamp_min(1).sqrt()
        low = ((count > FEWEST - 0.5) & (mean < lowest)).flatten(1).any(dim=1)
        bad = low if bad is None else bad | low
    return bad


def _of(seen: Tensor | None, y: Tensor, part: slice) -> Tensor | None:
    """Of what was observed, what belongs to a part of the images."""
    each = seen is not None and seen.dim() == y.dim() and len(seen) == len(y)
    return seen[part] if each else seen  # type: ignore[index]


def _windows(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Means of windows [height, width] half a window apart, of images [B, C, H, W].

    What ``avg_pool2d`` gives, which wakes all threads of a CPU for the smallest of images.
    """
    for side in size:
        # Of height, which comes last then, and of width.
        images = images.unfold(-2, side, max(1, side // 2))
    return images.mean(dim=(-2, -1))


def _mean(total: Tensor, share: Tensor | None) -> Tensor:
    """Means over what was observed, of means over all; a share of None is all of it."""
    return total if share is None else total / share.clamp_min(1e-12)


def _observed(y: Tensor, seen: Tensor | None) -> tuple[Tensor, Tensor]:
    """Y, 0 where nothing was observed or an image is not finite, and 1 where it was; float64."""
    finite = torch.isfinite(y.flatten(1)).all(dim=1).reshape(-1, *[1] * (y.dim() - 1))
    observed = finite.expand_as(y) if seen is None else finite & seen
    return torch.where(observed, y, 0).double(), observed.double()


def _refuse(y: Tensor, seen: Tensor | None, bad: Tensor, advice: str) -> None:
    if bool(bad.any()):
        image = int(bad.nonzero()[0])
        part = slice(image, image + 1)
        row = _observed(y[part], _of(seen, y, part))[0]
        low, high = row.min(), row.max()
        raise ValueError(
            "y: expected measurements of images with pixel values in [0, 1], got values from "
            f"{float(low):g} to {float(high):g} in image {image}; {advice}"
        )
