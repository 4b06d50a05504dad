"""How much noise measurements have, told by themselves."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from jpmap_fast._surroundings import full_precision, steady
from jpmap_fast._validate import as_float_tensor
from jpmap_fast.operators import Blur, Denoising, Inpainting, Operator, SuperResolution
from jpmap_fast.operators.bound import unbound

# The noise that rounding to 8 bits may leave unseen, and the fewest details that tell a level.
LEAST_LEVEL, FEWEST_DETAILS = 0.5 / 255, 200
# Every second shift is enough of a picture with sides as long as this.
LONG = 64
# The median of |n| of standard normal n.
_QUARTILE = 0.6744897501960817
# The high-pass filter of Daubechies' wavelet with two vanishing moments.
_ROOT = math.sqrt(3.0)
_HIGH = tuple(v / (4 * math.sqrt(2.0)) for v in (1 - _ROOT, _ROOT - 3, 3 + _ROOT, -1 - _ROOT))


@steady
@torch.no_grad()
def estimate_sigma(y: Any, operator: Operator) -> Tensor:
    r"""The noise level of measurements, of each image by itself:

        sigma = median |d| / 0.6745,

    d the finest diagonal wavelet details of y, in which a picture has next to nothing and white
    noise its whole deviation. Details that are 0, as where a picture is over-exposed, are left out,
    unless they are the most. What fine texture adds is taken for noise, so that of a clean
    photograph some is found, and more of one that was reduced.

    Args:
        y: measurements [B, C, H, W] or [C, H, W] of pictures with values in [0, 1], with white
            noise of one level in all of a picture.
        operator: ``Denoising``, ``Blur``, ``SuperResolution`` or ``Inpainting``, of which only
            details count with all of their 4 x 4 pixels observed.

    Returns:
        Standard deviations [B], or [] of one picture, in the precision of y; at least 0.5/255,
        which is also that of measurements without noise or with NaN.

    Raises:
        ValueError: another operator, measurements that are no pictures, or fewer than 200 details.
        TypeError: integers, or no numbers.

    Example:
        >>> import torch, jpmap_fast as jf
        >>> noise = 0.1 * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
        >>> round(jf.estimate_sigma(0.5 + noise, jf.Denoising()).item(), 2)
        0.1

    Source: D. Donoho, I. Johnstone, "Ideal spatial adaptation by wavelet shrinkage", Biometrika 81,
    1994; details that are 0 are left out as in scikit-image's ``estimate_sigma``.
    """
    operator, y = unbound(operator), as_float_tensor("y", y)
    if not isinstance(operator, (Denoising, Inpainting, Blur, SuperResolution)):
        raise ValueError(
            "sigma: expected a number for measurements that are no pictures with white noise; it "
            "is estimated for Denoising, Inpainting, Blur and SuperResolution, got "
            f"{type(operator).__name__}"
        )
    if y.dim() not in (3, 4):
        raise ValueError(f"y: expected pictures [B, C, H, W] or [C, H, W], got {list(y.shape)}")
    pictures = y if y.dim() == 4 else y[None]
    seen = operator._seen()
    if seen is not None:
        try:
            seen = seen.expand_as(pictures)
        except RuntimeError:
            raise ValueError(
                f"y: expected pictures that {operator!r} fits, got {list(y.shape)}"
            ) from None
    with full_precision():
        levels = [
            _level(picture, None if seen is None else seen[row])
            for row, picture in enumerate(pictures)
        ]
    found = torch.stack(levels) if levels else y.new_zeros(0)
    return found if y.dim() == 4 else found[0]


def _level(picture: Tensor, seen: Tensor | None) -> Tensor:
    """Of one picture [C, H, W], observed where ``seen``."""
    if min(picture.shape[1:]) < len(_HIGH):
        _refuse(0)
    if seen is not None:
        picture = torch.where(seen, picture, 0)
    high = picture.new_tensor(_HIGH)
    step = 2 if seen is None and min(picture.shape[1:]) >= LONG else 1
    filters = torch.outer(high, high)[None, None]
    details = F.conv2d(picture[:, None], filters, stride=step).abs().flatten()
    if seen is not None:
        whole = F.avg_pool2d(seen[:, None].to(picture.dtype), len(_HIGH), stride=step) == 1
        details = details[whole.flatten()]
    if details.numel() < FEWEST_DETAILS:
        _refuse(details.numel())
    # A constant gives no more than the rounding of its values.
    rounding = 4 * torch.finfo(picture.dtype).eps * picture.abs().amax()
    noisy = details[(details > rounding) & (details < torch.inf)]
    least = picture.new_tensor(LEAST_LEVEL)
    if 2 * noisy.numel() <= details.numel():
        return least
    return (noisy.median() / _QUARTILE).clamp_min(least)


def _refuse(count: int) -> None:
    raise ValueError(
        f"sigma: expected a number, since it is estimated from at least {FEWEST_DETAILS} blocks of "
        f"4 x 4 observed pixels a picture, got {count} of them"
    )
