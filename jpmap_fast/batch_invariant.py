"""Matrix products whose rows do not depend on how many rows there are.

A BLAS library picks its kernel by the shape of the product, and another kernel sums in another
order: an image restored alone would differ in its last bits from the same image in a batch, and
its trajectory with it. On the CPU the row count is therefore padded to a multiple of the widest
register tile, which keeps every row in the library's main kernel. Weights are to be contiguous:
for a transposed view the library takes kernels in which padding is not enough.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

ROW_TILE = 8


def linear_rows(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """X W^T + b for x [..., in], W [out, in], b [out]: [..., out]."""
    flat = x.reshape(-1, x.shape[-1])
    rows = flat.shape[0]
    missing = -rows % ROW_TILE
    if missing and x.device.type == "cpu":
        flat = F.pad(flat, (0, 0, 0, missing))
    return F.linear(flat, weight, bias)[:rows].reshape(*x.shape[:-1], weight.shape[0])


def batched_product(left: Tensor, right: Tensor) -> Tensor:
    """Left [B, i, j] times right [B, j, l]; a batch of one takes the batched kernel as well."""
    if left.shape[0] == 1 and left.device.type == "cpu":
        return torch.bmm(left.expand(2, -1, -1), right.expand(2, -1, -1))[:1]
    return torch.bmm(left, right)
