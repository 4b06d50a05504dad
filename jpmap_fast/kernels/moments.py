"""Sums of weighted rows and of their squares."""

from __future__ import annotations

import torch
from torch import Tensor

from jpmap_fast.kernels import reference_mixtures as reference
from jpmap_fast.kernels._extension import cuda_kernels_loaded

_ops = torch.ops.jpmap


def weighted_moments(
    values: Tensor,  # [B, N, n]
    weights: Tensor,  # [B, N]
) -> Tensor:
    """sum_i w_i v_i and sum_i w_i v_i^2 of each image, float64 [B, 2, n].

    A row of weight 0 has no part, whatever stands in it. Compiled for both devices, in one pass
    over the rows; without compiled modules of a GPU by the twin in plain torch of
    ``reference_mixtures``. An image has the same bits alone and in any batch.

    Args:
        values: v_i, float32 or float64.
        weights: w_i, float64.

    Raises:
        RuntimeError: shapes, types or layouts do not fit.
    """
    if values.device.type != "cpu" and not cuda_kernels_loaded():
        return reference.weighted_moments(values, weights)
    found: Tensor = _ops.weighted_moments(values.contiguous(), weights.contiguous())
    return found


@torch.library.register_fake("jpmap::weighted_moments")
def _(values, weights):  # type: ignore[no-untyped-def]
    return values.new_empty(values.shape[0], 2, values.shape[2], dtype=torch.float64)
