"""A first image of measurements, where no prior has spoken yet."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from jpmap_fast.operators import Denoising
from jpmap_fast.operators.bound import BoundOperator

# Weight of what the next coarser level says, beside a pixel that is seen as often as any.
_COARSER = 0.02
_GREY = 0.5


def first_guess(operator: BoundOperator, y: Tensor) -> Tensor:
    r"""Images [B, C, H, W] from a weighted mean of what was measured about each place.

    With b = A^T y and w = A^T A 1, an image that is constant where A looks is b / w. Over a pyramid
    of halved resolutions, from its top down, every pixel is

        (b + c v) / (w + c),    c = 0.02 max w,

    v being the level above, so that what was not observed is filled from around. For an A with
    negative weights, such as a random matrix, grey; for ``Denoising`` y itself.

    Args:
        operator: A.
        y: measurements [B, ...].
    """
    b = operator.A_adjoint(y)
    if isinstance(operator.operator, Denoising):
        return b
    w = operator.A_adjoint(operator.A(torch.ones_like(b)))
    top = w.amax(dim=(1, 2, 3), keepdim=True)
    positive = w.amin(dim=(1, 2, 3), keepdim=True) > -1e-3 * top
    levels = [(b, w)]
    while max(b.shape[-2:]) > 1:
        b, w = (F.avg_pool2d(v, 2, 2, ceil_mode=True, count_include_pad=False) for v in (b, w))
        levels.append((b, w))
    tiny = torch.finfo(y.dtype).tiny
    b, w = levels.pop()
    guess = b / w.clamp_min(tiny)
    for b, w in reversed(levels):
        finer = F.interpolate(guess, size=b.shape[-2:], mode="bilinear", align_corners=False)
        share = _COARSER * top
        guess = (b + share * finer) / (w + share).clamp_min(tiny)
    return torch.where(positive, guess.clamp(-1, 2), _GREY)
