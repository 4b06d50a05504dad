"""The compiled pass of a decoder's tangents through an activation (CUDA, bfloat16)."""

from __future__ import annotations

import torch
from torch import Tensor

from jpmap_fast.kernels._extension import cuda_kernels_loaded
from jpmap_fast.kernels.activations import ACTIVATION_CODES

MAX_TANGENTS = 128
SPLIT = 1024  # elements of a row that add to one slot of the curvature


def supported(t: Tensor, before: Tensor) -> bool:
    """Whether ``tangent_activation`` takes tangents [.., k, ...] of pre-activations [B, ...].

    Rows of numbers [B, n] and images [B, C, H, W] have a layout that it knows.
    """
    return (
        t.is_cuda
        and (t.dtype, before.dtype) == (torch.bfloat16, torch.float32)
        and t.dim() == before.dim() + 1
        and before.dim() in (2, 4)
        and t.shape[1] <= MAX_TANGENTS
        and before.shape[1] % 8 == 0
        and before[0].numel() % 64 == 0
        and cuda_kernels_loaded()
    )


def tangent_activation(
    t: Tensor,  # [B or 1, k, n]
    add: Tensor | None,  # [B or 1, k, n]
    before: Tensor,  # [B, C, S]
    after: Tensor,  # [B, C, S]
    cotangent: Tensor | None,  # [B, C, S]
    curvature: Tensor | None,  # [B, slots, k, k]
    activation: str,
    width: int = 1,
    t_shuffled: bool = False,
    add_shuffled: bool = False,
) -> Tensor:
    r"""The k tangents of every image through h = f(a), and the activation's part of the curvature.

        u = t + add,    out = u f'(a),    sum over slots of curvature += u diag(c f''(a)) u^T

    Args:
        t: tangents of a, bfloat16, n = S C numbers a row with the C channels innermost; a leading 1
            stands for tangents that all images share.
        add: a second summand of them (the way around a residual block), or None.
        before, after: a and h, float32, channels outermost.
        cotangent: c, the derivative of the function of interest by h, or None.
        curvature: float32, added to in place, or None; at least n / ``SPLIT`` slots.
        activation: a name out of ``activations.ACTIVATIONS``.
        width: columns of the image, where something is shuffled.
        t_shuffled, add_shuffled: rows lie as before a pixel shuffle by two: [H/2, W/2, (2, 2, C)].

    Returns:
        [B, k, n] bfloat16.

    Raises:
        RuntimeError: shapes, types or devices do not fit; CUDA only.
    """
    out: Tensor = torch.ops.jpmap.tangent_activation(
        t,
        add,
        before,
        after,
        cotangent,
        curvature,
        ACTIVATION_CODES[activation],
        width,
        t_shuffled,
        add_shuffled,
    )
    return out


@torch.library.register_fake("jpmap::tangent_activation")
def _(
    t: Tensor,
    add: Tensor | None,
    before: Tensor,
    after: Tensor,
    cotangent: Tensor | None,
    curvature: Tensor | None,
    activation: int,
    width: int,
    t_shuffled: bool,
    add_shuffled: bool,
) -> Tensor:
    return t.new_empty(before.shape[0], t.shape[1], t.shape[2])
